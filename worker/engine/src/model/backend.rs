//! What makes versions ready: ONNX Runtime, or in tests a device that does as it is told.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
};

use super::{
    activity::Activity,
    engine_cache::{self, EngineCache},
    files::Files,
    load::prepare,
    loaded::{LoadContext, LoadError, LoadedModel},
    provider_chain::ProviderGraph,
    resolve::ResolvedModel,
    shared::SharedModels,
};
use crate::{
    engine::{self, EngineError, Place, library, providers},
    settings::{Devices, EngineConfig, Provider},
    threads::be_ordinary,
};

/// Makes versions ready. Both functions may take long, and are called on threads of their own.
pub trait Backend: Debug + Send + Sync {
    /// Whether a provider can be used here at all.
    ///
    /// # Errors
    /// Why not: [`EngineError::Provider`].
    fn probe(&self, provider: Provider) -> Result<(), LoadError>;

    /// By how much the priority of the threads is lowered that compute on the processor.
    fn nice(&self) -> u8 {
        0
    }

    /// Where engines that [`Backend::prepare`] builds are kept. What others have built is put there before, and what is new there
    /// is shared afterwards.
    fn engine_caches(&self, model: &ResolvedModel, target: &ProviderGraph) -> Vec<EngineCache> {
        let _ = (model, target);
        Vec::new()
    }

    /// From files to engines that are verified and warm. `activity` hears what is being done.
    ///
    /// # Errors
    /// At the first step that fails.
    fn prepare(
        &self,
        files: &Files,
        model: &ResolvedModel,
        target: &ProviderGraph,
        activity: &Activity,
    ) -> Result<LoadedModel, LoadError>;
}

/// ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime {
    engine: EngineConfig,
    max_text_bytes: usize,
    engines_dir: Option<PathBuf>,
    shared: SharedModels,
}

impl OnnxRuntime {
    /// ONNX Runtime with these settings, for texts of at most `max_text_bytes`. It is opened when it is first used. What TensorRT
    /// builds is kept in `cache_dir`, unless the settings say otherwise.
    #[must_use]
    pub fn new(engine: EngineConfig, max_text_bytes: usize, cache_dir: &Path) -> Self {
        be_ordinary();
        let engines_dir = engine_cache::engines_dir(&engine.tensorrt, cache_dir);
        Self { engine, max_text_bytes, engines_dir, shared: SharedModels::default() }
    }
}

impl Backend for OnnxRuntime {
    fn probe(&self, provider: Provider) -> Result<(), LoadError> {
        let failed = |reason| EngineError::Provider { provider: provider.as_str(), reason };
        match provider {
            Provider::Cpu => return Ok(()),
            Provider::Openvino => return Ok(engine::probe_openvino(&self.engine).map_err(failed)?),
            _ => {}
        }
        let environment = library::environment(self.engine.library.as_deref()).map_err(EngineError::from)?;
        let place = Place { provider, device: 0 };
        Ok(providers::probe(&environment, &self.engine, place).map_err(failed)?)
    }

    fn nice(&self) -> u8 {
        self.engine.nice
    }

    fn engine_caches(&self, model: &ResolvedModel, target: &ProviderGraph) -> Vec<EngineCache> {
        // The devices of one machine are of one kind, as far as anybody has asked for.
        let device = match &self.engine.devices {
            Devices::These(devices) => devices[0],
            Devices::All(_) => 0,
        };
        engine_cache::engine_caches(model, target, &self.engine, self.engines_dir.as_deref(), device)
    }

    fn prepare(
        &self,
        files: &Files,
        model: &ResolvedModel,
        target: &ProviderGraph,
        activity: &Activity,
    ) -> Result<LoadedModel, LoadError> {
        let context = LoadContext {
            config: &self.engine,
            max_text_bytes: self.max_text_bytes,
            engines: &self.engine_caches(model, target),
            shared: &self.shared,
            activity,
        };
        prepare(files, model, target, &context)
    }
}
