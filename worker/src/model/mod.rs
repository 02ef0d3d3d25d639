//! Models: the registry, integrity, and the way from files to a served variant.

mod golden;
mod integrity;
mod registry;
mod select;
mod shelf;
mod version;

pub use golden::{GoldenError, verify_golden};
pub use integrity::{IntegrityError, verify};
pub use registry::{Registry, RegistryError};
pub use select::{SelectError, Selected, previous_of_current, resolve, select};
pub use shelf::Shelf;
pub use version::{Files, LoadError, LoadedVersion, prepare};
