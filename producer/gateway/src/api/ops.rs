//! For those who look after a gateway: whether it lives, whether it is of use, and its figures.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use embed_schemas::{metrics as names, serving::VariantState};

use crate::{Gateway, error::ApiError};

pub(crate) fn routes(metrics: bool) -> Router<Gateway> {
    let routes = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    if metrics { routes.route("/metrics", get(figures)) } else { routes }
}

/// The figures alone, without a key, for a listener of their own.
pub(crate) fn figures_alone(gateway: Gateway) -> Router {
    Router::new().route("/metrics", get(figures)).with_state(gateway)
}

/// Why it is of no use now. Empty if it is.
pub(crate) fn why_not_ready(gateway: &Gateway) -> Vec<String> {
    let mut reasons = Vec::new();
    if gateway.is_draining() {
        reasons.push("the gateway ends".to_owned());
    }
    if !gateway.link().is_up() {
        reasons.push("there is no connection to NATS".to_owned());
    }
    let served = gateway.models().served();
    let is_of_use = |state: Option<VariantState>| state != Some(VariantState::Failed);
    if !served.values().any(|variants| variants.is_empty() || variants.values().any(|v| is_of_use(v.state))) {
        reasons.push("no worker serves any model".to_owned());
    }
    reasons
}

async fn ready(State(gateway): State<Gateway>) -> Response {
    let reasons = why_not_ready(&gateway);
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn figures(State(gateway): State<Gateway>) -> Result<Response, ApiError> {
    let Some(handle) = gateway.metrics() else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "nothing is counted here"));
    };
    metrics::gauge!(names::GATEWAY_IN_FLIGHT_TEXTS).set(gateway.room().taken() as f64);
    if let Some(cache) = gateway.cache() {
        crate::metrics::cached(&cache.stats());
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response())
}
