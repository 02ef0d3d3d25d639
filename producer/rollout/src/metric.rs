//! The metrics that a verdict can rest on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a reason is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Ratio of the median latencies.
    P50,
    /// Ratio of the 95th percentiles.
    P95,
    /// Ratio of the 99th percentiles.
    P99,
    /// Difference of the error rates.
    Errors,
    /// Ratio of tokens per engine second.
    Throughput,
    /// The candidate's share of the requests.
    Split,
    /// Mean cosine of both variants' vectors on the probes.
    Probes,
    /// Error rates of the last window or two.
    Spike,
    /// Requests in the last windows.
    Silence,
    /// Requests an arm, and time.
    Volume,
    /// Welch's t-test of the mean latencies; the estimate is Cohen's d.
    EffectSize,
}

impl Metric {
    /// What the rule `guarded` can compare.
    pub const COMPARED: [Self; 5] = [Self::P50, Self::P95, Self::P99, Self::Errors, Self::Throughput];
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Errors => "errors",
            Self::Throughput => "throughput",
            Self::Split => "split",
            Self::Probes => "probes",
            Self::Spike => "error spike",
            Self::Silence => "silence",
            Self::Volume => "volume",
            Self::EffectSize => "effect size",
        })
    }
}
