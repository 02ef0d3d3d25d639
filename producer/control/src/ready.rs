//! Waiting for JetStream: it has no leader for a while after a server has died, and answers nothing while it starts.

use std::time::Duration;

use async_nats::Client;
use embed_client::nats::api::{self, ApiError};
use serde_json::Value;
use tokio::time::Instant;

/// Between two calls.
const AGAIN: Duration = Duration::from_millis(100);

/// One call of JetStream's API, made again while nobody answers it, for so long.
///
/// # Errors
/// As [`api::call`].
pub(crate) async fn call(
    client: &Client,
    subject: &str,
    body: &Value,
    timeout: Duration,
    within: Duration,
) -> Result<Value, ApiError> {
    let deadline = Instant::now() + within;
    loop {
        match api::call(client, subject, body, timeout).await {
            Err(ApiError::NotReady(reason)) if Instant::now() < deadline => {
                tracing::debug!(subject, reason, "JetStream is not ready yet");
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}
