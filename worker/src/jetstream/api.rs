//! Requests to JetStream's API, each with an inbox of its own: the client library's shared one keeps an entry for each request that is
//! never answered.

use std::time::{Duration, SystemTime};

use async_nats::{Client, HeaderMap, Message, Request, header::HeaderBlock};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What JetStream says that went wrong.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerError {
    /// Like HTTP's.
    #[serde(default)]
    pub code: u16,
    /// What exactly, see NATS's list of errors.
    #[serde(default)]
    pub err_code: u32,
    /// For a person.
    #[serde(default)]
    pub description: String,
}

/// A request to JetStream failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answered, or nobody is there to.
    #[error("JetStream does not answer: {0}")]
    Unanswered(String),
    /// The answer is a refusal.
    #[error("{description} ({err_code})", description = .0.description, err_code = .0.err_code)]
    Refused(ServerError),
    /// The answer cannot be understood.
    #[error("JetStream's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// Whether what was asked for is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code == 404)
    }
}

/// One request and its answer, whatever it says.
///
/// # Errors
/// If there is no answer.
pub async fn request(
    client: &Client,
    subject: String,
    headers: Option<HeaderMap>,
    payload: Bytes,
) -> Result<async_nats::Message, ApiError> {
    let mut request = Request::new().payload(payload).inbox(client.new_inbox()).timeout(Some(TIMEOUT));
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    // The library's time-out begins when the request is out: without a server, never.
    match tokio::time::timeout(TIMEOUT * 2, client.send_request(subject, request)).await {
        Ok(answer) => answer.map_err(|error| ApiError::Unanswered(error.to_string())),
        Err(_) => Err(ApiError::Unanswered("there is no connection".to_owned())),
    }
}

/// One call of the API, such as `CONSUMER.INFO.<stream>.<consumer>`.
///
/// # Errors
/// If there is no answer, or it is a refusal.
pub async fn call<T: DeserializeOwned>(client: &Client, call: &str, payload: Bytes) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<ServerError>,
    }
    let answer = request(client, embed_connect::api_subject(client, call), None, payload).await?;
    if let Ok(Refusal { error: Some(error) }) = serde_json::from_slice(&answer.payload) {
        return Err(ApiError::Refused(error));
    }
    serde_json::from_slice(&answer.payload).map_err(|error| ApiError::Unreadable(error.to_string()))
}

/// The last message that a stream holds on a subject. `None` if it holds none.
///
/// # Errors
/// If the stream does not answer.
pub async fn last_on_subject(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Option<async_nats::Message>, ApiError> {
    let answer = request(
        client,
        embed_connect::api_subject(client, &format!("DIRECT.GET.{stream}.{subject}")),
        None,
        Bytes::new(),
    )
    .await?;
    match answer.status.map(|status| status.as_u16()) {
        None => Ok(Some(answer)),
        Some(404) => Ok(None),
        Some(status) => Err(ApiError::Unanswered(format!("direct get: status {status}"))),
    }
}

/// JetStream's codes for a message that is not there.
const NO_MESSAGE: [u32; 2] = [10037, 10043];

/// A message as its stream holds it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, by the server's clock.
    pub stored: SystemTime,
    /// The message, as it was published but for the subject to answer on.
    pub message: Message,
}

/// The message of a stream that `query` names, such as `{"seq": 7}` or `{"seq": 7, "next_by_subj": "x"}`. `None` if there is none. It is read where
/// the stream has its leader, and its headers come as bytes within the answer: none of them can be taken for a word of the server's.
///
/// # Errors
/// If there is no such stream, or it does not answer.
pub async fn stored_message(
    client: &Client,
    stream: &str,
    query: &serde_json::Value,
) -> Result<Option<StoredMessage>, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Raw,
    }
    #[derive(Deserialize)]
    struct Raw {
        subject: String,
        seq: u64,
        #[serde(default)]
        hdrs: String,
        #[serde(default)]
        data: String,
        time: String,
    }
    let name = format!("STREAM.MSG.GET.{stream}");
    let raw = match call::<Answer>(client, &name, query.to_string().into()).await {
        Ok(Answer { message }) => message,
        Err(ApiError::Refused(error)) if NO_MESSAGE.contains(&error.err_code) => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| ApiError::Unreadable(error.to_string()));
    let (block, payload) = (bytes(&raw.hdrs)?, bytes(&raw.data)?);
    let stored = humantime::parse_rfc3339(&raw.time).map_err(|error| ApiError::Unreadable(error.to_string()))?;
    let length = raw.subject.len() + block.len() + payload.len();
    let read = (!block.is_empty()).then(|| HeaderBlock::parse(&block));
    let (headers, status, description) = match read {
        Some(HeaderBlock { headers, status, description }) => (Some(headers), status, description),
        None => (None, None, None),
    };
    let (subject, payload) = (raw.subject.into(), payload.into());
    let message = Message { subject, reply: None, payload, headers, status, description, length };
    Ok(Some(StoredMessage { sequence: raw.seq, stored, message }))
}

/// Deletes a message of a stream. One that is not there is none that has to be.
///
/// # Errors
/// If there is no such stream, or it does not answer.
pub async fn delete_message(client: &Client, stream: &str, sequence: u64) -> Result<(), ApiError> {
    let request = serde_json::json!({"seq": sequence, "no_erase": true}).to_string();
    match call::<serde_json::Value>(client, &format!("STREAM.MSG.DELETE.{stream}"), request.into()).await {
        Err(ApiError::Refused(error)) if NO_MESSAGE.contains(&error.err_code) || is_gone(&error) => Ok(()),
        answer => answer.map(drop),
    }
}

/// Removing fails with a code of its own, for any reason that the store has; this one is that another was faster.
fn is_gone(error: &ServerError) -> bool {
    const NOT_REMOVED: u32 = 10057;
    error.err_code == NOT_REMOVED && error.description.contains("no message found")
}

/// What JetStream says of a consumer.
#[derive(Debug, Clone, Deserialize)]
pub struct ConsumerInfo {
    /// What it was made with.
    pub config: ConsumerConfig,
    /// Messages that it has not delivered yet.
    #[serde(default)]
    pub num_pending: u64,
    /// Messages that it has delivered and nobody has acknowledged.
    #[serde(default)]
    pub num_ack_pending: u64,
    /// Up to where everything is acknowledged.
    pub ack_floor: SequenceInfo,
    /// The server's time, RFC 3339.
    #[serde(default)]
    pub ts: String,
}

/// The part of a consumer's configuration that a worker needs.
#[derive(Debug, Clone, Deserialize)]
pub struct ConsumerConfig {
    /// Nanoseconds after which an unacknowledged message is delivered again.
    #[serde(default)]
    pub ack_wait: u64,
    /// What it delivers, if it is one subject.
    #[serde(default)]
    pub filter_subject: Option<String>,
    /// What it delivers, if it is several.
    #[serde(default)]
    pub filter_subjects: Vec<String>,
}

/// A place in a stream.
#[derive(Debug, Clone, Deserialize)]
pub struct SequenceInfo {
    /// The sequence in the stream.
    #[serde(default)]
    pub stream_seq: u64,
}

/// What JetStream says of a consumer.
///
/// # Errors
/// If it is not there, or JetStream does not answer.
pub async fn consumer_info(client: &Client, stream: &str, consumer: &str) -> Result<ConsumerInfo, ApiError> {
    call(client, &format!("CONSUMER.INFO.{stream}.{consumer}"), Bytes::new()).await
}
