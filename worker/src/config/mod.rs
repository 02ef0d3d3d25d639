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
    /// How batches are planned.
    pub policy: BatchPolicy,
    /// Most texts in a batch.
    pub max_texts: usize,
    /// Most tokens in a batch, padding included: what bounds the memory of a run. A single text may exceed it.
    pub max_tokens: usize,
    /// Longest that stored work waits for company, from the oldest arrival on. `adaptive` waits less, and not at all when
    /// nobody is likely to come.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// `adaptive`: longest run while online calls are coming in, since the next of them may have to wait for it.
    #[serde(with = "humantime_serde")]
    pub online_run: Duration,
    /// `adaptive`: longest run otherwise.
    #[serde(with = "humantime_serde")]
    pub longest_run: Duration,
    /// Online traffic is taken to go on for so long after a call.
    #[serde(with = "humantime_serde")]
    pub online_memory: Duration,
    /// What the 95th percentile of online calls in the worker should stay below: waiting for company uses up what is left.
    #[serde(with = "humantime_serde")]
    pub target_p95: Duration,
    /// A job that waited longer than this is served even while online calls wait.
    #[serde(with = "humantime_serde")]
    pub job_max_age: Duration,
    /// The same for backfill chunks.
    #[serde(with = "humantime_serde")]
    pub bulk_max_age: Duration,
    /// For `policy = "table"`.
    pub table: TableConfig,
    /// For `policy = "fixed"`.
    pub fixed: FixedConfig,
}

/// How batches are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchPolicy {
    /// From measured costs: as large as pays, no longer than the next online call may wait.
    #[default]
    Adaptive,
    /// From the number of waiting texts.
    Table,
    /// Always the same, in order of arrival.
    Fixed,
}

/// Batch size and wait by the number of waiting texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// Most waiting texts for each step but the last.
    pub depths: Vec<usize>,
    /// Texts in a batch, by step.
    pub sizes: Vec<usize>,
    /// How long the oldest waits for company, by step.
    #[serde(with = "humantime_list")]
    pub waits: Vec<Duration>,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self {
            depths: vec![5, 20, 50, 100],
            sizes: vec![1, 8, 16, 32, 64],
            waits: [0, 5, 10, 10, 15].map(Duration::from_millis).to_vec(),
        }
    }
}

/// Batches of a fixed count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FixedConfig {
    /// Texts in a batch.
    pub texts: usize,
    /// How long the oldest waits for company.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
}

impl Default for FixedConfig {
    fn default() -> Self {
        Self { texts: 32, wait: Duration::from_millis(5) }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            policy: BatchPolicy::default(),
            max_texts: 64,
            max_tokens: 1024,
            max_wait: Duration::from_millis(5),
            online_run: Duration::from_millis(40),
            longest_run: Duration::from_millis(120),
            online_memory: Duration::from_secs(1),
            target_p95: Duration::from_millis(10),
            job_max_age: Duration::from_secs(2),
            bulk_max_age: Duration::from_secs(10),
            table: TableConfig::default(),
            fixed: FixedConfig::default(),
        }
    }
}

/// A list of durations, each written as `5ms`.
mod humantime_list {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct One(#[serde(with = "humantime_serde")] Duration);

    pub(super) fn serialize<S: Serializer>(list: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|duration| One(*duration)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<One>::deserialize(deserializer)?.into_iter().map(|One(duration)| duration).collect())
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
            ("batch.fixed.texts", self.batch.fixed.texts),
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
