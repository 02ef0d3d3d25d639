//! The way from a registry's files to engines that are verified and warm.

mod activity;
mod backend;
mod engine_cache;
mod golden;
mod load;
mod loader;
mod provider_chain;
mod resolve;
mod sessions;
mod shared;
mod source;
mod warm_up;
mod weights;

pub use activity::{Activities, Activity};
pub use backend::{Backend, OnnxRuntime};
pub use embed_registry::{Registry, RegistryError};
pub use engine_cache::EngineCache;
pub use golden::{GoldenError, verify_golden};
pub use load::{DeviceBounds, Files, LoadContext, LoadError, LoadReport, LoadedModel, prepare};
pub use loader::Loader;
pub use provider_chain::{ProviderGraph, Skipped, form};
pub use resolve::{ResolveError, ResolvedModel, graphs, previous_of_current, resolve};
pub use shared::SharedModels;
pub use source::Source;
pub use weights::Weights;
