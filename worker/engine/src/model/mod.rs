//! The way from a registry's files to engines that are verified and warm.

mod activity;
mod backend;
mod engine_cache;
mod fastest;
mod files;
mod golden;
mod inspect;
mod load;
mod loaded;
mod loader;
mod provider_chain;
mod resolve;
mod sessions;
mod shared;
mod source;
mod stopwatch;
mod strict;
mod warm_up;
mod weights;

pub use activity::{Activities, Activity};
pub use backend::{Backend, OnnxRuntime};
pub use embed_registry::{Registry, RegistryError};
pub use engine_cache::EngineCache;
pub use files::Files;
pub use golden::{GoldenError, read_golden, verify_golden};
pub use inspect::inspect_version;
pub use load::prepare;
pub use loaded::{DeviceBounds, LoadContext, LoadError, LoadReport, LoadedModel};
pub use loader::Loader;
pub use provider_chain::{ProviderGraph, Skipped, artefacts_for};
pub use resolve::{ResolveError, ResolvedModel, graphs};
pub use shared::SharedModels;
pub use source::{Source, previous_of_current, resolve};
pub use weights::Weights;
