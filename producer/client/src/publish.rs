//! Jobs: stored in the model's stream, and acknowledged.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use embed_schemas::{
    EmbedRequest, Format, JobId, Lane, MAX_TEXTS, Slug, headers, streams,
    subjects::{self, Target},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Backoff, Client,
    ids::{new_id, part_id},
    split::{MessageBudget, split, without_texts},
};
use crate::{
    Error,
    nats::{
        self,
        api::{self, ApiError, STREAM_NOT_FOUND},
    },
};

/// Jobs being published at once for one request.
const PUBLISHES_IN_FLIGHT: usize = 8;
/// For one acknowledgement. The job's id makes a second publish harmless.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// How to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// Whose the job is: its subject and that of its outcome say so, for permissions to name them. Of no tenant if `None`.
    pub tenant: Option<Slug>,
    /// A subject that gets a copy of the outcome, beside the stored one.
    pub reply_to: Option<String>,
    /// W3C trace context, handed on to the outcome.
    pub traceparent: Option<String>,
    /// What the server knows a second publication by, and drops it. The job's id if `None`, after `<tenant>.` if it has one.
    pub message_id: Option<String>,
    /// Stored with the job.
    pub headers: HeaderMap,
    /// Looks first whether there is an outcome under the job's id already: vectors of the same job are as good as new ones, a failure and
    /// what is another job's are errors. [`Client::publish`] does so for requests that name their id.
    pub check_id: bool,
    /// How long to keep trying while the server is away.
    pub timeout: Duration,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            variant: None,
            tenant: None,
            reply_to: None,
            traceparent: None,
            message_id: None,
            headers: HeaderMap::new(),
            check_id: false,
            timeout: Duration::from_secs(30),
        }
    }
}

impl PublishOptions {
    /// For this variant.
    #[must_use]
    pub fn variant(self, variant: impl Into<Option<Slug>>) -> Self {
        Self { variant: variant.into(), ..self }
    }

    /// On behalf of this tenant.
    #[must_use]
    pub fn tenant(self, tenant: impl Into<Option<Slug>>) -> Self {
        Self { tenant: tenant.into(), ..self }
    }

    /// Has the outcome copied to a subject.
    #[must_use]
    pub fn reply_to(self, reply_to: impl Into<Option<String>>) -> Self {
        Self { reply_to: reply_to.into(), ..self }
    }

    /// Sends a trace context along.
    #[must_use]
    pub fn traceparent(self, traceparent: impl Into<Option<String>>) -> Self {
        Self { traceparent: traceparent.into(), ..self }
    }

    /// Makes the server know the message by another id than the job's.
    #[must_use]
    pub fn message_id(self, message_id: impl Into<Option<String>>) -> Self {
        Self { message_id: message_id.into(), ..self }
    }

    /// Sends headers along.
    #[must_use]
    pub fn headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    /// Looks whether the job's id is taken.
    #[must_use]
    pub fn check_id(self, check_id: bool) -> Self {
        Self { check_id, ..self }
    }

    /// Keeps trying for no longer than this.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// A job that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The job's id: its result will be stored under it.
    pub id: JobId,
    /// The stream: that of results if the job is done already.
    pub stream: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Whether the same job had been stored before, so that this one was not.
    pub duplicate: bool,
}

/// The acknowledgement as JetStream sends it.
#[derive(Deserialize)]
struct Ack {
    stream: String,
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// What one attempt came to.
enum Attempt {
    Stored(Ack),
    Again(Error),
    Failed(Error),
}

impl Client {
    /// Gives a request an id if it has none, and cuts it into as many jobs as its texts and bytes need. More than one get
    /// the ids `<id>-0`, `<id>-1` and so on. Sends nothing.
    ///
    /// # Errors
    /// If the request is invalid, a text fits into no message, or an id gets too long.
    pub fn jobs(&self, request: EmbedRequest) -> Result<Vec<EmbedRequest>, Error> {
        self.jobs_beside(request, &HeaderMap::new())
    }

    fn jobs_beside(&self, request: EmbedRequest, headers: &HeaderMap) -> Result<Vec<EmbedRequest>, Error> {
        super::split::check(&request)?;
        let id = request.id.clone().unwrap_or_else(new_id);
        let longest = EmbedRequest { id: Some(part_id(&id, usize::MAX).unwrap_or_else(|_| id.clone())), ..request };
        let budget = MessageBudget::new(self.nats.max_payload(), MAX_TEXTS, &longest).beside(headers);
        let parts = split(&longest.texts, budget)?;
        let several = parts.len() > 1;
        let job = |(n, range): (usize, std::ops::Range<usize>)| {
            let id = if several { part_id(&id, n)? } else { id.clone() };
            Ok(EmbedRequest { id: Some(id), texts: longest.texts[range].to_vec(), ..without_texts(&longest) })
        };
        parts.into_iter().enumerate().map(job).collect()
    }

