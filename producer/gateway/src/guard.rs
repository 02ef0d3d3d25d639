//! What every request passes: who asks, and what is counted of it.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use embed_client::{JobId, new_id};

use super::Caller;
use crate::{error::ApiError, gateway::Gateway, metrics};

/// Under which a request is known, in answers and to workers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What tells nothing, and is asked by those who look after the gateway.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/health", "/openapi.json"];

/// The id of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) JobId);

/// Lets in who may ask. Whoever may not learns the same, whatever was asked for.
pub(crate) async fn guard(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("other", MatchedPath::as_str).to_owned();
    let caller = caller(&gateway, &request);
    let mut response = match &caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            request.extensions_mut().insert(RequestId(id.clone()));
            next.run(request).await
        }
        // Not even what is there is told.
        Err(error) => error.clone().into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
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
    if keys.is_empty() || OPEN.contains(&request.uri().path()) {
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

/// The caller's own id, if it can be one, or a new one.
fn request_id(headers: &HeaderMap) -> JobId {
    let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()?.parse().ok());
    own.unwrap_or_else(new_id)
}
