//! Models: the registry, integrity, and the way from files to a served variant.

mod golden;
mod integrity;
mod registry;
mod select;
mod version;

pub use golden::{GoldenError, verify_golden};
pub use integrity::{IntegrityError, verify};
pub use registry::{Registry, RegistryError};
pub use select::{SelectError, Selected, select};
pub use version::{LoadError, LoadedVersion, load};
