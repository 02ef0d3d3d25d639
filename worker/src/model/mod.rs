//! Models: the way from a registry's files to a served variant.

mod chain;
pub mod engine_cache;
mod golden;
mod select;
mod sessions;
mod shelf;
mod source;
mod version;
mod warm_up;
mod weights;

pub use chain::{Link, Skipped, form};
pub use embed_registry::{Registry, RegistryError};
pub use engine_cache::EngineCache;
pub use golden::{GoldenError, verify_golden};
pub use select::{SelectError, Selected, graphs, previous_of_current, resolve, select};
pub use shelf::Shelf;
pub use source::Source;
pub use version::{DeviceBounds, Files, LoadError, LoadedVersion, Running, Setup, prepare};
pub use weights::Weights;
