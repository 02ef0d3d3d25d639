//! A variant: the name that traffic is sent to, with what it admits and what is measured of it. Versions come and go behind it.

mod admission;
mod answer;
mod deployment;
mod senders;
mod service_rate;
mod size;
mod tap;
mod version;

use std::{sync::Arc, time::Instant};

use embed_engine::{
    engine::EngineError,
    pipeline::Observer,
    runner::{RunLimit, RunStats},
};
use embed_otlp::{KeyValue, Kind};
use embed_schemas::{ErrorCode, Lane, Slug, subjects, trace::TraceContext};

pub use admission::{Admission, Permit, Reservation};
pub(crate) use deployment::shutting_down;
pub use deployment::{Deployment, Pause};
pub use senders::Sender;
pub use size::Size;
pub use tap::{Sample, Tap, Tapped};
pub use version::{ServedVersion, describe_wanted, result_too_large};

use crate::{
    config::LimitsConfig,
    metrics::VariantMetrics,
    spans::{Trace, Tracer},
};

/// A variant that this worker serves.
#[derive(Debug)]
pub struct Variant {
    /// The model's slug.
    pub model: Slug,
    /// The variant's name.
    pub name: Slug,
    /// Counters and histograms.
    pub metrics: VariantMetrics,
    /// What may come in.
    pub admission: Admission,
    /// Gives a share of its texts to a variant that is compared with it.
    pub tap: Tap,
    /// How often a job is tried.
    pub max_attempts: u64,
    /// Bounds the runs at one time, over all its versions.
    run_limit: Arc<RunLimit>,
    tracer: Tracer,
}

impl Variant {
    /// A variant with nothing in it, and room for one run: until [`Variant::resize`] says how many engines serve it.
    #[must_use]
    pub fn new(model: Slug, name: Slug, limits: &LimitsConfig, tracer: Tracer) -> Self {
        Self {
            metrics: VariantMetrics::new(&model, &name),
            model,
            name,
            admission: Admission::new(limits),
            tap: Tap::default(),
            max_attempts: limits.max_deliveries,
            run_limit: Arc::new(RunLimit::new(1)),
            tracer,
        }
    }

    /// What tells it apart from others.
    #[must_use]
    pub fn key(&self) -> (Slug, Slug) {
        (self.model.clone(), self.name.clone())
    }

    /// A request came in this lane, with this trace context. `None`, as mostly: it is not recorded.
    #[must_use]
    pub fn trace(&self, lane: Lane, traceparent: Option<&str>, received: Instant) -> Option<Box<Trace>> {
        self.tracer.begin(traceparent, received, || {
            let subject = subjects::bare(lane, &self.model);
            let kind = if lane == Lane::Rpc { Kind::Server } else { Kind::Consumer };
            let [model, variant] = self.span_labels();
            let attributes = vec![
                KeyValue::new("messaging.system", "nats"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.destination.name", subject.clone()),
                model,
                variant,
                KeyValue::new("embed.lane", lane.as_str()),
            ];
            (kind, format!("process {subject}"), attributes)
        })
    }

    fn span_labels(&self) -> [KeyValue; 2] {
        [KeyValue::new("embed.model", self.model.to_string()), KeyValue::new("embed.variant", self.name.to_string())]
    }

    /// Bounds the runs at one time, over all its versions.
    #[must_use]
    pub const fn run_limit(&self) -> &Arc<RunLimit> {
        &self.run_limit
    }

    /// From now on, so many engines serve it, and so many of them calls while there is other work.
    pub fn resize(&self, engines: usize, for_calls: usize) {
        self.run_limit.resize(engines);
        self.admission.resize(for_calls);
    }
}

/// What a variant's pipelines tell it.
impl Observer for Variant {
    fn ran(&self, stats: &RunStats) {
        self.metrics.run(stats);
        self.admission.ran(stats);
    }

    fn recorded(&self, stats: &RunStats, of: &[TraceContext], error: Option<&EngineError>) {
        self.tracer.ran(stats, of, self.span_labels(), error.map(ToString::to_string));
    }

    fn out_of_memory(&self, most_tokens: usize) {
        self.metrics.out_of_memory(most_tokens);
    }

    fn memory_bound(&self, most_tokens: usize) {
        self.metrics.memory_bound(most_tokens);
    }

    fn text_failed(&self, lane: Lane, code: ErrorCode) {
        self.metrics.error(lane, code);
    }

    fn engine_broken(&self, reason: Option<&str>) {
        self.metrics.engine_broken(reason.is_some());
    }
}
