//! What a verdict rests on: both arms, window by window, over the time of one step.

mod blocks;
mod collect;

use std::collections::BTreeMap;

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
    /// Its windows, of what was published since the step began.
    pub windows: Vec<WindowCounts>,
    /// What had been waiting in each of them. Shorter than the windows where it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backlog: Vec<Backlog>,
}

/// Requests that had been waiting before they were done in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Published before the step began: no evidence, and not in the counts.
    #[serde(default)]
    pub left_out: u64,
    /// Published since, but some windows earlier. They are in the counts.
    #[serde(default)]
    pub waited: u64,
}

/// Requests that waited for more windows than this have been waiting for others.
const WAITED: u64 = 2;
/// Share of the requests in the last windows that may have been waiting in an arm that keeps up.
const KEEPS_UP: f64 = 0.1;
/// How many of the last windows show whether an arm keeps up.
const LATELY: usize = 4;
/// Error codes that a sentence names.
const NAMED: usize = 4;

/// Requests and failures of several windows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    codes: BTreeMap<ErrorCode, u64>,
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

impl Arm {
    /// Whether it works on what had been waiting before. `windows` of it are looked at.
    pub(crate) fn is_behind(&self, windows: usize) -> bool {
        let last = windows.saturating_sub(LATELY)..windows;
        let backlog = self.backlog.get(last.clone()).unwrap_or_default();
        let waiting: u64 = backlog.iter().map(|b| b.left_out + b.waited).sum();
        let all: u64 = self.windows.get(last).unwrap_or_default().iter().map(|w| w.requests).sum::<u64>()
            + backlog.iter().map(|b| b.left_out).sum::<u64>();
        waiting as f64 > KEEPS_UP * all as f64
    }
}

impl Tally {
    pub(crate) fn of<'a>(windows: impl IntoIterator<Item = &'a WindowCounts>, ignored: &[ErrorCode]) -> Self {
        let mut sum = Self::default();
        for window in windows {
            let (requests, failed) = counted(window, ignored);
            sum.requests += requests;
            sum.failed += failed;
            for (code, n) in &window.errors {
                let n = n.saturating_sub(not_counted(window, *code, *n, ignored));
                if n > 0 {
                    *sum.codes.entry(*code).or_default() += n;
                }
            }
            sum.texts += window.texts;
            sum.batches += window.batches;
            sum.batch_texts += window.batch_texts;
        }
        sum
    }

    pub(crate) fn error_rate(&self) -> f64 {
        self.failed as f64 / self.requests as f64
    }

    /// What failed, by code, most first: `: 12 engine_failed, 3 overloaded`. Nothing if nothing failed.
    pub(crate) fn codes(&self) -> String {
        let mut codes: Vec<_> = self.codes.iter().collect();
        codes.sort_by_key(|(code, n)| (std::cmp::Reverse(**n), **code));
        let others: u64 = codes.iter().skip(NAMED).map(|(_, n)| **n).sum();
        let mut named: Vec<String> = codes.iter().take(NAMED).map(|(code, n)| format!("{n} {code}")).collect();
        named.extend((others > 0).then(|| format!("{others} others")));
        if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) }
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

/// Requests and failures of a window, without those that failed for a reason that is no variant's.
pub(crate) fn counted(window: &WindowCounts, ignored: &[ErrorCode]) -> (u64, u64) {
    let left_out = window.errors.iter().map(|(code, n)| not_counted(window, *code, *n, ignored)).sum::<u64>();
    (window.requests.saturating_sub(left_out), window.failed().saturating_sub(left_out))
}

/// How many of a window's `n` failures with a code say nothing about the arm: what the caller did wrong, and what a worker refused since it
/// was stopping, as for a restart.
fn not_counted(window: &WindowCounts, code: ErrorCode, n: u64, ignored: &[ErrorCode]) -> u64 {
    if code.is_callers() || code == ErrorCode::ShuttingDown || ignored.contains(&code) {
        return n;
    }
    window.by_caller.get(&code).copied().unwrap_or_default().min(n)
}

/// A window without what was published before `since_ms`, with what had been waiting. `start_ms` is its own beginning.
pub(crate) fn since(counts: &WindowCounts, start_ms: u64, window_ms: u32, since_ms: u64) -> (WindowCounts, Backlog) {
    let (mut left, left_out) = counts.published_since(since_ms);
    let long_ago = start_ms.saturating_sub(WAITED * u64::from(window_ms));
    let earlier = std::mem::take(&mut left.earlier);
    let waited = earlier.iter().filter(|part| part.published_ms < long_ago).map(|part| part.requests).sum();
    (left, Backlog { left_out, waited })
}
