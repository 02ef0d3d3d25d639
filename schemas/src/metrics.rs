//! Names of metrics and their labels. The prefix `akidb_` is what the platform's dashboards expect.

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

/// Gauge: the share of the traffic that a rollout's candidate has, in percent.
pub const ROLLOUT_PERCENT: &str = "akidb_rollout_percent";
/// Gauge: 1 while a rollout is under way, 0 once it is over.
pub const ROLLOUT_ACTIVE: &str = "akidb_rollout_active";
/// Gauge: 1 while a rollout is paused, until somebody decides, else 0.
pub const ROLLOUT_PAUSED: &str = "akidb_rollout_paused";
/// Gauge: windows of a rollout's step that were judged.
pub const ROLLOUT_WINDOWS: &str = "akidb_rollout_windows";
/// Gauge: requests that the evidence of a rollout's step has, by variant.
pub const ROLLOUT_REQUESTS: &str = "akidb_rollout_requests";
/// Counter: what a controller has brought about, by `state`.
pub const ROLLOUT_CHANGES_TOTAL: &str = "akidb_rollout_changes_total";
/// Counter: what failed for a controller, and was tried again.
pub const ROLLOUT_TROUBLES_TOTAL: &str = "akidb_rollout_troubles_total";

/// Counter: rows that a backfill has written.
pub const BACKFILL_ROWS_TOTAL: &str = "akidb_backfill_rows_total";
/// Counter: of these, rows without a vector.
pub const BACKFILL_FAILED_ROWS_TOTAL: &str = "akidb_backfill_failed_rows_total";
/// Counter: tokens of the rows that this run has written.
pub const BACKFILL_TOKENS_TOTAL: &str = "akidb_backfill_tokens_total";
/// Counter: bytes of the input that are done.
pub const BACKFILL_INPUT_BYTES_TOTAL: &str = "akidb_backfill_input_bytes_total";
/// Gauge: bytes of the input.
pub const BACKFILL_INPUT_SIZE_BYTES: &str = "akidb_backfill_input_size_bytes";
/// Gauge: jobs of a backfill that are in flight.
pub const BACKFILL_JOBS_IN_FLIGHT: &str = "akidb_backfill_jobs_in_flight";
/// Gauge: jobs that wait in the stream, everybody's.
pub const BACKFILL_JOBS_QUEUED: &str = "akidb_backfill_jobs_queued";
/// Gauge: 1 while a backfill begins nothing new, since a stream is nearly full.
pub const BACKFILL_HELD: &str = "akidb_backfill_held";

/// Label: the path of an HTTP request, as its route has it.
pub const ROUTE: &str = "route";
/// Label: the status of an HTTP answer.
pub const STATUS: &str = "status";
/// Label: the name of the key that an HTTP request came with.
pub const KEY: &str = "key";

/// Counter: HTTP requests that a gateway has answered, by `route`, `status` and `key`.
pub const GATEWAY_REQUESTS_TOTAL: &str = "akidb_gateway_requests_total";
/// Histogram, seconds: from an HTTP request's head to its answer, by `route`.
pub const GATEWAY_REQUEST_SECONDS: &str = "akidb_gateway_request_seconds";
/// Counter: texts that a gateway has had embedded, by `key` and `model`.
pub const GATEWAY_TEXTS_TOTAL: &str = "akidb_gateway_texts_total";
/// Counter: tokens of these.
pub const GATEWAY_TOKENS_TOTAL: &str = "akidb_gateway_tokens_total";
/// Gauge: texts that a gateway has under way.
pub const GATEWAY_IN_FLIGHT_TEXTS: &str = "akidb_gateway_in_flight_texts";
/// Gauge: 1 while a gateway is connected to NATS.
pub const GATEWAY_NATS_CONNECTED: &str = "akidb_gateway_nats_connected";
/// Histogram: texts of the batch in which a call was computed, as answers tell a gateway.
pub const GATEWAY_BATCH_SIZE: &str = "akidb_batch_size_answered";

