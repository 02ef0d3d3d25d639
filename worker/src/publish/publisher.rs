//! Takes what pipelines have finished, encodes the outcomes, and sends each where it belongs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Client;
use embed_engine::pipeline::Embedded;
use embed_otlp::KeyValue;
use embed_schemas::{ErrorCode, Lane, Outcome};
use tokio::sync::mpsc;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    Ask, Call, Caller, StoreTrouble,
    call::{Refusal, Refusals},
    encoded::Encoded,
    job_identity::JobIdentity,
    outcome::{failed_in_engine, outcome},
    shadow::Shadows,
    stored::Storage,
};
use crate::{
    connection::Connections,
    jetstream::StoreClient,
    job_event::JobEvent,
    lease::{AttemptStore, Attempts, Lease},
    replies::Replies,
    spans::Trace,
    supervise::{Supervisor, Task},
    variant::{Permit, Sample, ServedVersion, Variant},
};

/// A failed job is given back this long after its first attempt, twice as long after its second, and so on.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Refusals leave together, so far apart: those who hear of it a moment later lose nothing, and those who are served gain the time that
/// each message on its own would take, here and in the server.
const REFUSE_AGAIN: Duration = Duration::from_millis(2);
/// Refusals that leave together at most.
const MOST_REFUSALS: usize = 256;
/// A job that no engine can take now is given back for so long.
const UNAVAILABLE_DELAY: Duration = Duration::from_secs(1);

/// Where an answer goes.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one for each job in the worker, moved a few times")]
pub enum Reply {
    /// To the caller.
    Call(Call),
    /// Into the results stream; the job's message is acknowledged afterwards.
    Stored {
        /// The message.
        lease: Lease,
        /// What its outcome is stored by.
        identity: JobIdentity,
        /// What was known of attempts at it before this one.
        before: Attempts,
        /// Its share of the room; given back when the lease ends.
        permit: Permit,
    },
}

impl Reply {
    /// What is recorded of it, if anything is.
    fn trace(&mut self) -> Option<&mut Trace> {
        match self {
            Self::Call(call) => call.trace_mut(),
            Self::Stored { lease, .. } => lease.trace(),
        }
    }
}

/// A request whose texts are done.
#[derive(Debug)]
pub struct Finished {
    /// What was asked.
    pub ask: Ask,
    /// The variant.
    pub variant: Arc<Variant>,
    /// The version that served it: the one that was live when it came.
    pub version: Arc<ServedVersion>,
    /// How it came.
    pub lane: Lane,
    /// Where the answer goes.
    pub reply: Reply,
    /// What became of its texts.
    pub embedded: Embedded,
    /// What a shadow is to have of it.
    pub sample: Option<Box<Sample>>,
    /// Until its outcome is out, publishing is not [`Publisher::idle`].
    pub token: TaskTrackerToken,
}

/// Publishes outcomes. Clones are the same.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// For answers to calls.
    online: Client,
    /// For stored outcomes.
    pub(super) stored: Client,
    /// This worker's id, for dead letters.
    pub(super) worker: Arc<str>,
    pub(super) storage: Storage,
    replies: Replies,
    attempts: AttemptStore,
    finished: mpsc::UnboundedSender<Finished>,
    refusals: Refusals,
    shadows: Shadows,
    supervisor: Supervisor,
    tasks: TaskTracker,
    /// Requests so far.
    taken: Arc<AtomicU64>,
}

/// What a publisher keeps to.
#[derive(Debug, Clone)]
pub struct PublishRules {
    /// Where answers and copies may go.
    pub replies: Replies,
    /// Bytes that leave for shadows in a second, at most.
    pub shadow_bytes: u64,
}

/// What runs for a publisher.
#[derive(Debug)]
pub struct Publishing {
    _finished: Task,
    _refusals: Task,
    _shadows: Task,
}

impl Publisher {
    /// Starts a publisher on these connections. What cannot be stored when `give_up` is cancelled is given back; until then, `trouble`
    /// hears of it.
    #[must_use]
    pub fn start(
        connections: &Connections,
        worker: &str,
        store: StoreClient,
        give_up: CancellationToken,
        trouble: StoreTrouble,
        PublishRules { replies, shadow_bytes }: PublishRules,
        supervisor: &Supervisor,
    ) -> (Self, Publishing) {
        let (finished, mut to_publish) = mpsc::unbounded_channel();
        let (sender, mut to_refuse) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        // Behind results, not before answers.
        let (shadows, sending) = Shadows::start(connections.stored.client.clone(), shadow_bytes, supervisor);
        let publisher = Self {
            online: connections.online.client.clone(),
            stored: connections.stored.client.clone(),
            worker: worker.into(),
            replies,
            attempts: AttemptStore::new(store.clone()),
            storage: Storage::new(store, give_up, trouble),
            finished,
            refusals: Refusals { sender, tasks: tasks.clone() },
            shadows,
            supervisor: supervisor.clone(),
            tasks,
            taken: Arc::default(),
        };
        let one = publisher.clone();
        let publish = async move {
            while let Some(finished) = to_publish.recv().await {
                let publisher = one.clone();
                // The number of tasks is bounded by what the worker admits.
                one.spawn(async move { publisher.publish(finished).await });
            }
        };
        let other = publisher.clone();
        let refuse = async move {
            let mut refusals = Vec::new();
            while to_refuse.recv_many(&mut refusals, MOST_REFUSALS).await > 0 {
                for Refusal { caller, outcome, _token } in refusals.drain(..) {
                    other.answer(caller, &outcome).await;
                }
                tokio::time::sleep(REFUSE_AGAIN).await;
            }
        };
        let publishing = Publishing {
            _finished: supervisor.spawn("the publisher", publish),
            _refusals: supervisor.spawn("the publisher of refusals", refuse),
            _shadows: sending,
        };
        (publisher, publishing)
    }

