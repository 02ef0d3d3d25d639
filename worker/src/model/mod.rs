//! Models: the way from a registry's files to a served variant.

mod golden;
mod select;
mod shelf;
mod source;
mod version;

pub use embed_registry::{Registry, RegistryError};
pub use golden::{GoldenError, verify_golden};
pub use select::{SelectError, Selected, previous_of_current, resolve, select};
pub use shelf::Shelf;
pub use source::Source;
pub use version::{Files, LoadError, LoadedVersion, prepare};
