//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use embed_http::Limits;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use super::{Gauges, Health, Readiness};

struct Shared {
    health: Arc<Health>,
    gauges: Arc<Gauges>,
    metrics: PrometheusHandle,
}

/// Serves on an open listener until the future is dropped. `ready_timeout`: how long a self-test may take.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    gauges: Arc<Gauges>,
    metrics: PrometheusHandle,
    ready_timeout: Duration,
) -> Infallible {
    let routes = Router::new()
        .route("/metrics", get(render))
        // Alive: the process answers. Whether it is of any use is readiness.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::new(Shared { health, gauges, metrics }));
    let limits = Limits::default();
    embed_http::serve(listener, routes, Limits { request: limits.request + ready_timeout, ..limits }).await
}

async fn render(State(shared): State<Arc<Shared>>) -> Response {
    shared.gauges.set();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render()).into_response()
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let Readiness { reasons, notes } = shared.health.readiness().await;
    let lines = |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect::<String>();
    if reasons.is_empty() {
        return ("ready\n".to_owned() + &lines(notes)).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, lines(reasons) + &lines(notes)).into_response()
}
