//! Texts through the queue: jobs on the bulk lane, published, waited for, and published again if they were lost.
//!
//! Job ids follow from the batch and the line, so that a gateway that was restarted finds what the one before it has published, done or not.

use std::time::Duration;

use embed_client::{
    Backoff, Client, EmbedRequest, EmbedResult, Error, ErrorCode, Expected, JobId, Lane, Outcome, PublishOptions,
    Published, Slug, WireError, part_id,
};
use futures::{FutureExt, future::BoxFuture};

/// How often a job that failed is published again, under another id.
const RETRIES: u32 = 3;
/// For one round of publishing. Rounds follow until the batch is over.
const PUBLISH_ROUND: Duration = Duration::from_secs(30);
/// After so long without an outcome it is looked whether a job is still there: NATS acknowledges before it syncs.
const MISSING_AFTER: Duration = Duration::from_secs(10);

/// Where jobs go.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    pub(super) client: Client,
    pub(super) model: Slug,
    /// Part of the message ids of what is published again: the server remembers those of runs before.
    pub(super) run: String,
}

/// Vectors of texts that stand beside each other, or why they have none.
#[derive(Debug)]
pub(super) enum Part {
    Vectors(EmbedResult),
    /// This many texts, for one reason.
    Failed(usize, WireError),
}

/// What became of texts.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) parts: Vec<Part>,
    /// The jobs that it took.
    pub(super) jobs: Vec<JobId>,
}

impl Answer {
    fn add(&mut self, other: Self) {
        self.parts.extend(other.parts);
        self.jobs.extend(other.jobs);
    }
}

impl Queue {
    /// The vectors of all texts of a request, in order. It takes as many jobs as needed; their ids begin with the request's.
    ///
    /// # Errors
    /// If no stream takes jobs for the model, if it is not permitted, or if the request itself is unusable: everything else is tried again, and it is
    /// up to the caller to give up.
    pub(super) async fn embed(&self, request: EmbedRequest) -> Result<Answer, Error> {
        let mut answer = Answer::default();
        for job in self.client.jobs(request)? {
            answer.add(self.job(job).await?);
        }
        Ok(answer)
    }

    /// One job: two if the answer to one does not fit into a message.
    fn job(&self, mut job: EmbedRequest) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            let Some(id) = job.id.clone() else { return Err(WireError::invalid("id: a job needs one").into()) };
            let count = job.texts.len();
            let mut jobs = Vec::new();
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            for attempt in 0_u32.. {
                let attempt_id = if attempt == 0 { id.clone() } else { part_id(&id, format_args!("r{attempt}"))? };
                job.id = Some(attempt_id.clone());
                jobs.push(attempt_id.clone());
                let error = match self.outcome(&attempt_id, &job).await {
                    Ok(Outcome::Result(result)) if result.items.len() == count => {
                        return Ok(Answer { parts: vec![Part::Vectors(result)], jobs });
                    }
                    Ok(Outcome::Result(result)) => {
                        unusable(format!("{} rows came for {count} texts", result.items.len()))
                    }
                    Ok(Outcome::Failure(failure)) if failure.error.code == ErrorCode::ResultTooLarge && count > 1 => {
                        let texts = job.texts.split_off(count / 2);
                        let second = EmbedRequest { id: Some(part_id(&id, "b")?), texts, ..job.clone() };
                        job.id = Some(part_id(&id, "a")?);
                        let mut answer = Answer { parts: Vec::new(), jobs };
                        answer.add(self.job(job).await?);
                        answer.add(self.job(second).await?);
                        return Ok(answer);
                    }
                    Ok(Outcome::Failure(failure)) => failure.error,
                    // What is stored under this id is not of this job, or cannot be read: another id has a chance.
                    Err(Error::BadAnswer { reason, .. }) => unusable(reason),
                    Err(Error::Wire(error)) if error.code == ErrorCode::IdConflict => unusable(error.message),
                    Err(error) => return Err(error),
                };
                if !error.retryable || attempt == RETRIES {
                    return Ok(Answer { parts: vec![Part::Failed(count, error)], jobs });
                }
                tracing::debug!(%id, %error, attempt, "a job of a batch is published again");
                let advice = error.retry_after_ms.map(Duration::from_millis);
                tokio::time::sleep(backoff.pause(advice, rand::random())).await;
            }
            unreachable!("the last attempt returns")
        }
        .boxed()
    }

    /// The outcome of a job: one that is there already, or else the one that comes.
    async fn outcome(&self, id: &JobId, job: &EmbedRequest) -> Result<Outcome, Error> {
        let mut expected = self.client.expect(&self.model, id.clone()).await?.of(job);
        if let Some(outcome) = expected.stored().await? {
            return Ok(outcome);
        }
        let mut message_id = id.to_string();
        for again in 1_u32.. {
            let published = self.publish(job, &expected, &message_id).await?;
            if let Some(outcome) = self.arrived(&mut expected, &published, &message_id).await? {
                return Ok(outcome);
            }
            tracing::warn!(%id, "the job is in no stream, and has no result: it is published again");
            // No job has an id with a dot.
            message_id = format!("{id}.{}.{again}", self.run);
        }
        unreachable!("a job is published again as often as it is lost")
    }

    /// Waits for an outcome as long as the job is in its stream, or it cannot be told.
    async fn arrived(
        &self,
        expected: &mut Expected,
        published: &Published,
        message_id: &str,
    ) -> Result<Option<Outcome>, Error> {
        // A duplicate of what was published before may be long gone.
        let mut patience = if published.duplicate { Duration::ZERO } else { MISSING_AFTER };
        loop {
            match tokio::time::timeout(patience, expected.outcome()).await {
                Ok(outcome) => return outcome.map(Some),
                Err(_) if self.client.holds(published, message_id).await == Some(false) => {
                    // Workers store before they acknowledge: what is done is there now.
                    return expected.stored().await;
                }
                Err(_) => patience = MISSING_AFTER,
            }
        }
    }

    /// Publishes until the server has the job: one that is away comes back, and a full stream is drained by the workers.
    async fn publish(&self, job: &EmbedRequest, expected: &Expected, message_id: &str) -> Result<Published, Error> {
        let options = PublishOptions::default()
            .reply_to(expected.reply_to())
            .message_id(message_id.to_owned())
            .timeout(PUBLISH_ROUND);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.client.publish_job(&self.model, Lane::Bulk, job, &options).await {
                Err(error) if error.retryable() => {
                    tracing::debug!(%error, "a job of a batch could not be published yet");
                    tokio::time::sleep(backoff.pause(None, rand::random())).await;
                }
                other => return other,
            }
        }
    }
}

/// An outcome that says nothing of the job.
fn unusable(reason: String) -> WireError {
    WireError { retryable: true, ..WireError::invalid(reason) }
}
