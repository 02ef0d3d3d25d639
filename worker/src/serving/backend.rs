//! What makes versions ready: ONNX Runtime, or in tests a device that does as it is told.

use std::{fmt::Debug, path::PathBuf};

use super::Activity;
use crate::{
    config::{Config, Devices, EngineConfig, Provider},
    engine::{EngineError, Place, library, providers},
    model::{self, EngineCache, Files, Link, LoadError, LoadedVersion, Selected, Setup, Shelf, engine_cache},
};

/// Makes versions ready. Both functions may take long, and are called on threads of their own.
pub trait Backend: Debug + Send + Sync {
    /// Whether a provider can be used here at all.
    ///
    /// # Errors
    /// Why not: [`EngineError::Provider`].
    fn probe(&self, provider: Provider) -> Result<(), LoadError>;

    /// Where engines that [`Backend::prepare`] builds are kept. What others have built is put there before, and what is new there
    /// is shared afterwards.
    fn engine_caches(&self, selected: &Selected, link: &Link) -> Vec<EngineCache> {
        let _ = (selected, link);
        Vec::new()
    }

    /// From files to engines that are verified and warm. `activity` hears what is being done.
    ///
    /// # Errors
    /// At the first step that fails.
    fn prepare(
        &self,
        files: &Files,
        selected: &Selected,
        link: &Link,
        activity: &Activity,
    ) -> Result<LoadedVersion, LoadError>;
}

/// ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime {
    engine: EngineConfig,
    max_text_bytes: usize,
    engines_dir: Option<PathBuf>,
    shelf: Shelf,
}

impl OnnxRuntime {
    /// ONNX Runtime as it is configured. It is opened when it is first used.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (engine, max_text_bytes) = (config.engine.clone(), config.tokenize.max_text_bytes);
        let engines_dir = engine_cache::engines_dir(config);
        Self { engine, max_text_bytes, engines_dir, shelf: Shelf::default() }
    }
}

impl Backend for OnnxRuntime {
    fn probe(&self, provider: Provider) -> Result<(), LoadError> {
        if !provider.on_device() {
            return Ok(());
        }
        let environment = library::environment(self.engine.library.as_deref()).map_err(EngineError::from)?;
        let place = Place { provider, device: 0 };
        let failed = |reason| EngineError::Provider { provider: provider.as_str(), reason };
        Ok(providers::probe(&environment, &self.engine, place).map_err(failed)?)
    }

    fn engine_caches(&self, selected: &Selected, link: &Link) -> Vec<EngineCache> {
        // The devices of one machine are of one kind, as far as anybody has asked for.
        let device = match &self.engine.devices {
            Devices::These(devices) => devices[0],
            Devices::All(_) => 0,
        };
        engine_cache::engine_caches(selected, link, &self.engine, self.engines_dir.as_deref(), device)
    }

    fn prepare(
        &self,
        files: &Files,
        selected: &Selected,
        link: &Link,
        activity: &Activity,
    ) -> Result<LoadedVersion, LoadError> {
        let setup = Setup {
            config: &self.engine,
            max_text_bytes: self.max_text_bytes,
            engines: &self.engine_caches(selected, link),
            shelf: &self.shelf,
            activity,
        };
        model::prepare(files, selected, link, &setup)
    }
}
