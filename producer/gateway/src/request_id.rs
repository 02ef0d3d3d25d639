//! Under which a request is known, in answers and to workers.

use axum::http::{HeaderMap, HeaderName};
use embed_client::{JobId, new_id};

/// The header that has it, in requests and in answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) JobId);

impl RequestId {
    /// The caller's own, if it can be one, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()?.parse().ok());
        Self(own.unwrap_or_else(new_id))
    }
}
