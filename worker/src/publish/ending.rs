//! How stored jobs end: the outcome is stored, a dead letter is written if they failed, and only then does the lease end.

use std::time::{Duration, Instant};

use async_nats::Message;
use embed_schemas::{
    EmbedFailure, ErrorCode, Format, JobId, Outcome, WireError, headers, inbox::NoInbox, streams, subjects,
};

use super::{
    dead_letter, encoded::Encoded, job_identity::JobIdentity, outcome::failed_in_engine, publisher::Publisher,
    stored::Stored,
};
use crate::{jetstream::api, job_event::JobEvent, lease::Lease, replies::Refused, variant::Variant};

/// A job of which it cannot be told whether the outcome of its id is its own is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A job that this worker cannot end goes back for so long. Another may be able to, and this one is not ready.
const FOR_OTHERS: Duration = Duration::from_secs(5);

/// Why an outcome is not this job's.
enum Other {
    /// It is that of another job with the same id.
    Job(WireError),
    /// It cannot be read.
    Unknown(api::ApiError),
}

/// How it went with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buried {
    /// It is stored, or none is wanted.
    Yes,
    /// None could be for a while: the failure is stored as the outcome all the same.
    NotYet,
    /// The worker stops before it is known.
    Stopping,
}

impl Publisher {
    /// Ends a stored job: buries the job if it failed, stores the outcome, acknowledges. Gives back the error that it ended in.
    pub async fn settle(
        &self,
        mut lease: Lease,
        variant: &Variant,
        job: &JobIdentity,
        outcome: &Outcome,
        format: Format,
        attempts: u64,
    ) -> Option<ErrorCode> {
        let encoded = Encoded::new(outcome, format, lease.traceparent(), self.max_payload());
        let encoded = encoded.of(job.digest.as_deref()).without_copy(self.refuses_copy(&lease));
        if let (Some(error), Outcome::Result(_)) = (&encoded.error, outcome) {
            variant.metrics.error(lease.lane(), error.code);
        }
        let code = encoded.error.as_ref().map(|error| error.code);
        if let (Some(trace), Some(error)) = (lease.trace(), &encoded.error) {
            trace.failed(error.code.as_str(), &error.message);
        }
        let failure = worth_burying(outcome, encoded.error.as_ref());
        let buried = match &failure {
            Some(error) => self.bury(&lease, variant, Some(&job.id), error, attempts).await,
            None => Buried::Yes,
        };
        if buried == Buried::Stopping {
            lease.give_back(Duration::ZERO);
            return code;
        }
        let began = Instant::now();
        let stored = self.storage.outcome(&variant.model, job, &encoded).await;
        if let Some(trace) = lease.trace() {
            trace.part("store the result", began, Instant::now());
        }
        match stored {
            Stored::New => {}
            Stored::Before => {
                if let (Buried::NotYet, Some(error)) = (buried, &failure) {
                    self.bury_at_last(&lease, variant, Some(&job.id), error, attempts).await;
                }
                return self.end_after_another(lease, variant, job, format, attempts, code).await;
            }
            Stored::No => {
                lease.give_back(Duration::ZERO);
                return code;
            }
            Stored::Forbidden(reason) | Stored::GivenUp(reason) => {
                let reason = format!("its outcome may not be stored by this worker: {reason}");
                JobEvent::GoesBack { reason: &reason }.tell(&lease, variant, Some(&job.id));
                lease.give_back(FOR_OTHERS);
                return code;
            }
            Stored::Never(reason) => {
                // Whatever it is about this outcome: the job ends, and can be found.
                let error =
                    WireError::new(ErrorCode::ResultTooLarge, format!("its outcome cannot be stored: {reason}"));
                return self.end_unstorable(lease, variant, job, error, format, attempts).await;
            }
        }
        if let (Buried::NotYet, Some(error)) = (buried, &failure) {
            self.bury_at_last(&lease, variant, Some(&job.id), error, attempts).await;
        }
        self.copy_to_reply(&lease, encoded).await;
        lease.ack();
        code
    }

    /// The server takes an outcome never: a failure that says so takes its place, and a dead letter has the job.
    async fn end_unstorable(
        &self,
        lease: Lease,
        variant: &Variant,
        job: &JobIdentity,
        error: WireError,
        format: Format,
        attempts: u64,
    ) -> Option<ErrorCode> {
        let id = &job.id;
        let buried = self.bury(&lease, variant, Some(id), &error, attempts).await;
        if buried == Buried::Stopping {
            lease.give_back(Duration::ZERO);
            return Some(error.code);
        }
        let code = error.code;
        let outcome = Outcome::Failure(EmbedFailure { id: Some(id.clone()), error: error.clone() });
        let encoded = Encoded::new(&outcome, format, None, self.max_payload()).of(job.digest.as_deref());
        match self.storage.outcome(&variant.model, job, &encoded).await {
            Stored::No => lease.give_back(Duration::ZERO),
            Stored::Never(reason) if buried == Buried::NotYet => {
                JobEvent::Unstorable { reason: &reason }.tell(&lease, variant, Some(id));
                lease.give_back(FOR_OTHERS);
            }
            Stored::Forbidden(_) | Stored::GivenUp(_) => lease.give_back(FOR_OTHERS),
            stored @ (Stored::New | Stored::Before | Stored::Never(_)) => {
                if let Stored::Never(reason) = stored {
                    tracing::error!(%id, reason, "no outcome of this job can be stored; there is a dead letter");
                }
                if buried == Buried::NotYet {
                    self.bury_at_last(&lease, variant, Some(id), &error, attempts).await;
                }
                self.copy_to_reply(&lease, encoded).await;
                lease.ack();
            }
        }
        Some(code)
    }

