//! Whether a job that was acknowledged is still in its stream.
//!
//! NATS acknowledges before it syncs to disk, and a stream can be purged or made anew. So an acknowledgement is no promise that a
//! job will ever be served. What tells is the message at the sequence that was acknowledged: if it is gone, the job was done, or lost.

use async_nats::{HeaderMap, RequestErrorKind, StatusCode, header::NATS_MESSAGE_ID};
use serde_json::json;

use super::{
    Client,
    publish::{ACK_TIMEOUT, Published},
};
use crate::nats;

impl Client {
    /// Whether the stream holds what was published under this message id. `None` if the server does not say.
    ///
    /// A replica that lags may say no too early. That makes work be done twice, and its result be stored once all the same.
    pub async fn holds(&self, job: &Published, message_id: &str) -> Option<bool> {
        let subject = embed_connect::api_subject(&self.nats, &format!("DIRECT.GET.{}", job.stream));
        let payload = json!({ "seq": job.sequence }).to_string();
        match nats::request(&self.nats, subject, HeaderMap::new(), payload.into(), ACK_TIMEOUT).await {
            Ok(message) => match message.status {
                Some(StatusCode::NOT_FOUND) => Some(false),
                Some(_) => None,
                // A stream that was set back, or made anew, has other messages at the same sequences.
                None => {
                    let found = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
                    Some(found.is_some_and(|found| found.as_str() == message_id))
                }
            },
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                self.stream_is_missing(&job.stream).await.then_some(false)
            }
            Err(error) => {
                tracing::debug!(%error, id = %job.id, "cannot look whether a job is still there");
                None
            }
        }
    }
}
