//! Results of jobs, read from the stream that they are stored in.
//!
//! The stream is the truth. A copy that a job asks for says only that it is worth a look: anybody may publish one, and what is heard need
//! not be stored.

mod shared;

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, RequestErrorKind, StatusCode};
use bytes::Bytes;
use embed_schemas::{EmbedRequest, JobId, Outcome, Slug, WireError, headers, streams, subjects, wire};
use futures::{Stream, stream::FuturesUnordered};
use serde_json::{Value, json};

pub(crate) use self::shared::Looking;
use self::shared::Wanted;
use super::{Client, combine::check_space};
use crate::{
    Error,
    nats::{
        self,
        api::{self, ApiError},
    },
};

/// For one look.
const GET_TIMEOUT: Duration = Duration::from_secs(5);
/// For one removal.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of one job, expected: however many are, one subscription and one look serve them all.
#[derive(Debug)]
pub struct Expected {
    client: Client,
    id: JobId,
    /// The only embedding space whose vectors are of use.
    space: Option<String>,
    /// The digest of the request, if it is known.
    digest: Option<String>,
    subject: String,
    stream: String,
    wanted: Wanted,
    found: Option<Message>,
}

impl Client {
    /// Begins to wait for the outcome of a job. Have a copy of the outcome sent to [`Expected::reply_to`] to know of it at once;
    /// otherwise it is known a tenth later than it is stored, and at most two seconds.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn expect(&self, model: &Slug, id: JobId) -> Result<Expected, Error> {
        let looking = self.looking.get_or_try_init(async || {
            let looking =
                Looking::start(&self.nats).await.map_err(|error| Error::nats("cannot wait for results", error))?;
            Ok::<_, Error>(Arc::new(looking))
        });
        let (subject, stream) = (subjects::result(model, &id), streams::results_stream(model));
        let wanted = looking.await?.want(&stream, &subject);
        Ok(Expected { client: self.clone(), id, space: None, digest: None, subject, stream, wanted, found: None })
    }

    /// The outcome of one job, waited for.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::BadAnswer`] if what is stored cannot be read.
    pub async fn result(&self, model: &Slug, id: &JobId, timeout: Duration) -> Result<Outcome, Error> {
        self.expect(model, id.clone()).await?.wait(timeout).await
    }

    /// The outcomes of several jobs, as they come. The stream ends after the last; it waits as long as it is polled. With a `space`,
    /// vectors of any other are an [`Error::OtherSpace`].
    ///
    /// # Errors
    /// If the connection is closed. The stream's own errors are those of [`Client::result`].
    pub async fn results(
        &self,
        model: &Slug,
        ids: Vec<JobId>,
        space: Option<&str>,
    ) -> Result<impl Stream<Item = Result<(JobId, Outcome), Error>> + use<>, Error> {
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            all.push(self.expect(model, id).await?.in_space(space.map(str::to_owned)));
        }
        Ok(outcomes(all))
    }
}

/// What is expected, as it comes. The stream ends after the last; it waits as long as it is polled.
pub fn outcomes(expected: Vec<Expected>) -> impl Stream<Item = Result<(JobId, Outcome), Error>> {
    let outcome = async |mut expected: Expected| {
        let outcome = expected.outcome().await?;
        Ok((expected.id, outcome))
    };
    expected.into_iter().map(outcome).collect::<FuturesUnordered<_>>()
}

impl Client {
    /// Removes the outcome of a job from its stream, once nobody needs it there any more: a stream with a bound would fill up.
    /// What is not removed expires. `false`: nothing was there.
    ///
    /// # Errors
    /// [`Error::Nats`] if the server does not answer, as one does not that was not asked, for want of a permission; [`Error::Rejected`] if it
    /// refuses.
    pub async fn remove_result(&self, model: &Slug, id: &JobId) -> Result<bool, Error> {
        let call = format!("STREAM.PURGE.{}", streams::results_stream(model));
        let body = json!({ "filter": subjects::result(model, id) });
        let removed = api::call(&self.nats, &call, &body, REMOVE_TIMEOUT).await;
        let removed = removed.map_err(|error| {
            let (what, reason) = (format!("the result of job {id} could not be removed"), error.to_string());
            match error {
                ApiError::Refused { .. } => Error::Rejected { what, reason },
                ApiError::NotReady(_) => Error::Nats { what, reason },
            }
        })?;
        Ok(removed["purged"].as_u64() != Some(0))
    }
}

impl Expected {
    /// The job's id.
    #[must_use]
    pub const fn id(&self) -> &JobId {
        &self.id
    }

