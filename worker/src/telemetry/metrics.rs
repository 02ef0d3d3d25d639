//! All metrics: handles are made once per variant, so that the hot path looks nothing up.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use embed_schemas::{ErrorCode, Lane, Outcome, Slug, metrics as names};
use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::Window;
use crate::{
    batch::{Form, Reason},
    config::Provider,
    engine::RunStats,
    serving::Pipeline,
};

const SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];
const TOKENS: &[f64] =
    &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
const SHARES: &[f64] = &[0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9];

/// So often, recorded values are counted into their buckets. Until then each is kept on its own, and if nobody fetches
/// the metrics, that is for ever.
const UPKEEP: Duration = Duration::from_secs(5);

/// Texts embedded by this process, as in the counter, which cannot be read.
static EMBEDDED: AtomicU64 = AtomicU64::new(0);

/// How many texts this process has embedded.
pub fn texts_embedded() -> u64 {
    EMBEDDED.load(Ordering::Relaxed)
}

/// Makes this process's metrics recordable, and keeps them small. In a runtime; once in a process, later calls get the same.
///
/// # Errors
/// If there is another recorder already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    let handle = match &*installed {
        Some(handle) => handle.clone(),
        None => installed.insert(install_once()?).clone(),
    };
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

fn install_once() -> Result<PrometheusHandle, BuildError> {
    let buckets = [
        ("_seconds", SECONDS),
        (names::BATCH_SIZE, SIZES),
        (names::BATCH_TOKENS, TOKENS),
        (names::PADDING_RATIO, SHARES),
    ];
    let mut builder = PrometheusBuilder::new();
    for (suffix, bounds) in buckets {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), bounds)?;
    }
    let handle = builder.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    use names::*;
    for (name, text) in [
        (EMBED_LATENCY_SECONDS, "From a job's arrival at the worker to its outcome being sent"),
        (STAGE_SECONDS, "Time spent in one stage of the pipeline"),
        (BATCH_WAIT_TIME_SECONDS, "How long the oldest text of a batch had waited"),
        (MODEL_LOAD_SECONDS, "From the decision to load a version to its being verified and warm"),
    ] {
        describe_histogram!(name, Unit::Seconds, text);
    }
    for (name, text) in [
        (BATCH_SIZE, "Texts in a batch"),
        (BATCH_TOKENS, "Tokens in a batch, padding included"),
        (PADDING_RATIO, "Share of a batch's tokens that is padding"),
    ] {
        describe_histogram!(name, Unit::Count, text);
    }
    for (name, text) in [
        (EMBED_REQUESTS_TOTAL, "Jobs and calls that came in"),
        (EMBED_ERRORS_TOTAL, "Errors of jobs, calls and single texts, by code"),
        (EMBED_TEXTS_TOTAL, "Texts embedded"),
        (EMBED_TOKENS_TOTAL, "Tokens embedded, without padding"),
        (BATCH_FLUSH_TOTAL, "Batches, by what started them"),
        (REDELIVERIES_TOTAL, "Jobs that were delivered before"),
        (DEAD_LETTERS_TOTAL, "Jobs moved to the dead-letter stream, by code"),
        (DUPLICATE_RESULTS_TOTAL, "Results that were in the results stream already"),
        (MODEL_SWAPS_TOTAL, "Versions that went live, or failed to"),
        (PROVIDER_FALLBACKS_TOTAL, "Versions that went live on another provider than the first of their chain"),
        (BATCH_FORM_TOTAL, "Batches, by their layout"),
        (OUT_OF_MEMORY_TOTAL, "Runs for which a device had too little memory"),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    for (name, text) in [
        (QUEUE_DEPTH, "Texts waiting for a batch"),
        (QUEUE_OLDEST_AGE_SECONDS, "How long the oldest waiting text has waited"),
        (IN_FLIGHT_TEXTS, "Texts in the worker whose result is not yet out"),
        (PROVIDER_IN_USE, "1 for the execution provider that a variant runs on"),
        (PROVIDER_SKIPPED, "1 for an execution provider that was to run a variant first, and cannot"),
        (NODES_ELSEWHERE, "Nodes of the live graph that another provider runs"),
        (BATCH_TOKENS_LIMIT, "Most tokens of a batch, after what a device had no memory for"),
        (MODEL_INFO, "1 for the version that is live, 0 for those that were"),
        (READY, "1 if the worker is ready"),
        (GPU_INFO, "1 for each GPU that is watched"),
        (GPU_UTILIZATION_RATIO, "Share of the last moments in which the GPU computed"),
        (GPU_MEMORY_USED_BYTES, "Memory of the GPU in use, of all processes"),
        (GPU_MEMORY_TOTAL_BYTES, "Memory of the GPU"),
        (GPU_POWER_WATTS, "What the GPU draws"),
        (GPU_TEMPERATURE_CELSIUS, "The GPU's temperature"),
        (GPU_THROTTLED, "1 while the GPU's clocks are held down, by reason"),
        (GPU_COST_PER_MILLION_TEXTS, "What the watched GPUs cost for a million embedded texts, over the last minutes"),
    ] {
        describe_gauge!(name, Unit::Count, text);
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
    window: Window,
}

impl VariantMetrics {
    /// The handles for a variant.
    pub fn new(model: &Slug, variant: &Slug) -> Self {
        let labels = [(names::MODEL, model.to_string()), (names::MODEL_VERSION, variant.to_string())];
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
            window: Window::default(),
            labels,
        }
    }

    fn with(&self, name: &'static str, value: &str) -> [(&'static str, String); 3] {
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

    /// Its outcome is out: `took` from its arrival on, `publish` of it to encode, send and store. `error` is that which
    /// it ended in, or the first of its texts.
    pub fn finished(&self, lane: Lane, took: Duration, outcome: &Outcome, publish: Duration, error: Option<ErrorCode>) {
        self.window.finished(lane, took, error);
        self.latency[lane.index()].record(took);
        self.publish.record(publish);
        if let Outcome::Result(result) = outcome {
            self.queue.record(Duration::from_micros(result.timing.queue_us));
            self.tokenize.record(Duration::from_micros(result.timing.tokenize_us));
        }
    }

    /// A job or call was refused before any of it was computed.
    pub fn refused(&self, lane: Lane, took: Duration, code: ErrorCode) {
        self.error(lane, code);
        self.window.finished(lane, took, Some(code));
    }

    /// The engine failed on a job, which goes back to be tried again.
    pub fn tried_in_vain(&self, lane: Lane, took: Duration) {
        self.window.finished(lane, took, Some(ErrorCode::EngineFailed));
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

    /// A result was there already.
    pub fn duplicate_result(&self) {
        self.duplicate_results.increment(1);
    }

    /// A batch was run.
    pub fn run(&self, stats: &RunStats) {
        let padded = match stats.form {
            Form::Padded => (stats.rows * stats.width).max(1),
            Form::Packed => stats.tokens.max(1),
        };
        self.texts.increment(stats.texts as u64);
        EMBEDDED.fetch_add(stats.texts as u64, Ordering::Relaxed);
        self.tokens.increment(stats.tokens as u64);
        self.batch_size.record(stats.texts as f64);
        self.batch_tokens.record(padded as f64);
        self.batch_wait.record(stats.oldest_wait);
        self.padding.record(1.0 - stats.tokens as f64 / padded as f64);
        self.infer.record(stats.took);
        self.window.ran(stats);
        self.flushed(stats.reason);
        counter!(names::BATCH_FORM_TOTAL, &self.with(names::FORM, stats.form.as_str())).increment(1);
    }

    /// A device had too little memory for a batch.
    pub fn out_of_memory(&self, most_tokens: usize) {
        counter!(names::OUT_OF_MEMORY_TOTAL, &self.labels).increment(1);
        gauge!(names::BATCH_TOKENS_LIMIT, &self.labels).set(most_tokens as f64);
    }

    fn flushed(&self, reason: Reason) {
        counter!(names::BATCH_FLUSH_TOTAL, &self.with(names::REASON, reason.as_str())).increment(1);
    }
}

/// Sets the gauges to what is true now. Called when somebody asks.
pub fn update_gauges(pipeline: &Pipeline) {
    let variant = &pipeline.variant;
    for lane in Lane::ALL {
        let labels = variant.metrics.with(names::LANE, lane.as_str());
        let depth = pipeline.depth(lane);
        gauge!(names::QUEUE_DEPTH, &labels).set(depth.texts as f64);
        gauge!(names::QUEUE_OLDEST_AGE_SECONDS, &labels).set(depth.oldest.as_secs_f64());
        gauge!(names::IN_FLIGHT_TEXTS, &labels).set(variant.in_flight(lane) as f64);
    }
    let running = &pipeline.version.running;
    let on = |provider: &str| variant.metrics.with(names::PROVIDER, provider);
    for provider in Provider::ALL {
        let skipped = running.skipped.iter().any(|one| one.provider == provider);
        gauge!(names::PROVIDER_IN_USE, &on(provider.as_str())).set(f64::from(u8::from(provider == running.provider)));
        gauge!(names::PROVIDER_SKIPPED, &on(provider.as_str())).set(f64::from(u8::from(skipped)));
    }
    if let Some(nodes) = running.nodes_elsewhere {
        gauge!(names::NODES_ELSEWHERE, &variant.metrics.labels).set(nodes as f64);
    }
}
