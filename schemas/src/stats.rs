//! Variant statistics: what every worker publishes about each of its variants and lanes, once a window.
//!
//! A worker publishes idle windows as well, so that silence means that it is gone. Windows are aligned to the clock
//! (their start is a multiple of their length), so that those of different workers and variants can be laid side by side.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Lane, LatencySketch, Slug, WireError};

/// One window of one variant and lane on one worker. Published on [`crate::subjects::stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VariantStats {
    /// The model.
    pub model: Slug,
    /// The variant of the model.
    pub variant: Slug,
    /// The version of the model in the registry that the variant ran at the window's end.
    pub version: String,
    /// The lane.
    pub lane: Lane,
    /// The worker's id, new with each start of a worker.
    pub worker: String,
    /// Beginning of the window: Unix time in milliseconds, a multiple of `length_ms`.
    pub start_ms: u64,
    /// Length of the window in milliseconds.
    #[schemars(range(min = 1))]
    pub length_ms: u32,
    /// What happened in it.
    #[serde(flatten)]
    pub counts: WindowCounts,
}

/// What happened in a window. All of it adds up: over workers, lanes and windows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct WindowCounts {
    /// Jobs and calls whose outcome was sent within the window, failures and refusals included.
    pub requests: u64,
    /// Those of them that failed, or had a text that failed, each under its first error's code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Arrival at the worker until the outcome was sent, of the requests that did not fail. A refusal is quick, and
    /// would make a worker that refuses look fast.
    #[serde(default, skip_serializing_if = "LatencySketch::is_empty")]
    pub latency_us: LatencySketch,
    /// Texts embedded.
    pub texts: u64,
    /// Tokens embedded, without padding.
    pub tokens: u64,
    /// Engine runs that computed texts of this lane.
    pub batches: u64,
    /// Texts of this lane in those runs: divided by `batches`, the mean size of a batch.
    pub batch_texts: u64,
    /// Engine time of those runs in microseconds. A run with texts of several lanes is divided among them by their tokens.
    pub busy_us: u64,
}

impl VariantStats {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`], naming the field.
    pub fn validate(&self) -> Result<(), WireError> {
        if self.length_ms == 0 {
            return Err(WireError::invalid("length_ms: a window has at least one millisecond"));
        }
        let offset = self.start_ms % u64::from(self.length_ms);
        if offset != 0 {
            return Err(WireError::invalid(format!(
                "start_ms: {} is not a multiple of length_ms ({}); windows are aligned to the clock, this one is {offset} ms late",
                self.start_ms, self.length_ms
            )));
        }
        if self.counts.failed() > self.counts.requests {
            return Err(WireError::invalid(format!(
                "errors: {} of {} requests failed; each failed request counts once, under its first error",
                self.counts.failed(),
                self.counts.requests
            )));
        }
        if self.counts.latency_us.count() > self.counts.requests - self.counts.failed() {
            return Err(WireError::invalid(format!(
                "latency_us: {} latencies for {} requests that did not fail",
                self.counts.latency_us.count(),
                self.counts.requests - self.counts.failed()
            )));
        }
        Ok(())
    }

    /// End of the window, Unix time in milliseconds.
    #[must_use]
    pub fn end_ms(&self) -> u64 {
        self.start_ms.saturating_add(u64::from(self.length_ms))
    }
}

impl WindowCounts {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().fold(0, |sum: u64, n| sum.saturating_add(*n))
    }

    /// Adds all of another window.
    pub fn merge(&mut self, other: &Self) {
        for (code, n) in &other.errors {
            let count = self.errors.entry(*code).or_default();
            *count = count.saturating_add(*n);
        }
        self.latency_us.merge(&other.latency_us);
        for (sum, n) in [
            (&mut self.requests, other.requests),
            (&mut self.texts, other.texts),
            (&mut self.tokens, other.tokens),
            (&mut self.batches, other.batches),
            (&mut self.batch_texts, other.batch_texts),
            (&mut self.busy_us, other.busy_us),
        ] {
            *sum = sum.saturating_add(n);
        }
    }

    /// Texts of this lane in an engine run, on average. `None` without runs.
    #[must_use]
    pub fn batch_mean(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.batch_texts as f64 / self.batches as f64)
    }
}
