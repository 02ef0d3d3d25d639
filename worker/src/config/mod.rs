//! What can be configured, with the defaults. Where values come from is [`load`]'s business.

mod batch;
pub mod load;
mod models;
mod telemetry;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use batch::{BatchConfig, BatchPolicy, FixedConfig, TableConfig};
use embed_connect::ConnectSettings;
pub use models::{CURRENT, ModelsConfig, Provider, VariantConfig, VariantLimits};
use serde::{Deserialize, Serialize};
pub use telemetry::TelemetryConfig;

/// The worker's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where models come from: a path, `file://…`, `s3://bucket/prefix`, `gs://…` or `az://…`.
    pub registry: Option<String>,
    /// The NATS connection.
    pub nats: ConnectSettings,
    /// The process.
    pub worker: WorkerConfig,
    /// The HTTP endpoint for metrics and health.
    pub http: HttpConfig,
    /// Batching.
    pub batch: BatchConfig,
    /// Inference.
    pub engine: EngineConfig,
    /// Tokenizing.
    pub tokenize: TokenizeConfig,
    /// How much may be in the worker at once, and how often something is tried.
    pub limits: LimitsConfig,
    /// Which versions are loaded.
    pub models: ModelsConfig,
    /// What is measured beside the work.
    pub telemetry: TelemetryConfig,
    /// What to serve. Empty: every model of the registry, in its first artefact's precision.
    pub variant: Vec<VariantConfig>,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// This worker's id, unique among all workers. Made from the process if left out.
    pub id: Option<String>,
    /// How long to finish what was taken, after the order to stop.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How often each variant's statistics are published on `embed.stats.<model>.<variant>`.
    #[serde(with = "humantime_serde")]
    pub stats_window: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { id: None, drain_timeout: Duration::from_secs(25), stats_window: Duration::from_secs(5) }
    }
}

/// The HTTP endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Where to listen; port 0 takes any free one.
    pub addr: SocketAddr,
    /// How long a self-test of `/readyz` may take.
    #[serde(with = "humantime_serde")]
    pub ready_timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { addr: ([127, 0, 0, 1], 9464).into(), ready_timeout: Duration::from_secs(2) }
    }
}

/// Inference, see [`crate::engine`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// The ONNX Runtime library. Searched for if left out.
    pub library: Option<PathBuf>,
    /// Batches that run at the same time. 0: one for each core.
    pub runners: usize,
    /// Threads for one batch. One is best on the CPU: small batches side by side beat one that uses all cores.
    pub threads_per_runner: usize,
    /// By how much the priority of engine threads is lowered, 0 to 19, so that calls are taken in and answered at once
    /// while all cores compute.
    pub nice: u8,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { library: None, runners: 0, threads_per_runner: 1, nice: 5 }
    }
}

/// Tokenizing, see [`crate::tokenize`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// Threads, of each variant. 0: one for every four cores, at least one; one for each core if the model's tokenizer is left
    /// to the library, which is many times slower.
    pub threads: usize,
    /// Most bytes of one text. A longer one is an error of that text: it would be cut to a small part anyway.
    pub max_text_bytes: usize,
}

impl Default for TokenizeConfig {
    fn default() -> Self {
        Self { threads: 0, max_text_bytes: 256 * 1024 }
    }
}

/// Bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Texts of online calls in the worker, per variant. Beyond it, calls are answered `overloaded` at once.
    pub rpc_texts: usize,
    /// How long an online call may have to wait for those before it, as far as can be told when it comes. Beyond it, it
    /// is answered `overloaded` at once: a late answer helps nobody, and makes all that follow late as well.
    #[serde(with = "humantime_serde")]
    pub rpc_max_wait: Duration,
    /// Texts of jobs in the worker, per variant. Beyond it, no more are pulled.
    pub job_texts: usize,
    /// Texts of backfill chunks in the worker, per variant. Beyond it, no more are pulled.
    pub bulk_texts: usize,
    /// A job that was delivered more often than this becomes a dead letter: it is likely to harm whoever takes it.
    pub max_deliveries: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            rpc_texts: 1024,
            rpc_max_wait: Duration::from_millis(50),
            job_texts: 1024,
            bulk_texts: 1024,
            max_deliveries: 10,
        }
    }
}

impl LimitsConfig {
    fn validate(&self, section: &str) -> Result<(), String> {
        for (key, value) in
            [("rpc_texts", self.rpc_texts), ("job_texts", self.job_texts), ("bulk_texts", self.bulk_texts)]
        {
            if value < embed_schemas::MAX_TEXTS {
                return Err(format!(
                    "{section}.{key}: {value} is less than one full request; set it to {} or more",
                    embed_schemas::MAX_TEXTS
                ));
            }
        }
        if self.max_deliveries == 0 {
            return Err(format!("{section}.max_deliveries: must be at least 1"));
        }
        Ok(())
    }
}

impl Config {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// A message that names the key and the fix.
    pub fn validate(&self) -> Result<(), String> {
        for (key, value) in [
            ("batch.max_texts", self.batch.max_texts),
            ("batch.max_tokens", self.batch.max_tokens),
            ("batch.fixed.texts", self.batch.fixed.texts),
            ("engine.threads_per_runner", self.engine.threads_per_runner),
            ("tokenize.max_text_bytes", self.tokenize.max_text_bytes),
        ] {
            if value == 0 {
                return Err(format!("{key}: must be at least 1"));
            }
        }
        self.limits.validate("limits")?;
        self.telemetry.validate()?;
        for variant in &self.variant {
            variant.limits.over(&self.limits).validate("variant.limits")?;
            if variant.providers.is_empty() {
                return Err("variant.providers: must name at least one, such as `cpu`".into());
            }
        }
        if self.worker.stats_window < Duration::from_millis(100) {
            return Err("worker.stats_window: must be at least `100ms`".into());
        }
        if self.models.refresh.is_zero() {
            return Err("models.refresh: must be above 0, such as `30s`".into());
        }
        let table = &self.batch.table;
        if table.sizes.len() != table.depths.len() + 1 || table.waits.len() != table.sizes.len() {
            return Err(format!(
                "batch.table: {} depths need {1} sizes and {1} waits, there are {2} and {3}",
                table.depths.len(),
                table.depths.len() + 1,
                table.sizes.len(),
                table.waits.len()
            ));
        }
        if !table.depths.is_sorted() || table.sizes.contains(&0) {
            return Err("batch.table: depths must rise, and sizes be at least 1".into());
        }
        if let Some(id) = &self.worker.id
            && id.parse::<embed_schemas::JobId>().is_err()
        {
            return Err(format!("worker.id: {id:?} must be made of letters, digits, `-` and `_`"));
        }
        Ok(())
    }

    /// Whether a variant is to run on anything but the processor.
    #[must_use]
    pub fn wants_devices(&self) -> bool {
        self.variant.iter().flat_map(|variant| &variant.providers).any(|provider| *provider != Provider::Cpu)
    }
}
