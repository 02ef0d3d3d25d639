//! Takes finished jobs, encodes their outcomes, and sends each where it belongs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, jetstream};
use embed_schemas::{EmbedFailure, ErrorCode, Format, JobId, Lane, Outcome, WireError, headers};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Call, Delivery, Reply, dead_letter,
    encoded::Encoded,
    stored::{Stored, store},
};
use crate::{job::Job, nats::Connections, serving::Variant};

/// A failed job is given back this long after its first delivery, twice as long after its second, and so on.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Publishes outcomes.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// For answers to calls.
    online: Client,
    /// For stored outcomes.
    stored: Client,
    jetstream: jetstream::Context,
    /// Cancelled when the time to finish is over: what could not be stored is given back.
    give_up: CancellationToken,
    tasks: TaskTracker,
}

impl Publisher {
    /// A publisher on these connections.
    pub fn new(connections: &Connections, give_up: CancellationToken) -> Self {
        let (online, stored) = (connections.online.client.clone(), connections.stored.client.clone());
        Self { jetstream: jetstream::new(stored.clone()), online, stored, give_up, tasks: TaskTracker::new() }
    }

    /// The connection over which calls come and are answered.
    pub const fn online(&self) -> &Client {
        &self.online
    }

    /// The connection of stored jobs.
    pub const fn stored(&self) -> &Client {
        &self.stored
    }

    /// JetStream, over the connection of stored jobs.
    pub const fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// The server's limit for one message, bytes.
    pub fn max_payload(&self) -> usize {
        self.online.max_payload()
    }

    /// Publishes every job that comes, until all senders are gone and all outcomes are out.
    pub async fn run(self, mut finished: mpsc::UnboundedReceiver<Arc<Job>>) {
        while let Some(job) = finished.recv().await {
            let publisher = self.clone();
            // The number of tasks is bounded by the jobs that the worker admits.
            self.tasks.spawn(async move { publisher.publish(&job).await });
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn publish(&self, job: &Job) {
        let variant = &job.pipeline.variant;
        let computed = Instant::now();
        let outcome = job.outcome();
        let error = match &job.reply {
            Reply::Call(call) => {
                let error = self.answer(call, variant, &outcome, job.ask.format).await;
                if call.is_probe {
                    return;
                }
                error
            }
            Reply::Stored(delivery) => {
                if failed_in_engine(&outcome) && delivery.deliveries < variant.max_deliveries {
                    variant.metrics.tried_in_vain(job.ask.lane, job.ask.received.elapsed());
                    delivery.nak(RETRY_DELAY * u32::try_from(delivery.deliveries).unwrap_or(u32::MAX)).await;
                    return;
                }
                self.settle(delivery, variant, &job.ask.id, &outcome, job.ask.format).await
            }
        };
        let error = error.or_else(|| first_error(&outcome));
        variant.metrics.finished(job.ask.lane, job.ask.received.elapsed(), &outcome, computed.elapsed(), error);
    }

    /// Answers a call. Gives back the error that it answered with.
    pub async fn answer(&self, call: &Call, variant: &Variant, outcome: &Outcome, format: Format) -> Option<ErrorCode> {
        let encoded =
            Encoded::new(variant, Lane::Rpc, outcome, format, call.traceparent.as_deref(), self.max_payload());
        let sent = self.online.publish_with_headers(call.reply.clone(), encoded.headers, encoded.payload).await;
        call.stats.answered(call.received.elapsed(), encoded.error.as_ref());
        if let Err(error) = sent {
            tracing::debug!(%error, "an answer could not be sent");
        }
        encoded.error.map(|error| error.code)
    }

    /// Ends a stored job: stores the outcome, buries the job if it failed, acknowledges. Gives back the error that it
    /// ended in.
    pub async fn settle(
        &self,
        delivery: &Delivery,
        variant: &Variant,
        id: &JobId,
        outcome: &Outcome,
        format: Format,
    ) -> Option<ErrorCode> {
        let encoded = Encoded::new(
            variant,
            delivery.lane(),
            outcome,
            format,
            delivery.header(headers::TRACEPARENT),
            self.max_payload(),
        );
        if let Some(error) = worth_burying(outcome, encoded.error.as_ref())
            && !self.bury(delivery, variant, &error).await
        {
            return Some(error.code);
        }
        let code = encoded.error.as_ref().map(|error| error.code);
        match store(&self.jetstream, &self.give_up, &variant.model, id, &encoded).await {
            Stored::New => {}
            Stored::Before => variant.metrics.duplicate_result(),
            Stored::No => {
                delivery.nak(Duration::ZERO).await;
                return code;
            }
        }
        self.copy_to_reply(delivery, encoded).await;
        delivery.ack().await;
        code
    }

    /// Ends a message that is no job: there is no id under which an outcome could be stored.
    pub async fn reject(&self, delivery: &Delivery, variant: &Variant, error: WireError, format: Format) {
        if !self.bury(delivery, variant, &error).await {
            return;
        }
        let outcome = Outcome::Failure(EmbedFailure { id: None, error });
        let trace = delivery.header(headers::TRACEPARENT);
        self.copy_to_reply(
            delivery,
            Encoded::new(variant, delivery.lane(), &outcome, format, trace, self.max_payload()),
        )
        .await;
        delivery.term().await;
    }

    /// The direct copy that a job may ask for. Nothing depends on it: the stored outcome is the one that counts.
    async fn copy_to_reply(&self, delivery: &Delivery, encoded: Encoded) {
        let Some(subject) = delivery.reply_to() else { return };
        let sent = self.stored.publish_with_headers(subject.to_owned(), encoded.headers, encoded.payload).await;
        if let Err(error) = sent {
            tracing::warn!(%error, subject, "the direct copy of an outcome could not be sent");
        }
    }

    /// Writes the dead letter. If that fails, the job is given back: `false`.
    async fn bury(&self, delivery: &Delivery, variant: &Variant, error: &WireError) -> bool {
        match dead_letter::write(&self.jetstream, delivery, variant, error).await {
            Ok(()) => {
                variant.metrics.dead_letter(error.code);
                true
            }
            Err(problem) => {
                tracing::error!(error = %problem, sequence = delivery.sequence, "a dead letter could not be written; the job stays in its stream");
                delivery.nak(dead_letter::RETRY_DELAY).await;
                false
            }
        }
    }
}

/// The first error of a job's texts.
fn first_error(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Failure(failure) => Some(failure.error.code),
        Outcome::Result(result) => result.items.iter().find_map(|item| Some(item.error.as_ref()?.code)),
    }
}

/// Whether trying again can help: the engine failed, not the text.
fn failed_in_engine(outcome: &Outcome) -> bool {
    let failed = |error: &Option<WireError>| error.as_ref().is_some_and(|e| e.code == ErrorCode::EngineFailed);
    matches!(outcome, Outcome::Result(result) if result.items.iter().any(|item| failed(&item.error)))
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
