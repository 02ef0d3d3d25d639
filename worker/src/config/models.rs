//! What is served, and what of it is loaded.

use std::{env, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use embed_schemas::Precision;
use serde::{Deserialize, Serialize};

use embed_engine::settings::{CURRENT, EngineConfig, ModelSpec, Provider, Providers};

use super::LimitsConfig;

/// One variant of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantConfig {
    /// The model's name or slug.
    pub model: String,
    /// The variant's name. The precision's name if left out.
    #[serde(default)]
    pub name: Option<String>,
    /// A version of the registry, or `current`.
    #[serde(default = "current")]
    pub version: String,
    /// The precision. The model's first artefact if left out.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// Whether this is the variant that answers on subjects that name none. Exactly one variant of a model is.
    /// Left out: the only variant of the model, or else the first.
    #[serde(default)]
    pub default: Option<bool>,
    /// Execution providers to try, in this order, or `auto`. As `engine.providers` says if left out.
    #[serde(default)]
    pub providers: Option<Providers>,
    /// Whether falling back to another provider than the first is an error. As `engine.strict` says if left out.
    #[serde(default)]
    pub strict: Option<bool>,
    /// Whether it stays loaded, whatever else `models.memory_budget` has to hold.
    #[serde(default)]
    pub pinned: bool,
    /// Batches that run at the same time; on devices, on each of them. 0: as `engine.runners` or `engine.device.runners` says.
    #[serde(default)]
    pub instances: usize,
    /// What differs from `[limits]` for this variant.
    #[serde(default)]
    pub limits: VariantLimits,
}

impl VariantConfig {
    /// The current version of a model, with nothing else said.
    #[must_use]
    pub fn of(model: String) -> Self {
        Self {
            model,
            name: None,
            version: current(),
            precision: None,
            default: None,
            providers: None,
            strict: None,
            pinned: false,
            instances: 0,
            limits: VariantLimits::default(),
        }
    }

    /// The execution providers to try, in this order. A chain that may not fall back has one.
    #[must_use]
    pub fn chain<'a>(&'a self, engine: &'a EngineConfig) -> &'a [Provider] {
        let chain = self.providers.as_ref().unwrap_or(&engine.providers);
        if self.strict.unwrap_or(engine.strict) { chain.strictly() } else { chain }
    }

    /// Whether the fastest of them is taken instead of the first.
    #[must_use]
    pub fn measures(&self, engine: &EngineConfig) -> bool {
        self.providers.as_ref().unwrap_or(&engine.providers).measures()
    }

    /// What of it concerns the engine.
    #[must_use]
    pub fn spec(&self) -> ModelSpec {
        ModelSpec {
            model: self.model.clone(),
            variant: self.name.clone(),
            version: self.version.clone(),
            precision: self.precision,
            providers: self.providers.clone(),
            strict: self.strict,
            instances: self.instances,
        }
    }
}

/// Limits of one variant; what is left out is as in `[limits]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VariantLimits {
    /// As [`LimitsConfig::rpc_texts`].
    pub rpc_texts: Option<usize>,
    /// As [`LimitsConfig::rpc_max_wait`].
    #[serde(with = "humantime_serde")]
    pub rpc_max_wait: Option<Duration>,
    /// As [`LimitsConfig::job_texts`].
    pub job_texts: Option<usize>,
    /// As [`LimitsConfig::bulk_texts`].
    pub bulk_texts: Option<usize>,
    /// As [`LimitsConfig::rpc_bytes`].
    pub rpc_bytes: Option<ByteSize>,
    /// As [`LimitsConfig::job_bytes`].
    pub job_bytes: Option<ByteSize>,
    /// As [`LimitsConfig::bulk_bytes`].
    pub bulk_bytes: Option<ByteSize>,
    /// As [`LimitsConfig::call_tokens`].
    pub call_tokens: Option<usize>,
    /// As [`LimitsConfig::job_lookahead`].
    pub job_lookahead: Option<usize>,
    /// As [`LimitsConfig::max_deliveries`].
    pub max_deliveries: Option<u64>,
}

impl VariantLimits {
    /// These limits, and the worker's for what is left out.
    #[must_use]
    pub fn over(&self, all: &LimitsConfig) -> LimitsConfig {
        LimitsConfig {
            rpc_texts: self.rpc_texts.unwrap_or(all.rpc_texts),
            rpc_max_wait: self.rpc_max_wait.unwrap_or(all.rpc_max_wait),
            job_texts: self.job_texts.unwrap_or(all.job_texts),
            bulk_texts: self.bulk_texts.unwrap_or(all.bulk_texts),
            rpc_bytes: self.rpc_bytes.unwrap_or(all.rpc_bytes),
            job_bytes: self.job_bytes.unwrap_or(all.job_bytes),
            bulk_bytes: self.bulk_bytes.unwrap_or(all.bulk_bytes),
            call_tokens: self.call_tokens.unwrap_or(all.call_tokens),
            sender_header: all.sender_header.clone(),
            job_lookahead: self.job_lookahead.unwrap_or(all.job_lookahead),
            max_deliveries: self.max_deliveries.unwrap_or(all.max_deliveries),
        }
    }
}

fn current() -> String {
    CURRENT.to_owned()
}

/// Which versions are loaded, see [`crate::serving`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Most bytes of weights that are loaded, such as `2 GiB`, every copy on devices counted. Beyond it, variants that are not
    /// pinned are loaded when they are asked for, and the least recently used make room. No bound if left out: everything is
    /// loaded at start.
    pub memory_budget: Option<ByteSize>,
    /// Where copies of the registry's files are kept, shared by the workers of one machine. A registry that is a folder needs
    /// none. Left out: `akidb-embed` in the user's folder for caches (`$XDG_CACHE_HOME`, or `~/.cache`).
    pub cache_dir: Option<PathBuf>,
    /// Most bytes of copies. Beyond it, those go that were used the longest ago and that nobody uses.
    pub cache_size: ByteSize,
    /// How long the version before is kept loaded after a swap, so that going back takes no time.
    #[serde(with = "humantime_serde")]
    pub keep_previous: Duration,
    /// With a memory budget, a variant stays loaded for at least so long, so that two that do not fit side by side make way for each other
    /// at a pace at which both get something done.
    #[serde(with = "humantime_serde")]
    pub stay_loaded: Duration,
    /// How often to look whether the registry's pointers have moved, besides being told.
    #[serde(with = "humantime_serde")]
    pub refresh: Duration,
}

impl ModelsConfig {
    /// The folder for copies of the registry's files.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user = || set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
        self.cache_dir.clone().unwrap_or_else(|| user().unwrap_or_else(env::temp_dir).join("akidb-embed"))
    }
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            memory_budget: None,
            cache_dir: None,
            cache_size: ByteSize::gib(20),
            keep_previous: Duration::from_secs(600),
            stay_loaded: Duration::from_secs(10),
            refresh: Duration::from_secs(30),
        }
    }
}
