//! Jobs that were delivered before. One of them may have killed the worker that had it, so they run alone, one at a time, and what comes
//! of that is written down; see [`crate::lease::Attempts`].

use std::{sync::Arc, time::Duration};

use embed_schemas::{ErrorCode, WireError};

use super::jobs::{Job, JobIntake, identity};
use crate::{
    jetstream::api::ApiError,
    job_event::JobEvent,
    lease::{AttemptStore, Attempts},
    variant::ServedVersion,
};

/// When a job is looked at again about which the server did not answer.
const LATER: Duration = Duration::from_secs(1);
/// Deliveries until which it waits for an answer about its attempts.
const UNANSWERED: u64 = 50;

impl JobIntake {
    /// Runs a job alone, after those that came before it, unless it was tried often enough.
    pub(super) async fn run_again(self: &Arc<Self>, mut job: Job, version: Arc<ServedVersion>) {
        let variant = &self.deployment.variant;
        // The semaphore is never closed. A worker that stops gives back what waits here.
        let Ok(turn) = Arc::clone(&self.context.one_again).acquire_owned().await else { return };
        let store = self.context.publisher.attempts();
        let before = match store.read(&variant.model, job.lease.delivery()).await {
            Ok(before) => before,
            // Begun anew, the count would never reach its end where a server is slow after each death. A server without that stream never answers.
            Err(error @ ApiError::Unanswered(_)) if job.lease.delivery().deliveries <= UNANSWERED => {
                let reason = format!("what is known of attempts at it cannot be read: {error}");
                let id = identity(&job.lease, &job.request).id;
                JobEvent::GoesBack { reason: &reason }.tell(&job.lease, variant, Some(&id));
                return job.lease.give_back(LATER);
            }
            Err(error) => {
                tracing::warn!(%error, "what is known of attempts at a job cannot be read");
                Attempts::default()
            }
        };
        if before.count() >= variant.max_attempts {
            return self.give_up(job, before).await;
        }
        // Said first, so that it follows what is written now, whenever the message is given back.
        let (subject, payload) = AttemptStore::message(&variant.model, job.lease.delivery(), before);
        if !job.lease.on_give_back(subject, payload) {
            return;
        }
        if let Err(error) = store.write(&variant.model, job.lease.delivery(), before.begin()).await {
            tracing::warn!(%error, "an attempt at a job cannot be written down; if it kills this worker, that does not count");
        }
        self.submit(job, version, Some((before, turn)));
    }

    /// It was tried as often as it may be.
    async fn give_up(self: &Arc<Self>, job: Job, attempts: Attempts) {
        let Job { lease, request, format, permit } = job;
        let variant = &self.deployment.variant;
        let identity = identity(&lease, &request);
        // Its worker may have died, or been cut off, between storing the result and acknowledging.
        match self.context.publisher.is_stored(variant, &identity).await {
            Ok(true) => return lease.ack(),
            Ok(false) => {}
            Err(error) => {
                let reason = format!("it cannot be told whether it has its result: {error}");
                JobEvent::GoesBack { reason: &reason }.tell(&lease, variant, Some(&identity.id));
                return lease.give_back(LATER);
            }
        }
        let error = WireError::new(
            ErrorCode::TooManyDeliveries,
            format!(
                "tried {} times without an answer: {} times its worker died while it ran alone, {} times the engine failed; \
                 at most {} are tried",
                attempts.count(),
                attempts.begun,
                attempts.failed,
                variant.max_attempts
            ),
        );
        self.refuse(lease, Some(identity), error, format, attempts.count(), Some(permit));
    }
}
