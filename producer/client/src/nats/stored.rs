//! One message as a stream holds it, read without a consumer: by its sequence, or the last on a subject.
//!
//! Any server with a copy of the stream may answer, so it can lag behind what was acknowledged a moment ago.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap, RequestErrorKind,
    header::{NATS_SEQUENCE, NATS_SUBJECT, NATS_TIME_STAMP},
};
use bytes::Bytes;
use serde_json::json;

/// A message as a stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence.
    pub sequence: u64,
    /// The subject under which it is stored.
    pub subject: String,
    /// When it was stored, RFC 3339, by the server's clock.
    pub time: String,
    /// Its headers, those that the server adds included.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
}

/// Which message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// The one with this sequence. A permission to ask for it is one to read all of the stream.
    Sequence(u64),
    /// The last on this subject, which a permission can name.
    LastOn(&'a str),
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody answers for it.
    #[error("there is no such stream, or it has no leader; run `embed init` if it was never made")]
    NoResponders,
    /// The request failed, as where it is not permitted.
    #[error(transparent)]
    Request(async_nats::RequestError),
    /// The server answers with a status that says neither that it is there nor that it is not; or not at all as servers do.
    #[error("{0}")]
    Answer(String),
}

/// Reads a message. `None` if it is not there.
///
/// # Errors
/// See [`ReadError`].
pub async fn read(
    client: &Client,
    stream: &str,
    which: Which<'_>,
    timeout: Duration,
) -> Result<Option<Stored>, ReadError> {
    let (call, question) = match which {
        Which::Sequence(sequence) => (format!("DIRECT.GET.{stream}"), json!({ "seq": sequence }).to_string()),
        Which::LastOn(subject) => (format!("DIRECT.GET.{stream}.{subject}"), String::new()),
    };
    let subject = embed_connect::api_subject(client, &call);
    let answer = super::request(client, subject, HeaderMap::new(), question.into(), timeout).await;
    let message = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => ReadError::NoResponders,
        _ => ReadError::Request(error),
    })?;
    let status = message.status.map(|status| status.as_u16());
    // A message of the stream, whatever status its publisher has given it.
    let Some(stored) = Stored::of(message) else {
        return match status {
            Some(404) => Ok(None),
            Some(status) => Err(ReadError::Answer(format!("status {status}"))),
            None => Err(ReadError::Answer("the answer says not which message it is".to_owned())),
        };
    };
    let is_it = match which {
        Which::Sequence(sequence) => stored.sequence == sequence,
        Which::LastOn(subject) => stored.subject == subject,
    };
    if is_it { Ok(Some(stored)) } else { Err(ReadError::Answer("the answer is another message".to_owned())) }
}

impl Stored {
    /// From the answer to a direct get. What the server adds to a message comes after what its publisher has written, which may be the same.
    pub(crate) fn of(message: async_nats::Message) -> Option<Self> {
        let headers = message.headers?;
        let text = |name: async_nats::HeaderName| headers.get_last(name).map(|value| value.as_str().to_owned());
        let (sequence, subject, time) =
            (text(NATS_SEQUENCE)?.parse().ok()?, text(NATS_SUBJECT)?, text(NATS_TIME_STAMP)?);
        Some(Self { sequence, subject, time, headers, payload: message.payload })
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }
}
