//! Who hears of what happens in a pipeline.

use embed_schemas::{ErrorCode, Lane, trace::TraceContext};

use crate::{engine::EngineError, runner::RunStats};

/// Hears of what happens in a pipeline. Called on the threads of the pipeline, so it must not block.
pub trait Observer: Send + Sync {
    /// A batch was run.
    fn ran(&self, stats: &RunStats) {
        let _ = stats;
    }
    /// Requests that are recorded were in a run: their spans, each once, and why it failed if it did.
    fn recorded(&self, stats: &RunStats, of: &[TraceContext], error: Option<&EngineError>) {
        let _ = (stats, of, error);
    }
    /// A device had too little memory for a run: batches have at most so many tokens for now, padding included.
    fn out_of_memory(&self, most_tokens: usize) {
        let _ = most_tokens;
    }
    /// After that, batches may have so many tokens again. `usize::MAX`: there is no such bound any more.
    fn memory_bound(&self, most_tokens: usize) {
        let _ = most_tokens;
    }
    /// A text of this lane failed.
    fn text_failed(&self, lane: Lane, code: ErrorCode) {
        let _ = (lane, code);
    }
    /// An engine fails whatever it is given, or runs again (`None`).
    fn engine_broken(&self, reason: Option<&str>) {
        let _ = reason;
    }
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}
