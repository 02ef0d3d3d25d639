//! One job in the queue: published, waited for, and published again if it was lost.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use embed_otlp::{KeyValue, Kind, Open};
use embed_schemas::{EmbedRequest, JobId, Lane, Outcome, subjects};

use super::job::Jobs;
use embed_client::{Backoff, Error, Expected, PublishOptions, Published};

/// For one round of publishing; rounds follow until the driver gives up.
const PUBLISH_ROUND: Duration = Duration::from_secs(30);
/// So often it is asked whether a job is still there before one of which that cannot be told is published again; twice as often at first, and each
/// time twice as often as the time before, since it may only be waiting. Of both, one outcome is stored.
const UNTOLD: u32 = 6;

impl Jobs {
    /// Publishes one job and waits for its outcome.
    pub(crate) async fn outcome(&self, id: JobId, job: &EmbedRequest) -> Result<Outcome, Error> {
        let expected = self.client.expect_for(&self.model, self.tenant.as_ref(), id.clone()).await?;
        let mut expected = expected.of(job).in_space(self.space.clone());
        let outcome = match self.stored_before(&expected).await? {
            Some(outcome) => outcome,
            None => self.published(&id, &mut expected, job).await?,
        };
        self.outcomes.send_modify(|count| *count += 1);
        Ok(outcome)
    }

    /// What a run before this one has left in the stream.
    async fn stored_before(&self, expected: &Expected) -> Result<Option<Outcome>, Error> {
        if self.lookups.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let found = expected.stored().await.map_err(|error| match error {
            // It was stored before we were stopped; what is computed now may be of the right space again.
            Error::OtherSpace { from, .. } => Error::BadAnswer { reason: "of another space".into(), from },
            other => other,
        })?;
        if found.is_none() {
            // Saturating: several jobs look at once.
            let _ = self.lookups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
        Ok(found)
    }

    /// Publishes a job until an outcome comes. One that is in no stream and has no outcome is published again, under a message id
    /// of its own, which no run before this one has used: the server knows those, and would drop it. The job's id stays, so only one outcome
    /// is ever stored.
    async fn published(&self, id: &JobId, expected: &mut Expected, job: &EmbedRequest) -> Result<Outcome, Error> {
        // No job has an id with a dot. The server knows nothing of tenants.
        let mut message_id = self.tenant.as_ref().map_or_else(|| id.to_string(), |tenant| format!("{tenant}.{id}"));
        let mut open =
            self.recorder.apart(Kind::Producer, || format!("publish {}", subjects::bare(Lane::Bulk, &self.model)));
        if let Some(open) = &mut open {
            let texts = i64::try_from(job.texts.len()).unwrap_or(i64::MAX);
            open.note(KeyValue::new("messaging.message.id", id.to_string()));
            open.note(KeyValue::new("embed.texts", texts));
        }
        let outcome = self.until_done(id, expected, job, &mut message_id, open.as_mut()).await;
        if let Some(open) = &mut open {
            match &outcome {
                Ok(_) => open.received("wait for the result"),
                Err(error) => open.failed(error),
            }
        }
        outcome
    }

    async fn until_done(
        &self,
        id: &JobId,
        expected: &mut Expected,
        job: &EmbedRequest,
        message_id: &mut String,
        mut open: Option<&mut Open>,
    ) -> Result<Outcome, Error> {
        for again in 1_u32.. {
            let published = self.publish(job, message_id, open.as_deref().map(Open::traceparent)).await?;
            if let Some(open) = &mut open {
                open.sent();
            }
            // A duplicate of what an earlier run published may be long gone.
            let mut untold = 0;
            let mut patience = if published.duplicate { Duration::ZERO } else { self.missing_after };
            loop {
                match tokio::time::timeout(patience, expected.outcome()).await {
                    Ok(outcome) => return outcome,
                    Err(_) => match self.client.holds(&published, message_id).await {
                        Some(true) => patience = self.missing_after,
                        // Where it cannot be told: what the server takes for a duplicate may be of anybody who has used our message id.
                        None if !published.duplicate && untold < UNTOLD << again.min(16) => {
                            untold += 1;
                            patience = self.missing_after;
                        }
                        // Workers store before they acknowledge: what is done is there now.
                        _ => match expected.stored().await? {
                            Some(outcome) => return Ok(outcome),
                            None => break,
                        },
                    },
                }
            }
            tracing::warn!(%id, "the job is not known to be in its stream, and has no result: it is published again");
            *message_id = format!("{id}.{}.{again}", self.run);
        }
        unreachable!("a job is published again as often as it is lost")
    }

    /// Publishes until the server has the job. A full stream is a reason to wait: the workers will drain it. So is one that is gone
    /// and was there before: somebody makes it anew.
    async fn publish(
        &self,
        job: &EmbedRequest,
        message_id: &str,
        traceparent: Option<String>,
    ) -> Result<Published, Error> {
        let options = PublishOptions::default()
            .variant(self.variant.clone())
            .tenant(self.tenant.clone())
            .message_id(message_id.to_owned())
            .traceparent(traceparent)
            .timeout(PUBLISH_ROUND);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.client.publish_job(&self.model, Lane::Bulk, job, &options).await {
                Ok(published) => {
                    self.has_stream.store(true, Ordering::Relaxed);
                    return Ok(published);
                }
                Err(error)
                    if error.retryable()
                        || matches!(error, Error::NoStream { .. }) && self.has_stream.load(Ordering::Relaxed) =>
                {
                    tracing::debug!(%error, "a job could not be published yet");
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.pause(None, rand::random())).await;
        }
    }
}
