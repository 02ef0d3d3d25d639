//! What a verdict rests on: both arms, window by window, over the time of one step.

mod blocks;
mod collect;

use embed_schemas::{ErrorCode, Slug, WindowCounts};
use serde::{Deserialize, Serialize};

pub(crate) use blocks::{ArmBlocks, Blocks};
pub use collect::{Collector, Rejected};

/// The evidence of one step. Both arms have the same windows: number `i` begins at `from_ms + i * window_ms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The candidate's share of the traffic while this was collected, in percent: the weight in force.
    pub candidate_percent: f64,
    /// Beginning of the first window, Unix time in milliseconds.
    pub from_ms: u64,
    /// Length of a window in milliseconds.
    pub window_ms: u32,
    /// The variant that is to be replaced.
    pub baseline: Arm,
    /// The variant that is to replace it.
    pub candidate: Arm,
    /// Cosines of both variants' vectors, one for each probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Vec<f64>>,
    /// All of the baseline's windows in the last step in which it had traffic, added up. Only a step of 100 % needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<WindowCounts>,
}

/// One variant's windows, workers and lanes added up. A window in which nothing was reported is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// The variant.
    pub variant: Slug,
    /// Its windows.
    pub windows: Vec<WindowCounts>,
}

/// Requests and failures of several windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Sums that give the number of requests in an engine run.
    texts: u64,
    batches: u64,
    batch_texts: u64,
}

impl Evidence {
    /// Windows that both arms have.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.baseline.windows.len().min(self.candidate.windows.len())
    }

    /// The candidate's weight as a share.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.candidate_percent / 100.0
    }

    /// The windows of both arms.
    pub(crate) fn arms(&self) -> [&[WindowCounts]; 2] {
        [&self.baseline, &self.candidate].map(|arm| &arm.windows[..self.windows()])
    }
}

impl Tally {
    pub(crate) fn of<'a>(windows: impl IntoIterator<Item = &'a WindowCounts>, ignored: &[ErrorCode]) -> Self {
        windows.into_iter().fold(Self::default(), |sum, w| {
            let (requests, failed) = counted(w, ignored);
            Self {
                requests: sum.requests + requests,
                failed: sum.failed + failed,
                texts: sum.texts + w.texts,
                batches: sum.batches + w.batches,
                batch_texts: sum.batch_texts + w.batch_texts,
            }
        })
    }

    pub(crate) fn error_rate(&self) -> f64 {
        self.failed as f64 / self.requests as f64
    }

    /// Requests that share an engine run, on average; at least 1. They can fail together.
    pub(crate) fn requests_per_batch(&self) -> f64 {
        let (batch, request) = (
            self.batch_texts as f64 / self.batches as f64,
            self.texts as f64 / (self.requests - self.failed).max(1) as f64,
        );
        if batch > 0.0 && request > 0.0 { (batch / request).max(1.0) } else { 1.0 }
    }
}

/// Requests and failures of a window, without those that failed for a reason that is the caller's.
pub(crate) fn counted(window: &WindowCounts, ignored: &[ErrorCode]) -> (u64, u64) {
    let not_counted: u64 = ignored.iter().filter_map(|code| window.errors.get(code)).sum();
    (window.requests - not_counted.min(window.requests), window.failed() - not_counted)
}
