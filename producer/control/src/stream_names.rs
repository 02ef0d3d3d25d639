//! Which streams there are.

use std::time::Duration;

use async_nats::Client;
use embed_client::nats::api::{self, ApiError, STREAM_NOT_FOUND};
use embed_schemas::{Slug, streams};
use serde_json::{Value, json};

/// For one answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The names of all streams.
///
/// # Errors
/// If the server does not answer, or refuses.
pub(crate) async fn all(client: &Client) -> Result<Vec<String>, ApiError> {
    let mut names: Vec<String> = Vec::new();
    loop {
        // A page of them at a time.
        let answer = api::call(client, "STREAM.NAMES", &json!({"offset": names.len()}), TIMEOUT).await?;
        let page = answer["streams"].as_array().map_or(&[][..], Vec::as_slice);
        names.extend(page.iter().filter_map(Value::as_str).map(str::to_owned));
        let total = answer["total"].as_u64().unwrap_or_default();
        if page.is_empty() || names.len() as u64 >= total {
            return Ok(names);
        }
    }
}

/// The models that have a stream of outcomes.
///
/// # Errors
/// As [`all`].
pub(crate) async fn models(client: &Client) -> Result<Vec<Slug>, ApiError> {
    let names = all(client).await?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(streams::results_stream_prefix())?.parse().ok()).collect())
}

/// Whether there is a stream of this name.
///
/// # Errors
/// As [`all`].
pub(crate) async fn exists(client: &Client, name: &str) -> Result<bool, ApiError> {
    match api::call(client, &format!("STREAM.INFO.{name}"), &Value::Null, TIMEOUT).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(STREAM_NOT_FOUND) => Ok(false),
        Err(error) => Err(error),
    }
}