/// Histogram, seconds: from a job's arrival at the worker to its outcome being handed to NATS.
pub const EMBED_LATENCY_SECONDS: &str = "akidb_embed_latency_seconds";
/// Counter: jobs and calls that came in.
pub const EMBED_REQUESTS_TOTAL: &str = "akidb_embed_requests_total";
/// Counter: jobs and calls that ended in an error, and texts that did, by code.
pub const EMBED_ERRORS_TOTAL: &str = "akidb_embed_errors_total";
/// Counter: texts embedded.
pub const EMBED_TEXTS_TOTAL: &str = "akidb_embed_texts_total";
/// Counter: tokens embedded, without padding.
pub const EMBED_TOKENS_TOTAL: &str = "akidb_embed_tokens_total";
/// Histogram, seconds: time spent in one stage, label `stage`.
pub const STAGE_SECONDS: &str = "akidb_stage_seconds";
/// Histogram: texts in a batch.
pub const BATCH_SIZE: &str = "akidb_batch_size";
/// Histogram: tokens in a batch, padding included.
pub const BATCH_TOKENS: &str = "akidb_batch_tokens";
/// Histogram, seconds: how long the oldest text of a batch had waited for it.
pub const BATCH_WAIT_TIME_SECONDS: &str = "akidb_batch_wait_time_seconds";
/// Counter: batches started, label `reason`.
pub const BATCH_FLUSH_TOTAL: &str = "akidb_batch_flush_total";
/// Histogram: share of a batch's tokens that is padding, 0 to 1.
pub const PADDING_RATIO: &str = "akidb_batch_padding_ratio";
/// Gauge: texts waiting for a batch.
pub const QUEUE_DEPTH: &str = "akidb_queue_depth";
/// Gauge, seconds: how long the oldest waiting text has waited.
pub const QUEUE_OLDEST_AGE_SECONDS: &str = "akidb_queue_oldest_age_seconds";
/// Gauge: texts in the worker whose result is not yet out.
pub const IN_FLIGHT_TEXTS: &str = "akidb_in_flight_texts";
/// Counter: jobs that were delivered before.
pub const REDELIVERIES_TOTAL: &str = "akidb_redeliveries_total";
/// Counter: jobs moved to the dead-letter stream, by code.
pub const DEAD_LETTERS_TOTAL: &str = "akidb_dead_letters_total";
/// Counter: jobs that ended without a dead letter, since none could be stored; the failure is stored as the outcome.
pub const DEAD_LETTERS_UNWRITTEN_TOTAL: &str = "akidb_dead_letters_unwritten_total";
/// Counter: what was not done since it would have meant to publish where no inbox is, label `kind`: `call`, `copy` (of a job's outcome),
/// `discovery`, `delivery` (of a job, with an acknowledgement that is not its own).
pub const REPLIES_REFUSED_TOTAL: &str = "akidb_replies_refused_total";
/// Label: see [`REPLIES_REFUSED_TOTAL`].
pub const KIND: &str = "kind";
/// Counter: results that the result stream held already (the job had been computed before).
pub const DUPLICATE_RESULTS_TOTAL: &str = "akidb_duplicate_results_total";
/// Gauge: 1 for the provider that a variant runs on.
pub const PROVIDER_IN_USE: &str = "akidb_provider_in_use";
/// Gauge: 1 for a provider that was to run a variant before the one that does, and cannot.
pub const PROVIDER_SKIPPED: &str = "akidb_provider_skipped";
/// Counter: versions that went live on another provider than the first of their chain, label `provider`: the one they run on.
pub const PROVIDER_FALLBACKS_TOTAL: &str = "akidb_provider_fallbacks_total";
/// Gauge: nodes of the live graph that another provider runs than the one in use.
pub const NODES_ELSEWHERE: &str = "akidb_nodes_elsewhere";
/// Counter: batches by their layout, label `form`.
pub const BATCH_FORM_TOTAL: &str = "akidb_batch_form_total";
/// Counter: runs for which a device had too little memory; they are halved and tried again.
pub const OUT_OF_MEMORY_TOTAL: &str = "akidb_out_of_memory_total";
/// Gauge: most tokens of a batch, after what a device had no memory for.
pub const BATCH_TOKENS_LIMIT: &str = "akidb_batch_tokens_limit";
/// Gauge: 1 for the version that is live, with its precision and provider; 0 for those that were.
pub const MODEL_INFO: &str = "akidb_model_info";
/// Counter: versions that went live, or failed to, label `outcome`.
pub const MODEL_SWAPS_TOTAL: &str = "akidb_model_swaps_total";
/// Histogram, seconds: from the decision to load a version to its being verified and warm.
pub const MODEL_LOAD_SECONDS: &str = "akidb_model_load_seconds";
/// Gauge: 1 if the worker is ready, else 0.
pub const READY: &str = "akidb_ready";
/// Gauge: 1 with the program's version and what it was built with.
pub const BUILD_INFO: &str = "akidb_build_info";

