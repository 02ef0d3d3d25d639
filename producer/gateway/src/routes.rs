//! All routes of a gateway, and what every request passes.

use axum::{
    Router,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::from_fn_with_state,
    response::Response,
    routing::get,
};
use tower_http::cors::{AllowHeaders, CorsLayer};

use crate::{
    Gateway, OpenError,
    api::{openai, ops, own, tei, vectors},
    batches::{self, Batches},
    call,
    error::ApiError,
    guard::{as_asked, guard},
    openapi,
    request_id::REQUEST_ID,
};

/// All routes, with what every request passes.
pub(crate) fn routes(gateway: &Gateway, batches: Option<&Batches>) -> Result<Router, OpenError> {
    let routes = Router::new()
        .merge(openai::routes())
        .merge(tei::routes())
        .merge(own::routes())
        .merge(vectors::routes())
        .merge(batches.map_or_else(batches::nowhere, Batches::routes))
        .merge(ops::routes(gateway.settings().metrics))
        .route("/openapi.json", get(openapi::serve))
        .fallback(nothing_there)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(gateway.clone(), guard))
        .with_state(gateway.clone());
    let origins = &gateway.settings().cors_origins;
    Ok(if origins.is_empty() { routes } else { routes.layer(cors(origins)?) })
}

async fn nothing_there(uri: Uri) -> ApiError {
    let message = format!("there is nothing at {}; /openapi.json says what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn other_method(method: Method, uri: Uri) -> Response {
    let message = format!("{} is not asked by {method}; /openapi.json says how", uri.path());
    as_asked(uri.path(), ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message))
}

/// What pages of other origins may do.
fn cors(origins: &[String]) -> Result<CorsLayer, OpenError> {
    let origin = |origin: &String| {
        let is_one = origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
        HeaderValue::from_str(origin).ok().filter(|_| is_one).ok_or_else(|| OpenError::Origin(origin.clone()))
    };
    let origins = origins.iter().map(origin).collect::<Result<Vec<_>, _>>()?;
    Ok(CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // Clients send what they like to tell of themselves; what a request may do is decided by its key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([call::SPACE, REQUEST_ID, call::MODEL, call::VARIANT, call::VERSION, header::RETRY_AFTER]))
}
