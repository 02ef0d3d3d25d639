//! Names of metrics and their labels, and what each metric is: [`ALL`], from which `deploy/metrics.md` is made. The prefix `akidb_` is what
//! the platform's dashboards expect.

/// Label: the model's slug.
pub const MODEL: &str = "model";
/// Label: the variant's name.
pub const MODEL_VERSION: &str = "model_version";
/// Label: the lane, see [`crate::Lane`].
pub const LANE: &str = "lane";
/// Label: the stable error code, see [`crate::ErrorCode`].
pub const CODE: &str = "code";
/// Label: the execution provider in use.
pub const PROVIDER: &str = "provider";
/// Label: why a batch was started.
pub const REASON: &str = "reason";
/// Label: a stage of the pipeline (`queue`, `tokenize`, `infer`, `publish`).
pub const STAGE: &str = "stage";
/// Label: a version of a model.
pub const VERSION: &str = "version";
/// Label: the number format of a graph.
pub const PRECISION: &str = "precision";
/// Label: how a batch was laid out (`padded`, `packed`).
pub const FORM: &str = "form";
/// Label: how something ended.
pub const OUTCOME: &str = "outcome";
/// Label: what a rollout is doing, or how it has ended.
pub const STATE: &str = "state";
/// Label: see [`REPLIES_REFUSED_TOTAL`].
pub const KIND: &str = "kind";
/// Label: what a connection carries (`calls`, `stored`).
pub const CONNECTION: &str = "connection";
/// Label: a kind of stream (`jobs`, `results`, `dead`).
pub const STREAM: &str = "stream";
/// Label: the path of an HTTP request, as its route has it.
pub const ROUTE: &str = "route";
/// Label: the status of an HTTP answer.
pub const STATUS: &str = "status";
/// Label: the name of the key that an HTTP request came with.
pub const KEY: &str = "key";
/// Label: a device, by its number in NVML's order (that of the PCI bus).
pub const DEVICE: &str = "device";
/// Label: a device's own, unchanging name.
pub const UUID: &str = "uuid";
/// Label: what a device is called by its maker.
pub const PRODUCT: &str = "product";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, from 0 at the start of the process.
    Counter,
    /// A value of now.
    Gauge,
    /// Counts in buckets: `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric that a program of this project exposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit of its values; empty for a count or a truth value.
    pub unit: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, in Markdown.
    pub meaning: &'static str,
}

/// Tells this process's recorder what each metric is.
#[cfg(feature = "recorder")]
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.meaning),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.meaning),
            Kind::Histogram => ::metrics::describe_histogram!(metric.name, metric.meaning),
        }
    }
}

/// Makes a name of each, and the list of all.
macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $kind:ident($unit:literal) $name:ident = $text:literal [$($label:ident),*];)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every metric.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $text,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            meaning: concat!($($doc),+).trim_ascii(),
        }),+];
    };
}

