//! What can be configured, with the defaults. Where values come from is [`load`]'s business.

pub mod load;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use embed_connect::ConnectSettings;
use embed_schemas::Precision;
use serde::{Deserialize, Serialize};

/// The worker's configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where models come from: `file:///…` or a path.
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
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { id: None, drain_timeout: Duration::from_secs(25) }
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

/// Batching, see [`crate::batch`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Most texts in a batch.
    pub max_texts: usize,
    /// Most tokens in a batch, padding included. A single text may exceed it.
    pub max_tokens: usize,
    /// How long stored work waits for company, from the oldest arrival on. Online calls never wait for it.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// A job that waited longer than this is served even while online calls wait.
    #[serde(with = "humantime_serde")]
    pub job_max_age: Duration,
    /// The same for backfill chunks.
    #[serde(with = "humantime_serde")]
    pub bulk_max_age: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            max_texts: 64,
            max_tokens: 512,
            max_wait: Duration::from_millis(5),
            job_max_age: Duration::from_secs(2),
            bulk_max_age: Duration::from_secs(10),
        }
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
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { library: None, runners: 0, threads_per_runner: 1 }
    }
}

/// Tokenizing, see [`crate::tokenize`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// Threads. 0: one for every four cores, at least one.
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
    /// Texts of jobs in the worker, per variant. Beyond it, no more are pulled.
    pub job_texts: usize,
    /// Texts of backfill chunks in the worker, per variant. Beyond it, no more are pulled.
    pub bulk_texts: usize,
    /// A job that was delivered more often than this becomes a dead letter: it is likely to harm whoever takes it.
    pub max_deliveries: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { rpc_texts: 1024, job_texts: 1024, bulk_texts: 1024, max_deliveries: 10 }
    }
}

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
}

/// The version that `current.json` points to.
pub const CURRENT: &str = "current";

fn current() -> String {
    CURRENT.to_owned()
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
            ("engine.threads_per_runner", self.engine.threads_per_runner),
            ("tokenize.max_text_bytes", self.tokenize.max_text_bytes),
        ] {
            if value == 0 {
                return Err(format!("{key}: must be at least 1"));
            }
        }
        for (key, value) in [
            ("limits.rpc_texts", self.limits.rpc_texts),
            ("limits.job_texts", self.limits.job_texts),
            ("limits.bulk_texts", self.limits.bulk_texts),
        ] {
            if value < embed_schemas::MAX_TEXTS {
                return Err(format!(
                    "{key}: {value} is less than one full request; set it to {} or more",
                    embed_schemas::MAX_TEXTS
                ));
            }
        }
        if self.limits.max_deliveries == 0 {
            return Err("limits.max_deliveries: must be at least 1".into());
        }
        if let Some(id) = &self.worker.id
            && id.parse::<embed_schemas::JobId>().is_err()
        {
            return Err(format!("worker.id: {id:?} must be made of letters, digits, `-` and `_`"));
        }
        Ok(())
    }
}
