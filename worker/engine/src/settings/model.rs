//! Which version of which model to load, and on what.

use embed_schemas::Precision;

use super::{chain::Providers, inference::EngineConfig, provider::Provider};

/// The version that a model's pointer in the registry names.
pub const CURRENT: &str = embed_schemas::serving::CURRENT_VERSION;

/// What to load.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The model's name or slug.
    pub model: String,
    /// What it is called where several versions or precisions are loaded: its variant. The precision's name if left out.
    pub variant: Option<String>,
    /// A version of the registry, or [`CURRENT`].
    pub version: String,
    /// The precision. The model's first artefact if left out.
    pub precision: Option<Precision>,
    /// Execution providers to try. As [`EngineConfig::providers`] says if left out.
    pub providers: Option<Providers>,
    /// Whether falling back to another provider than the first is an error. As [`EngineConfig::strict`] says if left out.
    pub strict: Option<bool>,
    /// Batches that run at the same time; on devices, on each of them. 0: as [`EngineConfig::runners`] or
    /// [`super::inference::DeviceConfig::runners`] says.
    pub instances: usize,
}

impl ModelSpec {
    /// The current version of a model, with nothing else said.
    #[must_use]
    pub fn current(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            variant: None,
            version: CURRENT.to_owned(),
            precision: None,
            providers: None,
            strict: None,
            instances: 0,
        }
    }

    /// The execution providers to try, in this order. A chain that may not fall back has one.
    #[must_use]
    pub fn chain<'a>(&'a self, engine: &'a EngineConfig) -> &'a [Provider] {
        let chain = self.providers(engine);
        if self.strict.unwrap_or(engine.strict) { chain.strictly() } else { chain }
    }

    /// Whether the fastest provider of the chain is to be taken instead of the first.
    #[must_use]
    pub fn measures(&self, engine: &EngineConfig) -> bool {
        self.providers(engine).measures()
    }

    fn providers<'a>(&'a self, engine: &'a EngineConfig) -> &'a Providers {
        self.providers.as_ref().unwrap_or(&engine.providers)
    }
}
