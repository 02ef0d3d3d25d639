//! Results of jobs: heard as they are stored, and read from the stream where they were not heard.
//!
//! The stream sends what it has stored to a subject of the job's own, so a plain subscription hears it at once. That is only
//! the fast way: it misses what was stored before, and what passes while the connection is down. The stream is the
//! truth, and is looked at right away and then every two seconds.
//!
//! What the stream has not sent itself does not count: anybody may publish on the subject, and workers did, before results had a
//! subject to be stored on (see [`streams`]); such a message is heard even where the stream refuses it. It only makes us look at once.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind, StatusCode, Subscriber, header::NATS_STREAM};
use bytes::Bytes;
use embed_schemas::{JobId, Outcome, Slug, streams, subjects, wire};
use futures::{Stream, StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Client, combine::check_space};
use crate::{
    Error,
    nats::{self, api},
};

/// How often the stream is looked at while nothing is heard.
pub const DEFAULT_POLL: Duration = Duration::from_secs(2);
/// For one look.
const GET_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after the first look for what was heard and may not be stored. It doubles.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// For one removal.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of one job, expected. Made before the job is published, it misses nothing.
#[derive(Debug)]
pub struct Expected {
    client: Client,
    id: JobId,
    /// The only embedding space whose vectors are of use.
    space: Option<String>,
    subject: String,
    stream: String,
    heard: Subscriber,
}

impl Client {
    /// Begins to listen for the outcome of a job.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn expect(&self, model: &Slug, id: JobId) -> Result<Expected, Error> {
        let subject = subjects::result(model, &id);
        let heard = self
            .nats
            .subscribe(subject.clone())
            .await
            .map_err(|error| Error::nats(format!("cannot listen on {subject}"), error))?;
        let stream = streams::results_stream(model);
        Ok(Expected { client: self.clone(), id, space: None, subject, stream, heard })
    }

    /// The outcome of one job, waited for.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::BadAnswer`] if what is stored cannot be read.
    pub async fn result(&self, model: &Slug, id: &JobId, timeout: Duration) -> Result<Outcome, Error> {
        self.expect(model, id.clone()).await?.wait(timeout).await
    }

    /// The outcomes of several jobs, as they come. The stream ends after the last; it waits as long as it is polled.
    /// Everything is listened for when this returns, so jobs may be published after it. With a `space`, vectors of any other
    /// are an [`Error::OtherSpace`].
    ///
    /// # Errors
    /// If the connection is closed. The stream's own errors are those of [`Client::result`].
    pub async fn results(
        &self,
        model: &Slug,
        ids: Vec<JobId>,
        space: Option<&str>,
    ) -> Result<impl Stream<Item = Result<(JobId, Outcome), Error>> + use<>, Error> {
        let waiting = FuturesUnordered::new();
        for id in ids {
            let mut expected = self.expect(model, id).await?.in_space(space.map(str::to_owned));
            waiting.push(async move {
                let outcome = expected.outcome(DEFAULT_POLL).await?;
                Ok((expected.id, outcome))
            });
        }
        Ok(waiting)
    }
}

impl Client {
    /// Removes the outcome of a job from its stream, once nobody needs it there any more: a stream with a bound would fill up.
    /// What is not removed expires. `false`: nothing was there.
    ///
    /// # Errors
    /// [`Error::Nats`] if the server does not answer, or refuses.
    pub async fn remove_result(&self, model: &Slug, id: &JobId) -> Result<bool, Error> {
        let call = format!("STREAM.PURGE.{}", streams::results_stream(model));
        let body = json!({ "filter": subjects::result(model, id) });
        let removed = api::call(&self.nats, &call, &body, REMOVE_TIMEOUT).await;
        let removed =
            removed.map_err(|error| Error::nats(format!("the result of job {id} could not be removed"), error))?;
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

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`Client::result`].
    pub async fn wait(mut self, timeout: Duration) -> Result<Outcome, Error> {
        match tokio::time::timeout(timeout, self.outcome(DEFAULT_POLL)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout {
                what: format!("no result of job {}", self.id),
                after: timeout,
                hint: self.hint().await,
            }),
        }
    }

    /// Waits without a limit, looking into the stream every `poll`. Dropped and called again, it loses nothing.
    ///
    /// # Errors
    /// As [`Client::result`], but for the time.
    pub async fn outcome(&mut self, poll: Duration) -> Result<Outcome, Error> {
        let outcome = self.any_outcome(poll).await?;
        self.check(&outcome)?;
        Ok(outcome)
    }

    async fn any_outcome(&mut self, poll: Duration) -> Result<Outcome, Error> {
        let Self { client, id, subject, stream, heard, .. } = self;
        let heard_of = Notify::new();
        let look = async {
            let mut pause = Duration::ZERO;
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = if pause.is_zero() { poll } else { (pause * 2).min(poll) },
                    () = heard_of.notified() => pause = FIRST_LOOK.min(poll),
                }
                if let Some(outcome) = stored(client, stream, subject).await? {
                    return Ok(outcome);
                }
            }
        };
        tokio::pin!(look);
        loop {
            tokio::select! {
                biased;
                message = heard.next() => match message {
                    Some(message) if !is_stored_in(stream, &message) => heard_of.notify_one(),
                    Some(message) => match wire::decode_outcome(&message.payload) {
                        Ok(outcome) => return Ok(outcome),
                        Err(error) => tracing::warn!(%id, %error, "ignored a message that is no outcome"),
                    },
                    None => return Err(Error::nats(format!("cannot wait for job {id}"), "the connection is closed")),
                },
                outcome = &mut look => return outcome,
            }
        }
    }

    /// Looks into the stream. `None` if nothing is there, or if the server does not answer now.
    ///
    /// # Errors
    /// [`Error::BadAnswer`] if what is stored cannot be read, [`Error::OtherSpace`] if it is of no use.
    pub async fn stored(&self) -> Result<Option<Outcome>, Error> {
        let outcome = stored(&self.client, &self.stream, &self.subject).await?;
        outcome.iter().try_for_each(|outcome| self.check(outcome))?;
        Ok(outcome)
    }

    fn check(&self, outcome: &Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Result(result) => check_space(self.space.as_deref(), result),
            Outcome::Failure(_) => Ok(()),
        }
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

/// Whether the stream itself sent this, having stored it. It says so in the headers that it adds.
fn is_stored_in(stream: &str, message: &async_nats::Message) -> bool {
    let of = message.headers.as_ref().and_then(|headers| headers.get(NATS_STREAM));
    of.is_some_and(|of| of.as_str() == stream)
}

async fn stored(client: &Client, stream: &str, subject: &str) -> Result<Option<Outcome>, Error> {
    match get(client, stream, subject).await {
        Ok(message) if message.status.is_none() => wire::decode_outcome(&message.payload)
            .map(Some)
            .map_err(|error| Error::BadAnswer { from: subject.to_owned(), reason: error.to_string() }),
        Ok(_) => Ok(None),
        Err(error) => {
            tracing::debug!(subject, %error, "cannot look into the results");
            Ok(None)
        }
    }
}

async fn get(client: &Client, stream: &str, subject: &str) -> Result<async_nats::Message, async_nats::RequestError> {
    let subject = embed_connect::api_subject(&client.nats, &format!("DIRECT.GET.{stream}.{subject}"));
    nats::request(&client.nats, subject, HeaderMap::new(), Bytes::new(), GET_TIMEOUT).await
}
