//! `/v1/vectors/{space}/{digest}`: a vector that was made before, for whoever knows what it is of. It never changes, so every cache on the way may keep it.

use std::time::Duration;

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use embed_client::EmbedResult;
use schemars::JsonSchema;

use super::write;
use crate::{
    Gateway,
    access::{Caller, overloaded},
    call,
    error::ApiError,
    vectors::{Digest, Kept, ReadError, is_space},
};

const PATH: &str = "/v1/vectors/";
/// What is behind a digest where its vector is wanted as bytes. It stands in the path, since caches may not look at what a client accepts.
const RAW: &str = ".f32";
/// When to come again if the store does not answer.
const LATER: Duration = Duration::from_secs(1);

pub(crate) fn routes() -> Router<Gateway> {
    Router::new().route("/v1/vectors/{space}/{digest}", get(vector))
}

/// Whether a path is one of these.
pub(crate) fn is_under(path: &str) -> bool {
    path.starts_with(PATH)
}

/// A vector that was made before. It is written by hand, see `write`; a test compares.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct StoredVector {
    /// `embedding`
    object: String,
    /// The vector.
    embedding: Vec<f32>,
    /// The slug of the model that made it.
    model: String,
    /// Its embedding space.
    space: String,
    /// Components of the vector.
    dimension: u32,
    /// Tokens of the text.
    tokens: u32,
}

async fn vector(
    State(gateway): State<Gateway>,
    Extension(caller): Extension<Caller>,
    Path((space, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let settings = &gateway.settings().vectors;
    let is_public = settings.public || gateway.keys().now().is_empty();
    let found = found(&gateway, &caller, &space, &name).await;
    let mut response = match found {
        Err(error) => error.into_response(),
        Ok((kept, is_raw)) => {
            let tag = if is_raw { format!("\"{}-f32\"", kept.tag) } else { format!("\"{}\"", kept.tag) };
            let mut response = if is_known(&headers, &tag) {
                StatusCode::NOT_MODIFIED.into_response()
            } else if is_raw {
                bytes("application/octet-stream", kept.result.vectors.clone())
            } else {
                bytes("application/json", written(&kept.result).into())
            };
            if let Ok(tag) = HeaderValue::from_str(&tag) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            call::tell_source(&kept.result, response.headers_mut());
            response
        }
    };
    let may_be_kept = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    let caching = match (may_be_kept, is_public) {
        // Tomorrow it may be there.
        (false, _) => "no-store",
        (true, true) => "public, max-age=31536000, immutable",
        // What a key may see is not for everybody who asks the same cache.
        (true, false) => "private, max-age=31536000, immutable",
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}

async fn found(gateway: &Gateway, caller: &Caller, space: &str, name: &str) -> Result<(Kept, bool), ApiError> {
    caller.begin()?;
    let Some(vectors) = gateway.vectors() else {
        let message = "vectors are not kept here: start the gateway with --vectors FOLDER, or with the URL of a bucket";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_vectors", message));
    };
    if !caller.shares_vectors() {
        let message = "this key takes no part in kept vectors: its entry is to say `vectors = true`";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "not_permitted", message));
    }
    let (digest, is_raw) = match name.strip_suffix(RAW) {
        Some(digest) => (digest, true),
        None => (name, false),
    };
    let missing = || ApiError::new(StatusCode::NOT_FOUND, "not_found", "no vector of this space and digest is kept");
    let digest: Digest = digest.parse().map_err(|_| {
        let message = "digest: is to be 64 hexadecimal digits in lower case, and `.f32` for the bytes alone";
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message).about("digest")
    })?;
    if !is_space(space) {
        return Err(missing().about("space"));
    }
    let is_guest = gateway.settings().vectors.public && caller.key().is_none();
    let kept = vectors.get(space, digest, is_guest).await.map_err(|error| {
        if matches!(error, ReadError::Busy) {
            return overloaded("as many vectors are read for those who show no key as may be at once; try again soon");
        }
        tracing::warn!(%error, "a kept vector cannot be read");
        let message = "the store of vectors does not answer as it should; try again later";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).after(LATER)
    })?;
    // What a key may not ask, it is not told of either.
    let kept = kept.filter(|kept| caller.may_ask(&kept.result.model)).ok_or_else(missing)?;
    Ok((kept, is_raw))
}

/// Whether whoever asks has it already.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let sent = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    sent.flat_map(|value| value.split(',')).map(str::trim).any(|sent| {
        // Weak or not, it is the same vector.
        sent == "*" || sent.strip_prefix("W/").unwrap_or(sent) == tag
    })
}

fn bytes(kind: &'static str, body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

fn written(result: &EmbedResult) -> Vec<u8> {
    let mut out = write::room_for(result);
    out.extend_from_slice(br#"{"object":"embedding","embedding":"#);
    write::numbers(result, 0, &mut out);
    out.extend_from_slice(br#","model":"#);
    write::string(result.model.as_str(), &mut out);
    out.extend_from_slice(br#","space":"#);
    write::string(&result.space, &mut out);
    out.extend_from_slice(br#","dimension":"#);
    write::number(u64::from(result.dim), &mut out);
    out.extend_from_slice(br#","tokens":"#);
    write::number(result.items.first().map_or(0, |item| u64::from(item.tokens)), &mut out);
    out.push(b'}');
    out
}
