//! Variant statistics: what every worker publishes about each of its variants and lanes, once a window.
//!
//! A worker publishes idle windows as well, so that silence means that it is gone. Windows are aligned to the clock
//! (their start is a multiple of their length), so that those of different workers and variants can be laid side by side.
//!
//! A window counts what ended in it, whenever it was published. What was published earlier is told apart by [`Earlier`], so that the work
//! that was waiting before something began can be left out of what is known about it.

use std::collections::BTreeMap;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Lane, LatencySketch, Slug, WireError};

/// One window of one variant and lane on one worker. Published on [`crate::subjects::stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
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
    /// Beginning of the window: Unix time in milliseconds by the server's clock, as far as the worker knows it; a multiple of `length_ms`.
    pub start_ms: u64,
    /// Length of the window in milliseconds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub length_ms: u32,
    /// What happened in it.
    #[serde(flatten)]
    pub counts: WindowCounts,
}

/// What happened in a window. All of it adds up: over workers, lanes and windows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct WindowCounts {
    /// Jobs and calls whose outcome was sent within the window, failures and refusals included.
    pub requests: u64,
    /// Those of them that failed, or had a text that failed, each under its first error's code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Those of the failed that failed for what their caller did, whichever variant had been asked: what is no request, prompts that there are
    /// not, deadlines that nobody could keep. They are in `errors`, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_caller: BTreeMap<ErrorCode, u64>,
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
    /// Those of the requests that were published before the window began, by the window that they were published in; in rising order, and
    /// at most [`MAX_EARLIER`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Earlier>,
}

/// Most entries of [`WindowCounts::earlier`] that a worker sends. If there are more, the oldest are added up.
pub const MAX_EARLIER: usize = 16;

/// The requests of a window that were published in an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Earlier {
    /// Beginning of the window that they were published in, or of the earliest one: Unix time in milliseconds by the server's clock.
    pub published_ms: u64,
    /// As [`WindowCounts::requests`].
    pub requests: u64,
    /// As [`WindowCounts::errors`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<ErrorCode, u64>,
    /// As [`WindowCounts::by_caller`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_caller: BTreeMap<ErrorCode, u64>,
    /// As [`WindowCounts::latency_us`].
    #[serde(default, skip_serializing_if = "LatencySketch::is_empty")]
    pub latency_us: LatencySketch,
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
        let counts = &self.counts;
        if let Some((code, n)) =
            counts.by_caller.iter().find(|(code, n)| counts.errors.get(code).is_none_or(|all| *n > all))
        {
            return Err(WireError::invalid(format!("by_caller: {n} {code}, more than there are in errors")));
        }
        let earlier = counts.earlier.iter().fold(0u64, |sum, part| sum.saturating_add(part.requests));
        if earlier > counts.requests {
            return Err(WireError::invalid(format!(
                "earlier: {earlier} requests that were published before the window, of {} in all",
                counts.requests
            )));
        }
        if !counts.earlier.is_sorted_by(|a, b| a.published_ms < b.published_ms) {
            return Err(WireError::invalid("earlier: sort by published_ms, each once"));
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
        add(&mut self.errors, &other.errors);
        add(&mut self.by_caller, &other.by_caller);
        for part in &other.earlier {
            match self.earlier.binary_search_by_key(&part.published_ms, |part| part.published_ms) {
                Ok(at) => self.earlier[at].merge(part),
                Err(at) => self.earlier.insert(at, part.clone()),
            }
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

    /// What is left without the requests that were published before a moment, and how many those are. What the engine did is divided by
    /// requests, for nobody knows whose texts a run computed.
    #[must_use]
    pub fn published_since(&self, ms: u64) -> (Self, u64) {
        let mut left = self.clone();
        let before = left.earlier.partition_point(|part| part.published_ms < ms);
        let mut out = 0u64;
        for part in left.earlier.drain(..before) {
            out = out.saturating_add(part.requests);
            left.requests = left.requests.saturating_sub(part.requests);
            take(&mut left.errors, &part.errors);
            take(&mut left.by_caller, &part.by_caller);
            left.latency_us.subtract(&part.latency_us);
        }
        if out > 0 {
            let share =
                |n: u64| (u128::from(n) * u128::from(left.requests)).div_ceil(u128::from(self.requests.max(1))) as u64;
            for n in [&mut left.texts, &mut left.tokens, &mut left.batches, &mut left.batch_texts, &mut left.busy_us] {
                *n = share(*n);
            }
        }
        (left, out)
    }

    /// Texts of this lane in an engine run, on average. `None` without runs.
    #[must_use]
    pub fn batch_mean(&self) -> Option<f64> {
        (self.batches > 0).then(|| self.batch_texts as f64 / self.batches as f64)
    }
}

impl Earlier {
    /// Adds other requests; the earlier moment holds for all of them.
    pub fn merge(&mut self, other: &Self) {
        self.published_ms = self.published_ms.min(other.published_ms);
        self.requests = self.requests.saturating_add(other.requests);
        add(&mut self.errors, &other.errors);
        add(&mut self.by_caller, &other.by_caller);
        self.latency_us.merge(&other.latency_us);
    }
}

fn add(sum: &mut BTreeMap<ErrorCode, u64>, more: &BTreeMap<ErrorCode, u64>) {
    for (code, n) in more {
        let count = sum.entry(*code).or_default();
        *count = count.saturating_add(*n);
    }
}

fn take(sum: &mut BTreeMap<ErrorCode, u64>, part: &BTreeMap<ErrorCode, u64>) {
    for (code, n) in part {
        if let Some(count) = sum.get_mut(code) {
            *count = count.saturating_sub(*n);
        }
    }
    sum.retain(|_, n| *n > 0);
}
