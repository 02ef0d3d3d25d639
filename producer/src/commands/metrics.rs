//! The metrics of a command that runs for long, for Prometheus.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Router, routing::get};
use embed_http::Limits;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::print;

/// Serves them, as long as the process lives.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let handle = PrometheusBuilder::new().install_recorder().context("--metrics-listen")?;
    embed_schemas::metrics::describe();
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("--metrics-listen: cannot listen on {address}"))?;
    print::note(format_args!("metrics: http://{}/metrics", listener.local_addr()?));
    let routes = Router::new().route("/metrics", get(move || async move { handle.render() }));
    tokio::spawn(embed_http::serve(listener, routes, Limits::default()));
    Ok(())
}