    /// Stores a request as one or more jobs (see [`Client::jobs`]) and waits until the server has them. A job whose id the
    /// server has seen in the last two minutes is not stored again.
    ///
    /// Dropped before it is done, the future sends nothing more; what it has sent is stored, and will be served.
    ///
    /// # Errors
    /// [`Error::NoStream`] at once if no stream takes jobs for the model, [`Error::StreamFull`] if it takes no more,
    /// [`Error::Wire`] with `id_conflict` if the request names an id that another has, [`Error::Timeout`] if the server stays away, and what [`Client::jobs`] says.
    pub async fn publish(
        &self,
        model: &Slug,
        lane: Lane,
        request: EmbedRequest,
        options: &PublishOptions,
    ) -> Result<Vec<Published>, Error> {
        let options = &options.clone().check_id(options.check_id || request.id.is_some());
        let jobs = self.jobs_beside(request, &options.headers)?;
        let publishes: Vec<_> = jobs.iter().map(|job| self.publish_job(model, lane, job, options)).collect();
        stream::iter(publishes).buffered(PUBLISHES_IN_FLIGHT).try_collect().await
    }

    /// Stores one job as it is; it must have an id.
    ///
    /// # Errors
    /// As [`Client::publish`]. With [`PublishOptions::check_id`], [`Error::Ended`] if it has failed before; and [`Error::Wire`] with
    /// `id_conflict` if another job has its id.
    pub async fn publish_job(
        &self,
        model: &Slug,
        lane: Lane,
        job: &EmbedRequest,
        options: &PublishOptions,
    ) -> Result<Published, Error> {
        let Some(id) = job.id.clone() else {
            return Err(embed_schemas::WireError::invalid("id: a job that is published as it is needs one").into());
        };
        let tenant = options.tenant.as_ref();
        let subject = subjects::job(lane, model, options.variant.as_ref(), tenant);
        let mut header = options.headers.clone();
        let message_id = options.message_id.clone().unwrap_or_else(|| message_id(tenant, &id));
        header.insert(headers::MSG_ID, message_id.as_str());
        header.insert(headers::CONTENT_TYPE, Format::MessagePack.content_type());
        for (name, value) in [(headers::REPLY_TO, &options.reply_to), (headers::TRACEPARENT, &options.traceparent)] {
            if let Some(value) = value {
                header.insert(name, value.as_str());
            }
        }
        header.insert(headers::SUBJECT, subject.as_str());
        if options.check_id
            && let Some(sequence) = self.known(model, tenant, &id, job).await?
        {
            return Ok(Published { id, stream: streams::results_stream(model), sequence, duplicate: true });
        }
        let payload = Format::MessagePack.encode(job);
        let published = self.publish_encoded(&subject, id, header, payload, options.timeout).await?;
        if published.duplicate {
            self.is_the_same(model, tenant, &published, job).await?;
        }
        Ok(published)
    }

