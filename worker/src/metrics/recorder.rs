//! The process's metrics: how they are recorded, their buckets, and what each is for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use embed_schemas::metrics as names;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use parking_lot::Mutex;

use crate::supervise::Supervisor;

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

/// A gauge that nobody has set for so long is left out: what it measured is gone. All others are set at least every [`SET_GAUGES`].
const FORGET_GAUGES: Duration = Duration::from_secs(120);
/// So often, all gauges are set.
pub const SET_GAUGES: Duration = Duration::from_secs(5);

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
pub fn install(supervisor: &Supervisor) -> Result<PrometheusHandle, BuildError> {
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock();
    let handle = match &*installed {
        Some(handle) => handle.clone(),
        None => installed.insert(install_once()?).clone(),
    };
    let upkeep = handle.clone();
    let task = async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    };
    supervisor.spawn("the upkeep of metrics", task).detach();
    Ok(handle)
}

fn install_once() -> Result<PrometheusHandle, BuildError> {
    let buckets = [
        ("_seconds", SECONDS),
        (names::BATCH_SIZE, SIZES),
        (names::BATCH_TOKENS, TOKENS),
        (names::PADDING_RATIO, SHARES),
    ];
    // What nobody sets any more is of something that is gone.
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGET_GAUGES));
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
        (NATS_RECONNECTS_TOTAL, "Connections to NATS that were made again"),
        (STORE_RETRIES_TOTAL, "Attempts to store an outcome or a dead letter that were made again, by stream"),
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
        (BUILD_INFO, "1, with the program's version"),
        (NATS_CONNECTED, "1 while a connection to NATS is up"),
        (CONSUMER_PENDING, "Jobs that a variant's consumer has not delivered yet"),
        (CONSUMER_ACK_PENDING, "Jobs that workers hold"),
        (OLDEST_JOB_AGE_SECONDS, "Age of the oldest job in the stream that a variant has to do"),
        (UNCLAIMED_JOBS, "Jobs that no consumer takes"),
        (STREAM_BYTES, "Bytes in a stream of jobs or results"),
        (STREAM_MAX_BYTES, "Bytes that the stream takes before it refuses more; -1: no bound"),
        (CACHE_DISK_FREE_BYTES, "Bytes that are free on the disk of the model cache"),
        (CACHE_DISK_BYTES, "Bytes of the disk of the model cache"),
        (IN_FLIGHT_BYTES, "Bytes of jobs and calls in the worker"),
        (LEASES_HELD, "Messages of job streams that the worker holds"),
        (RUNNER_BUSY_SECONDS_TOTAL, "Time that runs took, over all engines"),
        (TOKENIZER_QUEUE_TEXTS, "Texts that wait for a tokenizer"),
        (ENGINES_BROKEN, "Engines that fail whatever they are given"),
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

/// So many texts more have been embedded.
pub(super) fn embedded(texts: usize) {
    EMBEDDED.fetch_add(texts as u64, Ordering::Relaxed);
}
