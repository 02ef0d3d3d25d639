//! What can be configured, with the defaults. Where values come from is [`load`]'s business.

mod limits;
pub mod load;
mod models;
mod telemetry;

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use embed_connect::ConnectSettings;
use embed_engine::settings::{BatchConfig, EngineConfig, TokenizeConfig, check_chain};
use embed_schemas::inbox;
pub use limits::LimitsConfig;
pub use models::{ModelsConfig, VariantConfig, VariantLimits};
use serde::{Deserialize, Serialize};
pub use telemetry::TelemetryConfig;

/// A worker's id is part of subjects, and of the ids of calls.
const MAX_WORKER_ID: usize = 64;
/// Bytes of the largest message of texts for a shadow, and some more.
const LEAST_SHADOW_BYTES: u64 = 256 * 1024;

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
    /// Bytes a second that may leave for variants which are compared with those served here, while somebody wants that (`embed rollout
    /// start --shadow`). 0: none, whoever wants it.
    pub shadow_bytes: ByteSize,
    /// Subjects below which callers listen for answers, and jobs may want copies of their outcomes, beside those that begin with `_INBOX`
    /// and `_R_`. Nothing is published anywhere else on anybody's behalf.
    pub reply_prefixes: Vec<String>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            id: None,
            drain_timeout: Duration::from_secs(25),
            stats_window: Duration::from_secs(5),
            shadow_bytes: ByteSize::mib(4),
            reply_prefixes: Vec::new(),
        }
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
            ("tokenize.max_text_bytes", self.tokenize.max_text_bytes),
        ] {
            if value == 0 {
                return Err(format!("{key}: must be at least 1"));
            }
        }
        self.engine.validate()?;
        self.limits.validate("limits")?;
        self.telemetry.validate()?;
        for variant in &self.variant {
            variant.limits.over(&self.limits).validate("variant.limits")?;
            if let Some(providers) = &variant.providers {
                check_chain("variant.providers", providers)?;
            }
        }
        if self.worker.stats_window < Duration::from_millis(100) {
            return Err("worker.stats_window: must be at least `100ms`".into());
        }
        let shadow = self.worker.shadow_bytes.as_u64();
        if (1..LEAST_SHADOW_BYTES).contains(&shadow) {
            return Err(format!(
                "worker.shadow_bytes: {shadow} is less than one message; set it to `256 KiB` or more, or to 0 for none"
            ));
        }
        for prefix in &self.worker.reply_prefixes {
            if let Err(what) = inbox::check_prefix(prefix) {
                return Err(format!(
                    "worker.reply_prefixes: {prefix:?} {what}; name subjects below which callers listen, such as `replies.of-a`"
                ));
            }
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
            && (id.parse::<embed_schemas::JobId>().is_err() || id.len() > MAX_WORKER_ID)
        {
            return Err(format!(
                "worker.id: {id:?} must be made of letters, digits, `-` and `_`, at most {MAX_WORKER_ID} of them"
            ));
        }
        Ok(())
    }

    /// Whether a variant is to run on anything but the processor.
    #[must_use]
    pub fn wants_devices(&self) -> bool {
        let chains = self.variant.iter().map(|variant| variant.chain(&self.engine));
        chains.chain([&self.engine.providers[..]]).flatten().any(|provider| provider.on_device())
    }
}
