//! An online call, which is answered once: at the latest when it is dropped.

use std::{sync::Arc, time::Instant};

use async_nats::Subject;
use embed_schemas::{EmbedFailure, Format, Lane, Outcome, WireError, trace::TraceContext};
use tokio::sync::mpsc;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    metrics::{Demand, EndpointStats},
    spans::Trace,
    variant::{Variant, shutting_down},
};

/// A caller who waits. Dropped without an answer, it is told that the worker is stopping.
#[derive(Debug)]
pub struct Call {
    caller: Option<Caller>,
    refusals: Refusals,
}

/// Where refusals go.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    pub(super) sender: mpsc::UnboundedSender<Refusal>,
    pub(super) tasks: TaskTracker,
}

/// A caller who is told that it is not served.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) caller: Caller,
    pub(super) outcome: Outcome,
    /// Until it is told, publishing is not idle.
    pub(super) _token: TaskTrackerToken,
}

/// Where an answer goes, and where it is counted.
#[derive(Debug)]
pub struct Caller {
    /// Where the caller listens: an inbox.
    pub reply: Subject,
    /// Its trace context, if it is valid.
    pub traceparent: Option<String>,
    /// What is recorded of it, if anything is.
    pub trace: Option<Box<Trace>>,
    /// The encoding of the question, and so of the answer.
    pub format: Format,
    /// When it arrived.
    pub received: Instant,
    /// What it brought with it, as far as it has been read.
    pub demand: Demand,
    /// The variant that was asked.
    pub variant: Arc<Variant>,
    /// Where the answer is counted.
    pub stats: Arc<EndpointStats>,
    /// The worker's call to itself: no traffic, so it is left out of the metrics.
    pub is_probe: bool,
}

impl Call {
    pub(super) const fn new(caller: Caller, refusals: Refusals) -> Self {
        Self { caller: Some(caller), refusals }
    }

    /// The encoding in which it is to be answered.
    #[must_use]
    pub fn set_format(mut self, format: Format) -> Self {
        if let Some(caller) = &mut self.caller {
            caller.format = format;
        }
        self
    }

    /// What it was found to bring with it.
    #[must_use]
    pub fn set_demand(mut self, demand: Demand) -> Self {
        if let Some(caller) = &mut self.caller {
            caller.demand = demand;
        }
        self
    }

    /// The span that it is, if it is recorded.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.caller.as_ref()?.trace.as_ref().map(|trace| trace.context())
    }

    /// Answers that it cannot be served.
    pub fn refuse(mut self, error: WireError) {
        self.end(error);
    }

    fn end(&mut self, error: WireError) {
        let Some(caller) = self.caller.take() else { return };
        if !caller.is_probe {
            caller.variant.metrics.refused(Lane::Rpc, caller.received.elapsed(), caller.demand, error.code);
        }
        let outcome = Outcome::Failure(EmbedFailure { id: None, error });
        // If nobody takes it, the process is ending.
        let refusal = Refusal { caller, outcome, _token: self.refusals.tasks.token() };
        let _ = self.refusals.sender.send(refusal);
    }

    /// What is recorded of it, if anything is.
    pub(super) fn trace_mut(&mut self) -> Option<&mut Trace> {
        self.caller.as_mut()?.trace.as_deref_mut()
    }

    /// Takes the duty to answer over.
    pub(super) fn take(mut self) -> Option<Caller> {
        self.caller.take()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(shutting_down());
    }
}
