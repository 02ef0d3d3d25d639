//! The metrics of a variant: handles are made once, so that the hot path looks nothing up.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use embed_engine::{
    batch::{Form, Reason},
    runner::RunStats,
};
use embed_schemas::{ErrorCode, Lane, Outcome, Slug, metrics as names};
use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::{
    ShadowWindow, recorder,
    window::{Ended, Window},
};

/// The labels that tell a variant from others.
#[must_use]
pub fn variant_labels(model: &Slug, variant: &Slug) -> [(&'static str, String); 2] {
    [(names::MODEL, model.to_string()), (names::MODEL_VERSION, variant.to_string())]
}

/// Whoever gives less time than this gives it in vain: nobody who has anything else to do can keep such a deadline.
const HOPELESS: Duration = Duration::from_millis(10);

/// What a request brought with it when it arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// How long ago it had been published.
    pub age: Duration,
    /// How much time its caller gave. What passed of it while it waited for this variant is the variant's doing.
    pub deadline: Option<Duration>,
}

impl Demand {
    /// Whether such an error was the caller's doing, whichever variant had been asked.
    fn is_to_blame(&self, code: ErrorCode) -> bool {
        let deadline = matches!(code, ErrorCode::DeadlineExceeded | ErrorCode::Overloaded);
        code.is_callers() || (deadline && self.deadline.is_some_and(|given| given < HOPELESS))
    }
}