/// Label: what a connection carries (`calls`, `stored`).
pub const CONNECTION: &str = "connection";
/// Gauge: 1 while a connection to NATS is up, else 0.
pub const NATS_CONNECTED: &str = "akidb_nats_connected";
/// Counter: connections that were made again.
pub const NATS_RECONNECTS_TOTAL: &str = "akidb_nats_reconnects_total";
/// Counter: attempts to store an outcome or a dead letter that failed and were made again, label `stream`.
pub const STORE_RETRIES_TOTAL: &str = "akidb_store_retries_total";
/// Label: a kind of stream (`jobs`, `results`, `dead`).
pub const STREAM: &str = "stream";
/// Gauge: jobs in the stream that a variant's consumer has not delivered yet, by lane.
pub const CONSUMER_PENDING: &str = "akidb_consumer_pending";
/// Gauge: jobs that workers hold and have not acknowledged, by lane.
pub const CONSUMER_ACK_PENDING: &str = "akidb_consumer_ack_pending";
/// Gauge, seconds: age of the oldest job in the stream that a variant's consumer has to deliver, or has delivered and not got
/// acknowledged, by lane.
pub const OLDEST_JOB_AGE_SECONDS: &str = "akidb_oldest_job_age_seconds";
/// Gauge: jobs of a model that no consumer takes, since no variant is served under their subjects.
pub const UNCLAIMED_JOBS: &str = "akidb_unclaimed_jobs";
/// Gauge: bytes in a model's stream of jobs or results, label `stream`.
pub const STREAM_BYTES: &str = "akidb_stream_bytes";
/// Gauge: bytes that this stream takes before it refuses more; -1: no bound.
pub const STREAM_MAX_BYTES: &str = "akidb_stream_max_bytes";
/// Gauge: bytes that are free, for this worker, on the disk of the model cache.
pub const CACHE_DISK_FREE_BYTES: &str = "akidb_cache_disk_free_bytes";
/// Gauge: bytes of that disk.
pub const CACHE_DISK_BYTES: &str = "akidb_cache_disk_bytes";
/// Gauge: bytes of jobs and calls in the worker, by lane.
pub const IN_FLIGHT_BYTES: &str = "akidb_in_flight_bytes";
/// Gauge: messages of job streams that the worker holds.
pub const LEASES_HELD: &str = "akidb_leases_held";
/// Counter, seconds: time that runs took, over all engines.
pub const RUNNER_BUSY_SECONDS_TOTAL: &str = "akidb_runner_busy_seconds_total";
/// Gauge: texts that wait for a tokenizer, by lane.
pub const TOKENIZER_QUEUE_TEXTS: &str = "akidb_tokenizer_queue_texts";
/// Gauge: engines that fail whatever they are given.
pub const ENGINES_BROKEN: &str = "akidb_engines_broken";

/// Label: a device, by its number in NVML's order (that of the PCI bus).
pub const DEVICE: &str = "device";
/// Label: a device's own, unchanging name.
pub const UUID: &str = "uuid";
/// Label: what a device is called by its maker.
pub const PRODUCT: &str = "product";

/// Gauge: 1 for each device that is watched, with its product and UUID.
pub const GPU_INFO: &str = "akidb_gpu_info";
/// Gauge: share of the last moments in which the device computed, 0 to 1.
pub const GPU_UTILIZATION_RATIO: &str = "akidb_gpu_utilization_ratio";
/// Gauge, bytes: the device's memory in use, of all processes.
pub const GPU_MEMORY_USED_BYTES: &str = "akidb_gpu_memory_used_bytes";
/// Gauge, bytes: the device's memory.
pub const GPU_MEMORY_TOTAL_BYTES: &str = "akidb_gpu_memory_total_bytes";
/// Gauge, watts: what the device draws.
pub const GPU_POWER_WATTS: &str = "akidb_gpu_power_watts";
/// Gauge, degrees Celsius: the device's temperature.
pub const GPU_TEMPERATURE_CELSIUS: &str = "akidb_gpu_temperature_celsius";
/// Gauge: 1 while the device's clocks are held down, label `reason`; else 0.
pub const GPU_THROTTLED: &str = "akidb_gpu_throttled";
/// Gauge, in the currency of `telemetry.gpu_price_per_hour`: what the watched devices cost for a million embedded texts, over
/// the last minutes.
pub const GPU_COST_PER_MILLION_TEXTS: &str = "akidb_gpu_cost_per_million_texts";
