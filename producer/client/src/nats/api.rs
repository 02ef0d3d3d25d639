//! JetStream's JSON API, without types of its own: definitions come from `embed_schemas` as JSON already.

use std::time::Duration;

use async_nats::{Client, HeaderMap, RequestErrorKind};
use serde_json::Value;

/// JetStream's code for "stream not found".
pub const STREAM_NOT_FOUND: u64 = 10059;
/// JetStream's code for "consumer not found".
pub const CONSUMER_NOT_FOUND: u64 = 10014;

/// JetStream's codes for "wrong last sequence": of the leader alone, and of a cluster.
pub const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers: JetStream is off, starting, or between leaders. Trying again can help.
    #[error("JetStream does not answer ({0}): is it enabled on this server?")]
    NotReady(String),
    /// The server says no.
    #[error("{description} ({code})")]
    Refused {
        /// JetStream's error code; 0 if it is the server that does not permit the call.
        code: u64,
        /// What the server says.
        description: String,
    },
}

impl ApiError {
    /// Whether it is this code of JetStream's.
    #[must_use]
    pub fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// Calls `$JS.API.<subject>`.
///
/// # Errors
/// See [`ApiError`].
pub async fn call(client: &Client, subject: &str, body: &Value, timeout: Duration) -> Result<Value, ApiError> {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let subject = embed_connect::api_subject(client, subject);
    let answer = super::request(client, subject, HeaderMap::new(), payload.into(), timeout).await;
    let answer = answer.map_err(|error| match (error.kind(), super::refusal(&error)) {
        (_, Some(refusal)) => ApiError::Refused { code: 0, description: refusal.to_string() },
        (RequestErrorKind::NoResponders, None) => ApiError::NotReady("no responders".to_owned()),
        (_, None) => ApiError::NotReady(error.to_string()),
    })?;
    let mut value: Value =
        serde_json::from_slice(&answer.payload).map_err(|error| ApiError::NotReady(format!("broken JSON: {error}")))?;
    match value.get_mut("error").map(Value::take) {
        None => Ok(value),
        Some(error) => {
            let code = error["err_code"].as_u64().unwrap_or_default();
            let description = error["description"].as_str().unwrap_or("no reason given").to_owned();
            // 503 is "temporarily unavailable", whatever the detailed code.
            if error["code"].as_u64() == Some(503) {
                return Err(ApiError::NotReady(description));
            }
            Err(ApiError::Refused { code, description })
        }
    }
}