    /// There is an outcome under the job's id already. If it is the job's own, that is what counts, and what is copied; if it is another job's, that one
    /// keeps it, and a dead letter has this one.
    async fn end_after_another(
        &self,
        lease: Lease,
        variant: &Variant,
        job: &JobIdentity,
        format: Format,
        attempts: u64,
        code: Option<ErrorCode>,
    ) -> Option<ErrorCode> {
        let stored = match self.own(variant, job).await {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                // A server that lags behind, or somebody removed it just now.
                lease.give_back(LOOK_AGAIN);
                return code;
            }
            Err(Other::Job(error)) => {
                let code = error.code;
                let buried = self.bury(&lease, variant, Some(&job.id), &error, attempts).await;
                if let Some(lease) = self.end_without_outcome(lease, variant, buried, &error, format).await {
                    let outcome = Outcome::Failure(EmbedFailure { id: Some(job.id.clone()), error });
                    let encoded = Encoded::new(&outcome, format, lease.traceparent(), self.max_payload());
                    self.copy_to_reply(&lease, encoded).await;
                    lease.ack();
                }
                return Some(code);
            }
            Err(Other::Unknown(error)) => {
                let reason = format!("it cannot be told whether the outcome that is stored is its own: {error}");
                JobEvent::GoesBack { reason: &reason }.tell(&lease, variant, Some(&job.id));
                lease.give_back(LOOK_AGAIN);
                return code;
            }
        };
        JobEvent::AlreadyDone.tell(&lease, variant, Some(&job.id));
        self.copy_to_reply(&lease, Encoded::stored(&stored)).await;
        lease.ack();
        code
    }

    /// The outcome that is stored of this job. `None`: there is none under its id.
    async fn own(&self, variant: &Variant, job: &JobIdentity) -> Result<Option<Message>, Other> {
        let stream = streams::results_stream(&variant.model);
        let subject = subjects::result_for(&variant.model, job.tenant.as_ref(), &job.id);
        let stored = api::last_on_subject(&self.stored, &stream, &subject).await;
        let Some(stored) = stored.map_err(Other::Unknown)? else { return Ok(None) };
        let digest = stored.headers.as_ref().and_then(|all| all.get(headers::REQUEST_DIGEST));
        let is_failure = || stored.headers.as_ref().is_some_and(|all| all.get(headers::SERVICE_ERROR_CODE).is_some());
        let is_another = match (&job.digest, digest) {
            (Some(digest), Some(of)) => digest != of.as_str(),
            // What could not be read has failed under this id. Vectors without a digest are of a worker of before.
            (Some(_), None) => is_failure(),
            // What cannot be read gets nobody's vectors.
            (None, Some(_)) => true,
            (None, None) => false,
        };
        if is_another {
            return Err(Other::Job(WireError::id_conflict(&job.id)));
        }
        Ok(Some(stored))
    }

    /// Ends a message that is no job: there is no id under which an outcome could be stored.
    pub async fn reject(&self, mut lease: Lease, variant: &Variant, error: WireError, format: Format) {
        if let Some(trace) = lease.trace() {
            trace.failed(error.code.as_str(), &error.message);
        }
        let buried = self.bury(&lease, variant, None, &error, 0).await;
        let _ = self.refuses_copy(&lease);
        let Some(lease) = self.end_without_outcome(lease, variant, buried, &error, format).await else { return };
        let outcome = Outcome::Failure(EmbedFailure { id: None, error });
        let encoded = Encoded::new(&outcome, format, lease.traceparent(), self.max_payload());
        self.copy_to_reply(&lease, encoded).await;
        lease.terminate();
    }

    /// The end of a job for which there is nothing but its dead letter. If that could not be stored, the failure is stored as an outcome,
    /// under the id that follows from where the job is. Gives the lease back to the caller, to be ended; or gives the job back.
    async fn end_without_outcome(
        &self,
        lease: Lease,
        variant: &Variant,
        buried: Buried,
        error: &WireError,
        format: Format,
    ) -> Option<Lease> {
        match buried {
            Buried::Yes => return Some(lease),
            Buried::Stopping => {
                lease.give_back(Duration::ZERO);
                return None;
            }
            Buried::NotYet => {}
        }
        let job = JobIdentity { id: lease.delivery().job_id(), tenant: lease.tenant(), digest: None };
        let outcome = Outcome::Failure(EmbedFailure { id: Some(job.id.clone()), error: error.clone() });
        let encoded = Encoded::new(&outcome, format, None, self.max_payload());
        match self.storage.outcome(&variant.model, &job, &encoded).await {
            Stored::New | Stored::Before => {
                self.bury_at_last(&lease, variant, None, error, 0).await;
                Some(lease)
            }
            Stored::No => {
                lease.give_back(Duration::ZERO);
                None
            }
            Stored::Never(reason) | Stored::Forbidden(reason) | Stored::GivenUp(reason) => {
                JobEvent::Unstorable { reason: &reason }.tell(&lease, variant, Some(&job.id));
                lease.give_back(FOR_OTHERS);
                None
            }
        }
    }

    /// Whether an outcome of the job is stored. One of another job with its id does not count.
    ///
    /// # Errors
    /// If the stream does not answer.
    pub async fn is_stored(&self, variant: &Variant, job: &JobIdentity) -> Result<bool, api::ApiError> {
        match self.own(variant, job).await {
            Ok(stored) => Ok(stored.is_some()),
            Err(Other::Job(_)) => Ok(false),
            Err(Other::Unknown(error)) => Err(error),
        }
    }

    /// Why a job gets no copy of its outcome, though it wants one. Counted, and told now and then.
    fn refuses_copy(&self, lease: &Lease) -> Option<NoInbox> {
        lease.reply_to().and_then(|subject| self.replies().allow(Refused::Copy, subject).err())
    }

    /// Where a job wants a copy of its outcome, and gets it.
    fn copy_goes_to<'a>(&self, lease: &'a Lease) -> Option<&'a str> {
        lease.reply_to().filter(|subject| self.replies().check(subject).is_ok())
    }

    /// The direct copy that a job may ask for. Nothing depends on it: the stored outcome is the one that counts.
    async fn copy_to_reply(&self, lease: &Lease, encoded: Encoded) {
        let Some(subject) = self.copy_goes_to(lease) else { return };
        let sent = self.stored.publish_with_headers(subject.to_owned(), encoded.headers, encoded.payload).await;
        if let Err(error) = sent {
            tracing::warn!(%error, "the direct copy of an outcome could not be sent");
        }
    }

    /// Writes the dead letter, and waits until it is stored, or until it is known that none can be.
    async fn bury(
        &self,
        lease: &Lease,
        variant: &Variant,
        id: Option<&JobId>,
        error: &WireError,
        attempts: u64,
    ) -> Buried {
        let (model, reply_to) = (&variant.model, self.copy_goes_to(lease));
        let found = dead_letter::Found { id, error, attempts, worker: &self.worker, model, reply_to };
        let (mut letter, payload) = dead_letter::letter(lease, &found, self.max_payload());
        let subject = subjects::dead(model, &variant.name);
        let sequence = lease.delivery().sequence;
        let mut stored = self.storage.dead_letter(model, subject.clone(), letter.clone(), &payload).await;
        if let Stored::Never(reason) = stored {
            // Its headers are bounded, so it is the payload.
            tracing::error!(sequence, reason, "the dead letter is refused; its payload is left out");
            letter.insert(headers::DEAD_SIZE, lease.payload().len().to_string().as_str());
            stored = self.storage.dead_letter(model, subject, letter, &bytes::Bytes::new()).await;
        }
        match stored {
            Stored::No => Buried::Stopping,
            Stored::New | Stored::Before => {
                JobEvent::BecameDeadLetter(error).tell(lease, variant, id);
                Buried::Yes
            }
            Stored::Never(why) | Stored::GivenUp(why) | Stored::Forbidden(why) => {
                JobEvent::NoDeadLetter { error, why: &why }.tell(lease, variant, id);
                self.storage.no_letter(model, why);
                Buried::NotYet
            }
        }
    }

    /// Tries it once more after something else could be stored: it may have been the server, or the connection. If it still cannot be, the
    /// job ends without one, and readiness says so: what cannot be served must not hold up what can.
    async fn bury_at_last(
        &self,
        lease: &Lease,
        variant: &Variant,
        id: Option<&JobId>,
        error: &WireError,
        attempts: u64,
    ) {
        if self.bury(lease, variant, id, error, attempts).await != Buried::Yes {
            JobEvent::EndedWithoutLetter(error.code).tell(lease, variant, id);
            self.storage.ended_without_letter(&variant.model);
        }
    }
}

/// Jobs that failed are kept as dead letters, except where the producer itself gave them an end.
fn worth_burying(outcome: &Outcome, error: Option<&WireError>) -> Option<WireError> {
    match (outcome, error) {
        (_, Some(error)) => (error.code != ErrorCode::DeadlineExceeded).then(|| error.clone()),
        (Outcome::Result(result), None) if failed_in_engine(outcome) => {
            result.items.iter().find_map(|item| item.error.clone())
        }
        _ => None,
    }
}