    /// Refuses vectors of another space with [`Error::OtherSpace`].
    #[must_use]
    pub fn in_space(self, space: Option<String>) -> Self {
        Self { space, ..self }
    }

    /// Refuses the outcome of another job with the same id: one with other texts or options than this.
    #[must_use]
    pub fn of(self, job: &EmbedRequest) -> Self {
        Self { digest: Some(job.digest()), ..self }
    }

    /// A subject of this client: with a copy of the outcome sent to it ([`crate::PublishOptions::reply_to`]), the outcome is known at once.
    #[must_use]
    pub fn reply_to(&self) -> String {
        self.wanted.copy_subject()
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`Client::result`].
    pub async fn wait(mut self, timeout: Duration) -> Result<Outcome, Error> {
        match tokio::time::timeout(timeout, self.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout {
                what: format!("no result of job {}", self.id),
                after: timeout,
                hint: self.hint().await,
            }),
        }
    }

    /// Waits without a limit. Dropped and called again, it loses nothing.
    ///
    /// # Errors
    /// As [`Client::result`], but for the time; [`Error::Wire`] with `id_conflict` if the outcome is that of another job.
    pub async fn outcome(&mut self) -> Result<Outcome, Error> {
        if self.found.is_none() {
            self.found = self.wanted.found().await;
        }
        match &self.found {
            Some(message) => self.read(message),
            None => Err(Error::nats(format!("cannot wait for job {}", self.id), "the connection is closed")),
        }
    }

    /// Looks into the stream. `None` if nothing is there, or if the server does not answer now.
    ///
    /// # Errors
    /// [`Error::BadAnswer`] if what is stored cannot be read, [`Error::OtherSpace`] if it is of no use.
    pub async fn stored(&self) -> Result<Option<Outcome>, Error> {
        match get(&self.client, &self.stream, &self.subject).await {
            Ok(message) if message.status.is_none() => self.read(&message).map(Some),
            Ok(_) => Ok(None),
            Err(error) => {
                tracing::debug!(subject = self.subject, %error, "cannot look into the results");
                Ok(None)
            }
        }
    }

    fn read(&self, message: &Message) -> Result<Outcome, Error> {
        let digest = message.headers.as_ref().and_then(|headers| headers.get(headers::REQUEST_DIGEST));
        if self.digest.as_deref().zip(digest).is_some_and(|(ours, of)| ours != of.as_str()) {
            return Err(WireError::id_conflict(&self.id).into());
        }
        let outcome = wire::decode_outcome(&message.payload)
            .map_err(|error| Error::BadAnswer { from: self.subject.clone(), reason: error.to_string() })?;
        if let Outcome::Result(result) = &outcome {
            check_space(self.space.as_deref(), result)?;
        }
        Ok(outcome)
    }

    /// Why nothing came, as far as one look can tell.
    async fn hint(&self) -> String {
        match get(&self.client, &self.stream, &self.subject).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                format!(": there is no stream {} to read it from; run `embed init`", self.stream)
            }
            Err(_) => ": the server does not answer".to_owned(),
            Ok(message) if message.status == Some(StatusCode::NOT_FOUND) => match self.full().await {
                Some(full) => format!(
                    ": {full}, and what does not fit waits with its worker until there is room: raise \
                         --results-max-bytes of `embed init`, or purge what nobody needs"
                ),
                None => ": it waits to be served, or its result has expired; is a worker running?".to_owned(),
            },
            Ok(_) => String::new(),
        }
    }

    /// Says so if the results' stream has no room for another like those in it.
    async fn full(&self) -> Option<String> {
        let info =
            api::call(&self.client.nats, &format!("STREAM.INFO.{}", self.stream), &Value::Null, GET_TIMEOUT).await;
        let info = info.ok()?;
        let limit = info["config"]["max_bytes"].as_u64()?; // -1 for none
        let (bytes, messages) = (info["state"]["bytes"].as_u64()?, info["state"]["messages"].as_u64()?);
        let one = (bytes / messages.max(1)).max(limit / 20);
        (bytes + one > limit).then(|| format!("the stream {} is full ({bytes} of {limit} bytes)", self.stream))
    }
}

async fn get(client: &Client, stream: &str, subject: &str) -> Result<async_nats::Message, async_nats::RequestError> {
    let subject = embed_connect::api_subject(&client.nats, &format!("DIRECT.GET.{stream}.{subject}"));
    nats::request(&client.nats, subject, HeaderMap::new(), Bytes::new(), GET_TIMEOUT).await
}