metrics! {
    /// The share of the traffic that a rollout's candidate has, in percent.
    Gauge("") ROLLOUT_PERCENT = "akidb_rollout_percent" [MODEL];
    /// 1 while a rollout is under way, 0 once it is over.
    Gauge("") ROLLOUT_ACTIVE = "akidb_rollout_active" [MODEL];
    /// 1 while a rollout is paused, until somebody decides, else 0.
    Gauge("") ROLLOUT_PAUSED = "akidb_rollout_paused" [MODEL];
    /// Windows of a rollout's step that were judged.
    Gauge("") ROLLOUT_WINDOWS = "akidb_rollout_windows" [MODEL];
    /// Requests that the evidence of a rollout's step has, by variant.
    Gauge("") ROLLOUT_REQUESTS = "akidb_rollout_requests" [MODEL, MODEL_VERSION];
    /// What a controller has brought about, by `state`.
    Counter("") ROLLOUT_CHANGES_TOTAL = "akidb_rollout_changes_total" [MODEL, STATE];
    /// What failed for a controller, and was tried again.
    Counter("") ROLLOUT_TROUBLES_TOTAL = "akidb_rollout_troubles_total" [];
    /// Rows that a backfill has written.
    Counter("") BACKFILL_ROWS_TOTAL = "akidb_backfill_rows_total" [];
    /// Of these, rows without a vector.
    Counter("") BACKFILL_FAILED_ROWS_TOTAL = "akidb_backfill_failed_rows_total" [];
    /// Tokens of the rows that this run has written.
    Counter("") BACKFILL_TOKENS_TOTAL = "akidb_backfill_tokens_total" [];
    /// Bytes of the input that are done.
    Counter("bytes") BACKFILL_INPUT_BYTES_TOTAL = "akidb_backfill_input_bytes_total" [];
    /// Bytes of the input.
    Gauge("bytes") BACKFILL_INPUT_SIZE_BYTES = "akidb_backfill_input_size_bytes" [];
    /// Jobs of a backfill that are in flight.
    Gauge("") BACKFILL_JOBS_IN_FLIGHT = "akidb_backfill_jobs_in_flight" [];
    /// Jobs that wait in the stream, everybody's.
    Gauge("") BACKFILL_JOBS_QUEUED = "akidb_backfill_jobs_queued" [];
    /// 1 while a backfill begins nothing new, since a stream is nearly full.
    Gauge("") BACKFILL_HELD = "akidb_backfill_held" [];
    /// HTTP requests that a gateway has answered, by `route`, `status` and `key`.
    Counter("") GATEWAY_REQUESTS_TOTAL = "akidb_gateway_requests_total" [ROUTE, STATUS, KEY];
    /// From an HTTP request's head to its answer, by `route`.
    Histogram("seconds") GATEWAY_REQUEST_SECONDS = "akidb_gateway_request_seconds" [ROUTE];
    /// Texts that a gateway has had embedded, by `key` and `model`.
    Counter("") GATEWAY_TEXTS_TOTAL = "akidb_gateway_texts_total" [KEY, MODEL];
    /// Tokens of these.
    Counter("") GATEWAY_TOKENS_TOTAL = "akidb_gateway_tokens_total" [KEY, MODEL];
    /// Texts that a gateway has under way.
    Gauge("") GATEWAY_IN_FLIGHT_TEXTS = "akidb_gateway_in_flight_texts" [];
    /// 1 while a gateway is connected to NATS.
    Gauge("") GATEWAY_NATS_CONNECTED = "akidb_gateway_nats_connected" [];
    /// Texts that a gateway has looked for in its cache, by `outcome`: `hit`, `stored`, which were in the level below, `miss`, or `joined`, which came
    /// with another's call.
    Counter("") GATEWAY_CACHE_TEXTS_TOTAL = "akidb_gateway_cache_texts_total" [OUTCOME];
    /// Bytes of vectors in a gateway's cache.
    Gauge("bytes") GATEWAY_CACHE_BYTES = "akidb_gateway_cache_bytes" [];
    /// Vectors that a gateway has looked for in its object store, by `outcome`: `hit`, `miss`, `damaged` (counted as a miss as well), `failed`, `late`, or
    /// `skipped`, since the store has failed or been late again and again.
    Counter("") GATEWAY_VECTOR_READS_TOTAL = "akidb_gateway_vector_reads_total" [OUTCOME];
    /// Vectors that were to be kept in it, by `outcome`: `stored`, `known`, which was there, `failed`, or `dropped`, since too many waited.
    Counter("") GATEWAY_VECTOR_WRITES_TOTAL = "akidb_gateway_vector_writes_total" [OUTCOME];
    /// Texts of the batch in which a call was computed, as answers tell a gateway.
    Histogram("") GATEWAY_BATCH_SIZE = "akidb_batch_size_answered" [MODEL];
    /// From a job's arrival at the worker to its outcome being handed to NATS.
    Histogram("seconds") EMBED_LATENCY_SECONDS = "akidb_embed_latency_seconds" [MODEL, MODEL_VERSION, LANE];
    /// Jobs and calls that came in.
    Counter("") EMBED_REQUESTS_TOTAL = "akidb_embed_requests_total" [MODEL, MODEL_VERSION, LANE];
    /// Jobs and calls that ended in an error, and texts that did, by code.
    Counter("") EMBED_ERRORS_TOTAL = "akidb_embed_errors_total" [MODEL, MODEL_VERSION, LANE, CODE];
    /// Texts embedded.
    Counter("") EMBED_TEXTS_TOTAL = "akidb_embed_texts_total" [MODEL, MODEL_VERSION];
    /// Tokens embedded, without padding.
    Counter("") EMBED_TOKENS_TOTAL = "akidb_embed_tokens_total" [MODEL, MODEL_VERSION];
    /// Time spent in one stage, label `stage`.
    Histogram("seconds") STAGE_SECONDS = "akidb_stage_seconds" [MODEL, MODEL_VERSION, STAGE];
    /// Texts in a batch.
    Histogram("") BATCH_SIZE = "akidb_batch_size" [MODEL, MODEL_VERSION];
    /// Tokens in a batch, padding included.
    Histogram("") BATCH_TOKENS = "akidb_batch_tokens" [MODEL, MODEL_VERSION];
    /// How long the oldest text of a batch had waited for it.
    Histogram("seconds") BATCH_WAIT_TIME_SECONDS = "akidb_batch_wait_time_seconds" [MODEL, MODEL_VERSION];
    /// Batches started, label `reason`.
    Counter("") BATCH_FLUSH_TOTAL = "akidb_batch_flush_total" [MODEL, MODEL_VERSION, REASON];
    /// Share of a batch's tokens that is padding, 0 to 1.
    Histogram("") PADDING_RATIO = "akidb_batch_padding_ratio" [MODEL, MODEL_VERSION];
    /// Texts waiting for a batch.
    Gauge("") QUEUE_DEPTH = "akidb_queue_depth" [MODEL, MODEL_VERSION, LANE];
    /// How long the oldest waiting text has waited.
    Gauge("seconds") QUEUE_OLDEST_AGE_SECONDS = "akidb_queue_oldest_age_seconds" [MODEL, MODEL_VERSION, LANE];
    /// Texts in the worker whose result is not yet out.
    Gauge("") IN_FLIGHT_TEXTS = "akidb_in_flight_texts" [MODEL, MODEL_VERSION, LANE];
    /// Jobs that were delivered before.
    Counter("") REDELIVERIES_TOTAL = "akidb_redeliveries_total" [MODEL, MODEL_VERSION, LANE];
    /// Jobs moved to the dead-letter stream, by code.
    Counter("") DEAD_LETTERS_TOTAL = "akidb_dead_letters_total" [MODEL, MODEL_VERSION, CODE];
    /// Jobs that ended without a dead letter, since none could be stored; the failure is stored as the outcome.
    Counter("") DEAD_LETTERS_UNWRITTEN_TOTAL = "akidb_dead_letters_unwritten_total" [MODEL, MODEL_VERSION, CODE];
    /// What was not done since it would have meant to publish where no inbox is, label `kind`: `call`, `copy` (of a job's outcome),
    /// `discovery`, `delivery` (of a job, with an acknowledgement that is not its own).
    Counter("") REPLIES_REFUSED_TOTAL = "akidb_replies_refused_total" [KIND];
    /// Results that the result stream held already (the job had been computed before).
    Counter("") DUPLICATE_RESULTS_TOTAL = "akidb_duplicate_results_total" [MODEL, MODEL_VERSION];
    /// 1 for the provider that a variant runs on.
    Gauge("") PROVIDER_IN_USE = "akidb_provider_in_use" [MODEL, MODEL_VERSION, PROVIDER];
    /// 1 for a provider that was to run a variant before the one that does, and cannot.
    Gauge("") PROVIDER_SKIPPED = "akidb_provider_skipped" [MODEL, MODEL_VERSION, PROVIDER];
    /// Versions that went live on another provider than the first of their chain, label `provider`: the one they run on.
    Counter("") PROVIDER_FALLBACKS_TOTAL = "akidb_provider_fallbacks_total" [MODEL, MODEL_VERSION, PROVIDER];
    /// Nodes of the live graph that another provider runs than the one in use.
    Gauge("") NODES_ELSEWHERE = "akidb_nodes_elsewhere" [MODEL, MODEL_VERSION];
    /// Batches by their layout, label `form`.
    Counter("") BATCH_FORM_TOTAL = "akidb_batch_form_total" [MODEL, MODEL_VERSION, FORM];
    /// Runs for which a device had too little memory; they are halved and tried again.
    Counter("") OUT_OF_MEMORY_TOTAL = "akidb_out_of_memory_total" [MODEL, MODEL_VERSION];
    /// Most tokens of a batch, after what a device had no memory for.
    Gauge("") BATCH_TOKENS_LIMIT = "akidb_batch_tokens_limit" [MODEL, MODEL_VERSION];
    /// 1 for the version that is live, with its precision and provider; 0 for those that were.
    Gauge("") MODEL_INFO = "akidb_model_info" [MODEL, MODEL_VERSION, VERSION, PRECISION, PROVIDER];
    /// 1 while the worker takes a variant's calls and jobs; 0 while it leaves them to others, since what is wanted cannot be served here and nothing
    /// else is live.
    Gauge("") VARIANT_SERVED = "akidb_variant_served" [MODEL, MODEL_VERSION];
    /// Versions that went live, or failed to, label `outcome`.
    Counter("") MODEL_SWAPS_TOTAL = "akidb_model_swaps_total" [MODEL, MODEL_VERSION, OUTCOME];
    /// From the decision to load a version to its being verified and warm.
    Histogram("seconds") MODEL_LOAD_SECONDS = "akidb_model_load_seconds" [MODEL, MODEL_VERSION];
    /// 1 if the worker is ready, else 0.
    Gauge("") READY = "akidb_ready" [];
    /// 1 with the program's version and what it was built with.
    Gauge("") BUILD_INFO = "akidb_build_info" [VERSION];
    /// 1 while a connection to NATS is up, else 0.
    Gauge("") NATS_CONNECTED = "akidb_nats_connected" [CONNECTION];
    /// Connections that were made again.
    Counter("") NATS_RECONNECTS_TOTAL = "akidb_nats_reconnects_total" [CONNECTION];
    /// Attempts to store an outcome or a dead letter that failed and were made again, label `stream`.
    Counter("") STORE_RETRIES_TOTAL = "akidb_store_retries_total" [STREAM];
    /// Jobs in the stream that a variant's consumer has not delivered yet, by lane.
    Gauge("") CONSUMER_PENDING = "akidb_consumer_pending" [MODEL, MODEL_VERSION, LANE];
    /// Jobs that workers hold and have not acknowledged, by lane.
    Gauge("") CONSUMER_ACK_PENDING = "akidb_consumer_ack_pending" [MODEL, MODEL_VERSION, LANE];
    /// Age of the oldest job in the stream that a variant's consumer has to deliver, or has delivered and not got acknowledged, by lane.
    Gauge("seconds") OLDEST_JOB_AGE_SECONDS = "akidb_oldest_job_age_seconds" [MODEL, MODEL_VERSION, LANE];
    /// Jobs of a model that no consumer takes, since no variant is served under their subjects.
    Gauge("") UNCLAIMED_JOBS = "akidb_unclaimed_jobs" [MODEL];
    /// Bytes in a model's stream of jobs or results, label `stream`.
    Gauge("bytes") STREAM_BYTES = "akidb_stream_bytes" [MODEL, STREAM];
    /// Bytes that this stream takes before it refuses more; -1: no bound.
    Gauge("bytes") STREAM_MAX_BYTES = "akidb_stream_max_bytes" [MODEL, STREAM];
    /// Bytes that are free, for this worker, on the disk of the model cache.
    Gauge("bytes") CACHE_DISK_FREE_BYTES = "akidb_cache_disk_free_bytes" [];
    /// Bytes of that disk.
    Gauge("bytes") CACHE_DISK_BYTES = "akidb_cache_disk_bytes" [];
    /// Bytes of jobs and calls in the worker, by lane.
    Gauge("bytes") IN_FLIGHT_BYTES = "akidb_in_flight_bytes" [MODEL, MODEL_VERSION, LANE];
    /// Messages of job streams that the worker holds.
    Gauge("") LEASES_HELD = "akidb_leases_held" [];
    /// Time that runs took, over all engines.
    Counter("seconds") RUNNER_BUSY_SECONDS_TOTAL = "akidb_runner_busy_seconds_total" [MODEL, MODEL_VERSION];
    /// Texts that wait for a tokenizer, by lane.
    Gauge("") TOKENIZER_QUEUE_TEXTS = "akidb_tokenizer_queue_texts" [MODEL, MODEL_VERSION, LANE];
    /// Engines that fail whatever they are given.
    Gauge("") ENGINES_BROKEN = "akidb_engines_broken" [MODEL, MODEL_VERSION];
    /// 1 for each device that is watched, with its product and UUID.
    Gauge("") GPU_INFO = "akidb_gpu_info" [DEVICE, PRODUCT, UUID];
    /// Share of the last moments in which the device computed, 0 to 1.
    Gauge("") GPU_UTILIZATION_RATIO = "akidb_gpu_utilization_ratio" [DEVICE];
    /// The device's memory in use, of all processes.
    Gauge("bytes") GPU_MEMORY_USED_BYTES = "akidb_gpu_memory_used_bytes" [DEVICE];
    /// The device's memory.
    Gauge("bytes") GPU_MEMORY_TOTAL_BYTES = "akidb_gpu_memory_total_bytes" [DEVICE];
    /// What the device draws.
    Gauge("watts") GPU_POWER_WATTS = "akidb_gpu_power_watts" [DEVICE];
    /// The device's temperature.
    Gauge("degrees Celsius") GPU_TEMPERATURE_CELSIUS = "akidb_gpu_temperature_celsius" [DEVICE];
    /// 1 while the device's clocks are held down, label `reason`; else 0.
    Gauge("") GPU_THROTTLED = "akidb_gpu_throttled" [DEVICE, REASON];
    /// What the watched devices cost for a million embedded texts, over the last minutes, in the currency of `telemetry.gpu_price_per_hour`.
    Gauge("currency") GPU_COST_PER_MILLION_TEXTS = "akidb_gpu_cost_per_million_texts" [];
    /// Spans that the collector of traces took. Absent where nothing is recorded.
    Counter("") SPANS_EXPORTED_TOTAL = "akidb_spans_exported_total" [];
    /// Spans that were lost: `queue_full`, or `not_taken` by the collector. Absent where nothing is recorded.
    Counter("") SPANS_DROPPED_TOTAL = "akidb_spans_dropped_total" [REASON];
    /// `akidb_gpu_utilization_ratio` under the name, and in the unit, of GPU monitoring agents.
    Gauge("percent") NVIDIA_GPU_DUTY_CYCLE = "nvidia_gpu_duty_cycle" [DEVICE];
    /// `akidb_gpu_memory_used_bytes` under the name of GPU monitoring agents.
    Gauge("bytes") NVIDIA_GPU_MEMORY_USAGE_BYTES = "nvidia_gpu_memory_usage_bytes" [DEVICE];
}
