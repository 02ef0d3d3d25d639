//! What happens to a stored job that somebody will ask about. Each event owns its line in the log and its metric: whoever tells of one has
//! both, and every line says which job it is about, and in which trace.

use std::time::Duration;

use embed_schemas::{ErrorCode, JobId, WireError};

use crate::{lease::Lease, metrics::Demand, variant::Variant};

/// What happened to a job.
#[derive(Debug)]
pub enum JobEvent<'a> {
    /// It came, and had been delivered before.
    Redelivered,
    /// The engine failed on it, so many times by now, and it goes back, to be tried again.
    TriedInVain {
        /// Attempts.
        attempts: u64,
        /// When.
        delay: Duration,
        /// How long this one took.
        took: Duration,
        /// What it had brought with it.
        demand: Demand,
    },
    /// It goes back to where others can take it: this worker cannot end it now.
    GoesBack {
        /// Why.
        reason: &'a str,
    },
    /// The stream had its result already.
    AlreadyDone,
    /// It failed, and is kept with the reason.
    BecameDeadLetter(&'a WireError),
    /// It failed, and no dead letter of it could be stored so far.
    NoDeadLetter {
        /// Why it failed.
        error: &'a WireError,
        /// Why there is no letter.
        why: &'a str,
    },
    /// It ended without one.
    EndedWithoutLetter(ErrorCode),
    /// Neither an outcome nor a dead letter of it can be stored.
    Unstorable {
        /// Why not.
        reason: &'a str,
    },
}

impl JobEvent<'_> {
    /// Logs and counts it. `id`: the job's, where more is known of it than its headers say.
    pub fn tell(&self, lease: &Lease, variant: &Variant, id: Option<&JobId>) {
        let (delivery, lane) = (lease.delivery(), lease.lane());
        let in_headers = if id.is_none() { lease.id_in_headers() } else { None };
        let (id, trace) = (id.or(in_headers.as_ref()).map(JobId::as_str), lease.trace_id());
        macro_rules! line {
            ($level:ident, $($more:tt)+) => {
                tracing::$level!(
                    model = %variant.model, variant = %variant.name, lane = lane.as_str(), id, trace,
                    sequence = delivery.sequence, deliveries = delivery.deliveries, $($more)+
                )
            };
        }
        match self {
            Self::Redelivered => {
                line!(info, "a job is delivered again");
                variant.metrics.redelivered(lane);
            }
            Self::TriedInVain { attempts, delay, took, demand } => {
                line!(warn, attempts, ?delay, "the engine failed on a job; it goes back, to be tried again");
                variant.metrics.tried_in_vain(lane, *took, *demand);
            }
            Self::GoesBack { reason } => line!(warn, reason, "a job goes back"),
            Self::AlreadyDone => {
                line!(debug, "a job had its result already");
                variant.metrics.duplicate_result();
            }
            Self::BecameDeadLetter(WireError { code, message, .. }) => {
                line!(warn, %code, reason = message, "a job became a dead letter");
                variant.metrics.dead_letter(*code);
            }
            Self::NoDeadLetter { error: WireError { code, message, .. }, why } => {
                line!(error, %code, reason = message, why, "no dead letter of a job can be stored");
            }
            Self::EndedWithoutLetter(code) => {
                line!(error, %code, "a job ended without a dead letter");
                variant.metrics.dead_letter_unwritten(*code);
            }
            Self::Unstorable { reason } => {
                line!(error, reason, "neither an outcome of a job can be stored nor a dead letter; it goes back");
            }
        }
    }
}