/// The handles of one variant.
#[derive(Debug)]
pub struct VariantMetrics {
    labels: [(&'static str, String); 2],
    requests: [Counter; 3],
    latency: [Histogram; 3],
    redeliveries: [Counter; 3],
    texts: Counter,
    tokens: Counter,
    duplicate_results: Counter,
    batch_size: Histogram,
    batch_tokens: Histogram,
    batch_wait: Histogram,
    padding: Histogram,
    queue: Histogram,
    tokenize: Histogram,
    infer: Histogram,
    publish: Histogram,
    busy: Seconds,
    window: Window,
    shadow: ShadowWindow,
}

impl VariantMetrics {
    /// The handles for a variant.
    pub fn new(model: &Slug, variant: &Slug) -> Self {
        let labels = variant_labels(model, variant);
        let lane_labels = |lane: Lane| [labels[0].clone(), labels[1].clone(), (names::LANE, lane.to_string())];
        let stage = |name: &str| {
            let stage = [labels[0].clone(), labels[1].clone(), (names::STAGE, name.to_owned())];
            histogram!(names::STAGE_SECONDS, &stage)
        };
        Self {
            requests: Lane::ALL.map(|lane| counter!(names::EMBED_REQUESTS_TOTAL, &lane_labels(lane))),
            latency: Lane::ALL.map(|lane| histogram!(names::EMBED_LATENCY_SECONDS, &lane_labels(lane))),
            redeliveries: Lane::ALL.map(|lane| counter!(names::REDELIVERIES_TOTAL, &lane_labels(lane))),
            texts: counter!(names::EMBED_TEXTS_TOTAL, &labels),
            tokens: counter!(names::EMBED_TOKENS_TOTAL, &labels),
            duplicate_results: counter!(names::DUPLICATE_RESULTS_TOTAL, &labels),
            batch_size: histogram!(names::BATCH_SIZE, &labels),
            batch_tokens: histogram!(names::BATCH_TOKENS, &labels),
            batch_wait: histogram!(names::BATCH_WAIT_TIME_SECONDS, &labels),
            padding: histogram!(names::PADDING_RATIO, &labels),
            queue: stage("queue"),
            tokenize: stage("tokenize"),
            infer: stage("infer"),
            publish: stage("publish"),
            busy: Seconds::default(),
            window: Window::default(),
            shadow: ShadowWindow::default(),
            labels,
        }
    }

    /// The variant's labels.
    #[must_use]
    pub const fn labels(&self) -> &[(&'static str, String); 2] {
        &self.labels
    }

    /// The variant's labels and one more.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &str) -> [(&'static str, String); 3] {
        [self.labels[0].clone(), self.labels[1].clone(), (name, value.to_owned())]
    }

    /// A job or call came in.
    pub fn received(&self, lane: Lane) {
        self.requests[lane.index()].increment(1);
    }

    /// It had been delivered before.
    pub fn redelivered(&self, lane: Lane) {
        self.redeliveries[lane.index()].increment(1);
    }

    /// What happened lately.
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// What was found of it lately, as another's shadow.
    pub const fn shadow(&self) -> &ShadowWindow {
        &self.shadow
    }

    /// Its outcome is out: `took` from its arrival on, `publish` of it to encode, send and store. `error` is that which
    /// it ended in, or the first of its texts.
    pub fn finished(
        &self,
        lane: Lane,
        took: Duration,
        demand: Demand,
        outcome: &Outcome,
        publish: Duration,
        error: Option<ErrorCode>,
    ) {
        self.ended(lane, took, demand, error);
        self.latency[lane.index()].record(took);
        self.publish.record(publish);
        if let Outcome::Result(result) = outcome {
            self.queue.record(Duration::from_micros(result.timing.queue_us));
            self.tokenize.record(Duration::from_micros(result.timing.tokenize_us));
        }
    }

    /// A job or call was refused before any of it was computed.
    pub fn refused(&self, lane: Lane, took: Duration, demand: Demand, code: ErrorCode) {
        self.error(lane, code);
        self.ended(lane, took, demand, Some(code));
    }

    /// The engine failed on a job, which goes back to be tried again.
    pub fn tried_in_vain(&self, lane: Lane, took: Duration, demand: Demand) {
        self.ended(lane, took, demand, Some(ErrorCode::EngineFailed));
    }

    fn ended(&self, lane: Lane, took: Duration, demand: Demand, error: Option<ErrorCode>) {
        let by_caller = error.is_some_and(|code| demand.is_to_blame(code));
        self.window.finished(lane, &Ended { took, age: demand.age, error, by_caller });
    }

    /// A job, call or text ended in an error.
    pub fn error(&self, lane: Lane, code: ErrorCode) {
        let [model, variant, lane] = self.with(names::LANE, lane.as_str());
        counter!(names::EMBED_ERRORS_TOTAL, &[model, variant, lane, (names::CODE, code.to_string())]).increment(1);
    }

    /// A job became a dead letter.
    pub fn dead_letter(&self, code: ErrorCode) {
        counter!(names::DEAD_LETTERS_TOTAL, &self.with(names::CODE, code.as_str())).increment(1);
    }

    /// A job ended without a dead letter, since none could be stored.
    pub fn dead_letter_unwritten(&self, code: ErrorCode) {
        counter!(names::DEAD_LETTERS_UNWRITTEN_TOTAL, &self.with(names::CODE, code.as_str())).increment(1);
    }

    /// A result was there already.
    pub fn duplicate_result(&self) {
        self.duplicate_results.increment(1);
    }

    /// A batch was run.
    pub fn run(&self, stats: &RunStats) {
        let padded = match stats.form {
            Form::Padded | Form::Spread => (stats.rows * stats.width).max(1),
            Form::Packed => stats.row_tokens.max(1),
        };
        self.texts.increment(stats.texts as u64);
        recorder::embedded(stats.texts);
        self.tokens.increment(stats.tokens as u64);
        self.batch_size.record(stats.texts as f64);
        self.batch_tokens.record(padded as f64);
        self.batch_wait.record(stats.oldest_wait);
        self.padding.record(1.0 - stats.row_tokens as f64 / padded as f64);
        self.infer.record(stats.took);
        self.busy.add(stats.busy);
        self.window.ran(stats);
        self.flushed(stats.reason);
        counter!(names::BATCH_FORM_TOTAL, &self.with(names::FORM, stats.form.as_str())).increment(1);
    }

    /// A device had too little memory for a batch.
    pub fn out_of_memory(&self, most_tokens: usize) {
        counter!(names::OUT_OF_MEMORY_TOTAL, &self.labels).increment(1);
        self.memory_bound(most_tokens);
    }

    /// Batches have at most so many tokens from now on. `usize::MAX`: as many as is configured.
    pub fn memory_bound(&self, most_tokens: usize) {
        let bound = if most_tokens == usize::MAX { f64::INFINITY } else { most_tokens as f64 };
        gauge!(names::BATCH_TOKENS_LIMIT, &self.labels).set(bound);
    }

    /// An engine fails whatever it is given, or runs again.
    pub fn engine_broken(&self, broken: bool) {
        let engines = gauge!(names::ENGINES_BROKEN, &self.labels);
        if broken { engines.increment(1.0) } else { engines.decrement(1.0) }
    }

    /// Time that runs have taken, in all.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.busy.total()
    }

    fn flushed(&self, reason: Reason) {
        counter!(names::BATCH_FLUSH_TOTAL, &self.with(names::REASON, reason.as_str())).increment(1);
    }
}

/// Seconds that add up. A counter of the library takes whole numbers.
#[derive(Debug, Default)]
struct Seconds(AtomicU64);

impl Seconds {
    fn add(&self, more: Duration) {
        self.0.fetch_add(u64::try_from(more.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn total(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_passes_in_the_queue_of_a_variant_is_no_fault_of_the_caller() {
        let demand = |age, given: Option<u64>| Demand {
            age: Duration::from_secs(age),
            deadline: given.map(Duration::from_millis),
        };
        for code in [ErrorCode::DeadlineExceeded, ErrorCode::Overloaded] {
            assert!(!demand(3, Some(2_000)).is_to_blame(code));
            assert!(!demand(3, None).is_to_blame(code));
            assert!(!demand(0, Some(10)).is_to_blame(code));
            assert!(demand(0, Some(9)).is_to_blame(code));
        }
    }
}
