//! Results of jobs, read from the stream that they are stored in.
//!
//! The stream is the truth. A copy that a job asks for says only that it is worth a look: anybody may publish one, and what is heard need
//! not be stored.

mod shared;

use std::{sync::Arc, time::Duration};

use embed_schemas::{EmbedRequest, ErrorCode, JobId, Outcome, Slug, streams, subjects};
use futures::{Stream, stream::FuturesUnordered};
use serde_json::Value;

pub(crate) use self::shared::Looking;
use self::shared::Wanted;
use super::{Client, combine::check_space, identity::outcome_of};
use crate::{
    Error,
    nats::{
        api,
        stored::{self, ReadError, Stored, Which},
    },
};

/// For one look.
const GET_TIMEOUT: Duration = Duration::from_secs(5);

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
    found: Option<Stored>,
}

impl Client {
    /// Begins to wait for the outcome of a job. Have a copy of the outcome sent to [`Expected::reply_to`] to know of it at once;
    /// otherwise it is known a tenth later than it is stored, and at most two seconds.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn expect(&self, model: &Slug, id: JobId) -> Result<Expected, Error> {
        self.expect_for(model, None, id).await
    }

    /// The same for a job of a tenant: see [`crate::PublishOptions::tenant`].
    ///
    /// # Errors
    /// As [`Client::expect`].
    pub async fn expect_for(&self, model: &Slug, tenant: Option<&Slug>, id: JobId) -> Result<Expected, Error> {
        let looking = self.looking.get_or_try_init(async || {
            let looking =
                Looking::start(&self.nats).await.map_err(|error| Error::nats("cannot wait for results", error))?;
            Ok::<_, Error>(Arc::new(looking))
        });
        let (subject, stream) = (subjects::result_for(model, tenant, &id), streams::results_stream(model));
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
    /// As [`Client::result`], but for the time; [`Error::Wire`] with `id_conflict`, or [`Error::BadAnswer`], if what is stored is not the
    /// outcome of this job: then there will be no other under its id.
    pub async fn outcome(&mut self) -> Result<Outcome, Error> {
        loop {
            if self.found.is_none() {
                self.found = self.wanted.found().await;
            }
            let Some(found) = &self.found else {
                return Err(Error::nats(format!("cannot wait for job {}", self.id), "the connection is closed"));
            };
            let read = self.read(found);
            if !read.as_ref().is_err_and(is_not_ours) {
                return read;
            }
            // Whoever knows where we wait could have sent it: what the stream says when it is asked again is what counts.
            if let Some(outcome) = self.stored().await? {
                return Ok(outcome);
            }
            tracing::warn!(id = %self.id, "what came is not the outcome of this job, and not stored: it is waited for");
            self.found = None;
            self.wanted.again(&self.stream, &self.subject);
        }
    }

    /// Looks into the stream. `None` if nothing is there, or if the server does not answer now.
    ///
    /// # Errors
    /// [`Error::BadAnswer`] if what is stored cannot be read or is another job's, [`Error::OtherSpace`] if it is of no use.
    pub async fn stored(&self) -> Result<Option<Outcome>, Error> {
        match self.look().await {
            Ok(found) => found.map(|found| self.read(&found)).transpose(),
            Err(error) => {
                tracing::debug!(subject = self.subject, %error, "cannot look into the results");
                Ok(None)
            }
        }
    }

    async fn look(&self) -> Result<Option<Stored>, ReadError> {
        stored::read(&self.client.nats, &self.stream, Which::LastOn(&self.subject), GET_TIMEOUT).await
    }

    fn read(&self, stored: &Stored) -> Result<Outcome, Error> {
        let outcome = outcome_of(stored, &self.id, self.digest.as_deref())?;
        if let Outcome::Result(result) = &outcome {
            check_space(self.space.as_deref(), result)?;
        }
        Ok(outcome)
    }

    /// Why nothing came, as far as one look can tell.
    async fn hint(&self) -> String {
        match self.look().await {
            Err(ReadError::NoResponders) => {
                format!(": there is no stream {} to read it from; run `embed init`", self.stream)
            }
            Err(_) => ": the server does not answer".to_owned(),
            Ok(None) => match self.full().await {
                Some(full) => format!(
                    ": {full}, and what does not fit waits with its worker until there is room: raise \
                         --results-max-bytes of `embed init`, or purge what nobody needs"
                ),
                None => ": it waits to be served, or its result has expired; is a worker running?".to_owned(),
            },
            Ok(Some(_)) => String::new(),
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

/// Whether what was read is not the outcome of the job that it was read for.
fn is_not_ours(error: &Error) -> bool {
    match error {
        Error::BadAnswer { .. } => true,
        Error::Wire(error) => error.code == ErrorCode::IdConflict,
        _ => false,
    }
}
