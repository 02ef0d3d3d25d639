//! A backfill's metrics, for Prometheus.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Router, routing::get};
use embed_backfill::Progress;
use embed_http::Limits;
use embed_schemas::metrics as names;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::super::print;

/// Serves them, as long as the process lives.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let handle = PrometheusBuilder::new().install_recorder().context("--metrics-listen")?;
    describe_counter!(names::BACKFILL_ROWS_TOTAL, "Rows written, by earlier runs of the backfill too");
    describe_counter!(names::BACKFILL_FAILED_ROWS_TOTAL, "Of the rows written, those that have no vector");
    describe_counter!(names::BACKFILL_TOKENS_TOTAL, "Tokens of the rows written by this run");
    describe_counter!(names::BACKFILL_INPUT_BYTES_TOTAL, "Bytes of the input that are done");
    describe_gauge!(names::BACKFILL_INPUT_SIZE_BYTES, "Bytes of the input");
    describe_gauge!(names::BACKFILL_JOBS_IN_FLIGHT, "Jobs of the backfill that are in flight");
    describe_gauge!(names::BACKFILL_JOBS_QUEUED, "Jobs that wait in their stream, everybody's");
    describe_gauge!(names::BACKFILL_HELD, "1 while nothing new is begun, since a stream is nearly full");
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?;
    print::note(format_args!("metrics: http://{}/metrics", listener.local_addr()?));
    let routes = Router::new().route("/metrics", get(move || async move { handle.render() }));
    tokio::spawn(embed_http::serve(listener, routes, Limits::default()));
    Ok(())
}

/// Counts what a backfill has to tell. Without a recorder it counts for nobody.
pub(super) fn hear(progress: &Progress) {
    counter!(names::BACKFILL_ROWS_TOTAL).absolute(progress.rows);
    counter!(names::BACKFILL_FAILED_ROWS_TOTAL).absolute(progress.failed);
    counter!(names::BACKFILL_TOKENS_TOTAL).absolute(progress.tokens_now);
    counter!(names::BACKFILL_INPUT_BYTES_TOTAL).absolute(progress.input_bytes);
    // Precise up to 2^53.
    if let Some(size) = progress.input_size {
        gauge!(names::BACKFILL_INPUT_SIZE_BYTES).set(size as f64);
    }
    gauge!(names::BACKFILL_JOBS_IN_FLIGHT).set(progress.in_flight as f64);
    if let Some(waiting) = progress.waiting {
        gauge!(names::BACKFILL_JOBS_QUEUED).set(waiting as f64);
    }
    gauge!(names::BACKFILL_HELD).set(f64::from(u8::from(progress.is_held)));
}
