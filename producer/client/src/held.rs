//! Whether a job that was acknowledged is still in its stream.
//!
//! NATS acknowledges before it syncs to disk, and a stream can be purged or made anew. So an acknowledgement is no promise that a
//! job will ever be served. What tells is the message at the sequence that was acknowledged: if it is gone, the job was done, or lost.

use async_nats::header::NATS_MESSAGE_ID;

use super::{
    Client,
    publish::{ACK_TIMEOUT, Published},
};
use crate::nats::stored::{self, ReadError, Which};

impl Client {
    /// Whether the stream holds what was published under this message id. `None` if the server does not say.
    ///
    /// A replica that lags may say no too early. That makes work be done twice, and its result be stored once all the same.
    pub async fn holds(&self, job: &Published, message_id: &str) -> Option<bool> {
        match stored::read(&self.nats, &job.stream, Which::Sequence(job.sequence), ACK_TIMEOUT).await {
            Ok(None) => Some(false),
            // A stream that was set back, or made anew, has other messages at the same sequences.
            Ok(Some(found)) => Some(found.header(NATS_MESSAGE_ID.as_ref()) == Some(message_id)),
            Err(ReadError::NoResponders) => self.stream_is_missing(&job.stream).await.then_some(false),
            Err(error) => {
                tracing::debug!(%error, id = %job.id, "cannot look whether a job is still there");
                None
            }
        }
    }
}
