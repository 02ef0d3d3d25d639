//! How batches are planned.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Batching: how texts are put together for a run.
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
