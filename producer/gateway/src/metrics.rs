//! What is counted. Labels are bounded: routes, statuses, the names of keys, and models that are served.

use std::time::Duration;

use axum::http::StatusCode;
use embed_client::cache::CacheStats;
use embed_schemas::{Timing, metrics as names};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Bounds of times, in seconds: a tenth of a millisecond is told from two, and half a minute from a whole one.
const SECONDS: [f64; 17] =
    [0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];
const TEXTS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 512.0, 2048.0];

/// Makes the recorder of this process, and what `/metrics` shows of it.
///
/// # Errors
/// If there is one already.
pub fn recorder() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(names::GATEWAY_BATCH_SIZE.to_owned()), &TEXTS)?
        .install_recorder()?;
    names::describe();
    Ok(handle)
}

/// A request was answered.
pub(crate) fn answered(route: &str, key: &str, status: StatusCode, took: Duration) {
    counter!(
        names::GATEWAY_REQUESTS_TOTAL,
        names::ROUTE => route.to_owned(), names::STATUS => status.as_u16().to_string(), names::KEY => key.to_owned()
    )
    .increment(1);
    histogram!(names::GATEWAY_REQUEST_SECONDS, names::ROUTE => route.to_owned()).record(took);
}

/// What became of the texts that were looked for in the cache.
pub(crate) fn cached(stats: &CacheStats) {
    let CacheStats { hits, stored, misses, joined, .. } = *stats;
    for (outcome, texts) in [("hit", hits), ("stored", stored), ("miss", misses), ("joined", joined)] {
        counter!(names::GATEWAY_CACHE_TEXTS_TOTAL, names::OUTCOME => outcome).absolute(texts);
    }
    gauge!(names::GATEWAY_CACHE_BYTES).set(stats.bytes as f64);
}

/// Kept vectors were looked for.
pub(crate) fn vectors_read(outcome: &'static str, count: usize) {
    counter!(names::GATEWAY_VECTOR_READS_TOTAL, names::OUTCOME => outcome).increment(count as u64);
}

/// A vector was to be kept.
pub(crate) fn vectors_written(outcome: &'static str) {
    counter!(names::GATEWAY_VECTOR_WRITES_TOTAL, names::OUTCOME => outcome).increment(1);
}

/// Texts were embedded.
pub(crate) fn embedded(key: &str, model: &str, texts: usize, tokens: u64, timing: &Timing) {
    let labels = [(names::KEY, key.to_owned()), (names::MODEL, model.to_owned())];
    counter!(names::GATEWAY_TEXTS_TOTAL, &labels).increment(texts as u64);
    counter!(names::GATEWAY_TOKENS_TOTAL, &labels).increment(tokens);
    // What was in the cache was in no batch.
    if timing.batch_size > 0 {
        histogram!(names::GATEWAY_BATCH_SIZE, names::MODEL => model.to_owned()).record(timing.batch_size);
    }
}
