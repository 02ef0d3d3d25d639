//! What a bench reads from the environment: what an `embed-worker` would run with, as far as it matters to engines.

use std::{env, path::PathBuf};

use anyhow::Context;
use bytesize::ByteSize;
use embed_engine::{
    model::Source,
    settings::{BatchConfig, EngineConfig, TokenizeConfig},
};
use figment::{
    Figment,
    providers::{Env, Serialized},
};
use serde::{Deserialize, Serialize};

/// As the worker's: `EMBED_WORKER__SECTION__KEY`.
const ENV_PREFIX: &str = "EMBED_WORKER__";

/// Texts of backfills that wait in a worker, if nothing is said: on the CPU, and on devices.
const WINDOW: (usize, usize) = (1024, 16_384);

/// What the environment says. Sections of the worker's that are not here are left alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Where models come from.
    pub(super) registry: Option<String>,
    /// Inference.
    pub(crate) engine: EngineConfig,
    /// Batching.
    pub(super) batch: BatchConfig,
    /// Tokenizing.
    pub(super) tokenize: TokenizeConfig,
    /// How much waits.
    pub(super) limits: Limits,
    /// Copies of the registry's files.
    models: Cache,
}

/// How much waits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    /// Texts of backfills. 0: as a worker has it.
    pub(super) bulk_texts: usize,
}

impl Limits {
    /// Texts that wait in the planner.
    pub(super) const fn window(&self, on_device: bool) -> usize {
        match (self.bulk_texts, on_device) {
            (0, false) => WINDOW.0,
            (0, true) => WINDOW.1,
            (said, _) => said,
        }
    }
}

/// Copies of the registry's files, and engines that TensorRT has built.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Cache {
    cache_dir: Option<PathBuf>,
    cache_size: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { cache_dir: None, cache_size: ByteSize::gib(20) }
    }
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// If a key of these sections is unknown, or a value does not fit.
    pub(super) fn load() -> anyhow::Result<Self> {
        let defaults = Figment::from(Serialized::defaults(Self::default()));
        let settings: Self = defaults.merge(Env::prefixed(ENV_PREFIX).split("__")).extract().context("environment")?;
        settings.engine.validate().map_err(anyhow::Error::msg)?;
        Ok(settings)
    }

    /// Where copies are kept: where a worker keeps them.
    pub(super) fn cache_dir(&self) -> PathBuf {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        self.models.cache_dir.clone().unwrap_or_else(|| user().unwrap_or_else(env::temp_dir).join("akidb-embed"))
    }

    /// The registry.
    ///
    /// # Errors
    /// If none is named, or it cannot be opened.
    pub(super) fn open_source(&self) -> anyhow::Result<Source> {
        let location = self.registry.as_deref().context("registry: not set; pass --registry, or set EMBED_REGISTRY")?;
        Ok(Source::open(location, self.cache_dir(), self.models.cache_size.as_u64())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_a_worker_has_it() {
        let limits = Limits::default();
        assert_eq!((limits.window(false), limits.window(true)), (1024, 16_384));
        assert_eq!(Limits { bulk_texts: 300 }.window(true), 300);
    }
}