    /// Stores a job as it is encoded, with these headers. Its id stands in the payload.
    ///
    /// # Errors
    /// As [`Client::publish`], but for what concerns the id.
    pub async fn publish_encoded(
        &self,
        subject: &str,
        id: JobId,
        header: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Published, Error> {
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut last = Error::Timeout {
            what: format!("job {id} was not acknowledged"),
            after: timeout,
            hint: ": the server is away".into(),
        };
        while nats::connected(&self.nats, deadline).await {
            let left = deadline.saturating_duration_since(Instant::now()).min(ACK_TIMEOUT);
            let answer = nats::request(&self.nats, subject.to_owned(), header.clone(), payload.clone(), left).await;
            match self.judge(subject, answer).await {
                Attempt::Stored(Ack { stream, seq, duplicate }) => {
                    return Ok(Published { id, stream, sequence: seq, duplicate });
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(error) => {
                    tracing::debug!(%id, %error, "the job is published again");
                    last = error;
                }
            }
            let pause = backoff.pause(None, rand::random());
            if Instant::now() + pause >= deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(last)
    }

    async fn judge(&self, subject: &str, answer: Result<async_nats::Message, async_nats::RequestError>) -> Attempt {
        let Some(Target { model, tenant, .. }) = subjects::parse(subject) else {
            return Attempt::Failed(rejected(subject, &"it is no subject of jobs"));
        };
        let stream = streams::jobs_stream(&model);
        let again = |reason: &dyn std::fmt::Display| {
            Attempt::Again(Error::nats(format!("cannot publish to {subject}"), reason))
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return match error.kind() {
                    // The stream may be missing, or between leaders: its definition tells.
                    RequestErrorKind::NoResponders => match self.stream_subjects(&stream).await {
                        Ok(subjects) if tenant.is_some() && !subjects.iter().any(|one| has_tenants(one)) => {
                            let reason = format!("the stream {stream} takes no jobs of tenants yet: run `embed init`");
                            Attempt::Failed(rejected(subject, &reason))
                        }
                        Err(error) if error.is(STREAM_NOT_FOUND) => Attempt::Failed(Error::NoStream { model, stream }),
                        _ => again(&"the stream has no leader"),
                    },
                    RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                        Attempt::Failed(rejected(subject, &error))
                    }
                    _ if nats::refusal(&error).is_some() => {
                        Attempt::Failed(Error::request(format!("cannot publish to {subject}"), &error))
                    }
                    _ => again(&error),
                };
            }
        };
        match serde_json::from_slice::<Value>(&answer.payload) {
            Ok(mut value) => match value.get_mut("error").map(Value::take) {
                Some(error) => judge_refusal(subject, stream, &error),
                None => match serde_json::from_value(value) {
                    Ok(ack) => Attempt::Stored(ack),
                    Err(error) => bad_ack(subject, &error),
                },
            },
            Err(error) => bad_ack(subject, &error),
        }
    }

    pub(super) async fn stream_is_missing(&self, stream: &str) -> bool {
        self.stream_subjects(stream).await.is_err_and(|error| error.is(STREAM_NOT_FOUND))
    }

    /// What a stream takes.
    async fn stream_subjects(&self, stream: &str) -> Result<Vec<String>, ApiError> {
        let info = api::call(&self.nats, &format!("STREAM.INFO.{stream}"), &Value::Null, ACK_TIMEOUT).await?;
        let subjects = info["config"]["subjects"].as_array().into_iter().flatten();
        Ok(subjects.filter_map(|subject| subject.as_str().map(str::to_owned)).collect())
    }
}

/// What the server knows a job by. Ids are one job's within their tenant, and the server knows nothing of tenants.
pub(super) fn message_id(tenant: Option<&Slug>, id: &JobId) -> String {
    tenant.map_or_else(|| id.to_string(), |tenant| format!("{tenant}.{id}"))
}

/// Whether a stream's subject lets jobs of tenants in: they have five tokens.
fn has_tenants(subject: &str) -> bool {
    subject.ends_with('>') || subject.split('.').count() == 5
}

/// Somebody else answers on the subject: this is no stream's acknowledgement.
fn bad_ack(subject: &str, error: &serde_json::Error) -> Attempt {
    Attempt::Failed(Error::BadAnswer { from: subject.to_owned(), reason: format!("no acknowledgement: {error}") })
}

fn judge_refusal(subject: &str, stream: String, error: &Value) -> Attempt {
    let description = error["description"].as_str().unwrap_or("no reason given");
    match error["code"].as_u64() {
        // The limits of a stream that refuses new messages: bytes, messages, messages per subject.
        _ if description.contains("maximum") && description.contains("exceeded") => {
            Attempt::Failed(Error::StreamFull { stream, reason: description.to_owned() })
        }
        // Temporarily unavailable, too many at once, or the same message on its way already: whatever the detailed code.
        Some(409 | 429 | 503) => Attempt::Again(Error::nats(format!("cannot publish to {subject}"), description)),
        _ => Attempt::Failed(rejected(subject, &description)),
    }
}

fn rejected(subject: &str, reason: &dyn std::fmt::Display) -> Error {
    Error::Rejected { what: format!("cannot publish to {subject}"), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let judge = |error: Value| judge_refusal("s", "S".into(), &error);
        let full = json!({"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"});
        assert!(matches!(judge(full), Attempt::Failed(Error::StreamFull { .. })));
        let away = json!({"code": 503, "err_code": 10008, "description": "system temporarily unavailable"});
        assert!(matches!(judge(away), Attempt::Again(_)));
        let twice = json!({"code": 409, "err_code": 10158, "description": "duplicate message id is in process"});
        assert!(matches!(judge(twice), Attempt::Again(_)));
        let many = json!({"code": 429, "err_code": 10167, "description": "too many requests"});
        assert!(matches!(judge(many), Attempt::Again(_)));
        let other = json!({"code": 400, "err_code": 10003, "description": "bad request"});
        assert!(matches!(judge(other), Attempt::Failed(Error::Rejected { .. })));
    }
}