    /// Where pipelines put what they have finished.
    #[must_use]
    pub const fn finished(&self) -> &mpsc::UnboundedSender<Finished> {
        &self.finished
    }

    /// Where answers and copies may go.
    #[must_use]
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// What is known of attempts at messages.
    #[must_use]
    pub const fn attempts(&self) -> &AttemptStore {
        &self.attempts
    }

    /// The server's limit for one message, bytes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.online.max_payload()
    }

    /// A caller is owed an answer.
    #[must_use]
    pub fn call(&self, caller: Caller) -> Call {
        Call::new(caller, self.refusals.clone())
    }

    /// Keeps publishing from being [`Publisher::idle`].
    pub fn token(&self) -> TaskTrackerToken {
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.tasks.token()
    }

    /// How many requests were taken so far.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether there is anything in the worker that somebody waits for.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Runs a task that ends what came in, beside others.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.spawn("publishing", self.tasks.track_future(task)).detach();
    }

    /// Waits until the outcomes of everything that came in are out.
    pub async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn publish(&self, finished: Finished) {
        let Finished { ask, variant, version, lane, mut reply, mut embedded, sample, token } = finished;
        tracing::trace!(?lane, id = %ask.id, "publish");
        let computed = Instant::now();
        let tapped = sample.and_then(|sample| sample.served(&ask.id, &variant, &version, &embedded));
        if let (Some(trace), Some(stages)) = (reply.trace(), embedded.stages.take()) {
            trace.computed(&stages);
            trace.note(KeyValue::new("messaging.message.id", ask.id.to_string()));
            trace.note(KeyValue::new("embed.version", version.metadata().version.clone()));
            trace.note(KeyValue::new("embed.texts", i64::try_from(embedded.texts.len()).unwrap_or(i64::MAX)));
        }
        let outcome = outcome(&ask, &variant, &version, embedded);
        let error = match reply {
            Reply::Call(call) => {
                let Some(caller) = call.take() else { return };
                let is_probe = caller.is_probe;
                let error = self.answer(caller, &outcome).await;
                if is_probe {
                    return;
                }
                error
            }
            Reply::Stored { mut lease, identity, before, permit } => {
                if unavailable(&outcome) {
                    // It is no attempt, and no outcome: another worker may have an engine that runs.
                    lease.give_back(UNAVAILABLE_DELAY);
                    return;
                }
                let attempts = if failed_in_engine(&outcome) { before.fail(false) } else { before };
                if attempts != before && attempts.count() < variant.max_attempts {
                    let event = JobEvent::TriedInVain {
                        attempts: attempts.count(),
                        delay: retry_delay(attempts),
                        took: ask.received.elapsed(),
                        demand: ask.demand,
                    };
                    event.tell(&lease, &variant, Some(&ask.id));
                    if let Some(trace) = lease.trace() {
                        trace.failed(
                            ErrorCode::EngineFailed.as_str(),
                            "the engine failed; the job goes back, to be tried again",
                        );
                    }
                    self.retry(lease, &variant, attempts).await;
                    return;
                }
                let error = self.settle(lease, &variant, &identity, &outcome, ask.format, attempts.count()).await;
                drop(permit);
                error
            }
        };
        let error = error.or_else(|| first_error(&outcome));
        variant.metrics.finished(lane, ask.received.elapsed(), ask.demand, &outcome, computed.elapsed(), error);
        drop(token);
        if let Some(tapped) = tapped {
            self.shadows.offer(tapped);
        }
    }

    /// Gives a job back on which the engine failed.
    async fn retry(&self, lease: Lease, variant: &Variant, attempts: Attempts) {
        if let Err(error) = self.attempts.write(&variant.model, lease.delivery(), attempts).await {
            tracing::warn!(%error, "an attempt could not be written down, and does not count");
        }
        lease.retry_after(retry_delay(attempts));
    }

    /// Answers a call. Gives back the error that it answered with.
    async fn answer(&self, caller: Caller, outcome: &Outcome) -> Option<ErrorCode> {
        let Caller { reply, traceparent, trace, format, received, variant, stats, .. } = caller;
        let context = trace.as_ref().map(|trace| trace.header()).or(traceparent.as_deref());
        let began = trace.as_ref().map(|_| Instant::now());
        let encoded = Encoded::new(outcome, format, context, self.max_payload());
        let error = encoded.error.as_ref();
        if let (Some(error), Outcome::Result(_)) = (error, outcome) {
            variant.metrics.error(Lane::Rpc, error.code);
        }
        stats.answered(received.elapsed(), error);
        let code = error.map(|error| error.code);
        if let Err(error) = self.online.publish_with_headers(reply, encoded.headers, encoded.payload).await {
            tracing::debug!(%error, "an answer could not be sent");
        }
        if let (Some(mut trace), Some(began)) = (trace, began) {
            if let Some(error) = &encoded.error {
                trace.failed(error.code.as_str(), &error.message);
            }
            trace.part("answer", began, Instant::now());
        }
        code
    }
}

/// For how long a job on which the engine failed is given back.
fn retry_delay(attempts: Attempts) -> Duration {
    RETRY_DELAY * u32::try_from(attempts.count()).unwrap_or(u32::MAX)
}

/// The first error of a job's texts.
fn first_error(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Failure(failure) => Some(failure.error.code),
        Outcome::Result(result) => result.items.iter().find_map(|item| Some(item.error.as_ref()?.code)),
    }
}

/// Whether it is the worker that cannot embed anything now.
fn unavailable(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failure(failure) if failure.error.code == ErrorCode::ModelUnavailable)
}
