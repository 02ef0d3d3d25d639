//! Whether a job's id is its own: the same id with the same content is the same job, with other content a conflict.

use async_nats::{HeaderMap, Message, StatusCode, header::NATS_SEQUENCE};
use embed_schemas::{EmbedRequest, JobId, Outcome, Slug, WireError, headers, streams, subjects, wire};
use serde_json::json;

use super::{
    Client,
    publish::{ACK_TIMEOUT, Published},
};
use crate::{Error, nats};

impl Client {
    /// The sequence of the outcome that is stored under this id, if there is one.
    ///
    /// # Errors
    /// [`Error::Wire`] with `id_conflict` if it is that of a job with other content, [`Error::Ended`] if the job has failed.
    pub(super) async fn known(&self, model: &Slug, id: &JobId, job: &EmbedRequest) -> Result<Option<u64>, Error> {
        let subject = format!("{}.{}", streams::results_stream(model), subjects::result(model, id));
        let Some(outcome) = self.direct_get(subject, Vec::new()).await else { return Ok(None) };
        let header = |name: &str| outcome.headers.as_ref()?.get(name);
        if header(headers::REQUEST_DIGEST).is_some_and(|digest| digest.as_str() != job.digest()) {
            return Err(WireError::id_conflict(id).into());
        }
        if let Ok(Outcome::Failure(failure)) = wire::decode_outcome(&outcome.payload) {
            return Err(Error::Ended { id: id.clone(), error: Box::new(failure.error) });
        }
        Ok(outcome.headers.as_ref().and_then(|headers| headers.get(NATS_SEQUENCE)?.as_str().parse().ok()))
    }

    /// Checks that the server dropped a job as a duplicate of one with the same content.
    ///
    /// # Errors
    /// As [`Client::known`].
    pub(super) async fn is_the_same(
        &self,
        model: &Slug,
        published: &Published,
        job: &EmbedRequest,
    ) -> Result<(), Error> {
        let question = json!({ "seq": published.sequence }).to_string();
        let Some(first) = self.direct_get(published.stream.clone(), question.into()).await else {
            // It is done.
            return self.known(model, &published.id, job).await.map(|_| ());
        };
        match wire::decode_request(&first.payload, None) {
            Ok((first, _)) if first.digest() != job.digest() => Err(WireError::id_conflict(&published.id).into()),
            _ => Ok(()),
        }
    }

    /// A message that can be had, and is there.
    async fn direct_get(&self, of: String, question: Vec<u8>) -> Option<Message> {
        let subject = embed_connect::api_subject(self.nats(), &format!("DIRECT.GET.{of}"));
        let answer = nats::request(&self.nats, subject, HeaderMap::new(), question.into(), ACK_TIMEOUT).await;
        match answer {
            Ok(message) if message.status.is_none() => Some(message),
            Ok(message) => {
                if message.status != Some(StatusCode::NOT_FOUND) {
                    tracing::debug!(of, status = ?message.status, "a stream cannot be read");
                }
                None
            }
            Err(error) => {
                tracing::debug!(of, %error, "a stream cannot be read");
                None
            }
        }
    }
}
