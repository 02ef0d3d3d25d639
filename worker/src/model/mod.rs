//! Models: the way from a registry's files to a served variant.

mod golden;
mod select;
mod version;

pub use embed_registry::{Registry, RegistryError};
pub use golden::{GoldenError, verify_golden};
pub use select::{SelectError, Selected, select};
pub use version::{LoadError, LoadedVersion, load};
