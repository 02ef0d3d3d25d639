//! What every request passes: who asks, and what is counted of it.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    access::Caller,
    api::{tei, vectors},
    error::ApiError,
    gateway::Gateway,
    metrics,
    request_id::{REQUEST_ID, RequestId},
};

/// What tells nothing, and is asked by those who look after the gateway.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/health", "/openapi.json"];

/// Lets in who may ask. Whoever may not learns the same, whatever was asked for.
pub(crate) async fn guard(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = RequestId::of(request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("other", MatchedPath::as_str).to_owned();
    let caller = caller(&gateway, &request);
    let mut response = match &caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(id.clone());
            next.run(request).await
        }
        // Not even what is there is told.
        Err(error) => as_asked(request.uri().path(), error.clone()),
    };
    if let Ok(value) = HeaderValue::from_str(id.0.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (route, key) = match &caller {
        Ok(caller) => (route.as_str(), caller.name()),
        Err(_) => ("refused", "none".into()),
    };
    metrics::answered(route, &key, response.status(), start.elapsed());
    response
}

fn caller(gateway: &Gateway, request: &Request) -> Result<Caller, ApiError> {
    let keys = gateway.keys().now();
    let path = request.uri().path();
    let is_open = OPEN.contains(&path) || vectors::is_under(path) && gateway.settings().vectors.public;
    if keys.is_empty() || is_open {
        return Ok(Caller::new(None));
    }
    let account = shown(request.headers()).and_then(|key| keys.find(key));
    account.map(|account| Caller::new(Some(account.clone()))).ok_or_else(ApiError::unauthorized)
}

/// The key that was sent along.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// An error in the shape that clients of this path read.
pub(crate) fn as_asked(path: &str, error: ApiError) -> Response {
    if tei::PATHS.contains(&path) { tei::Failed(error).into_response() } else { error.into_response() }
}
