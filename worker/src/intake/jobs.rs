//! Stored jobs: pulled from a durable consumer as there is room for them.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use async_nats::Message;
use embed_engine::pipeline::Request;
use embed_otlp::KeyValue;
use embed_schemas::{
    EmbedFailure, EmbedRequest, ErrorCode, Format, Lane, Outcome, WireError, headers, streams,
    wire::{DecodeError, decode_request, readable_id},
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Backoff, IntakeContext, estimate::Estimate, malformed};
use crate::{
    connection::Connection,
    jetstream::{
        Consumer, Pulled,
        api::{ApiError, ConsumerInfo},
        consumer_info,
    },
    job_event::JobEvent,
    lease::{Attempts, Lease},
    metrics::Demand,
    publish::{Ask, Finished, JobIdentity, Reply},
    replies::Refused,
    variant::{Deployment, Permit, Reservation, ServedVersion, Size},
};

/// Most messages that one pull request asks for.
const MOST_MESSAGES: usize = 512;
/// A consumer that is not there is looked for again after this, then after twice as long, and so on.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// So often it is looked whether what keeps jobs in their stream is over, if nobody says so before.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A job whose variant cannot be loaded is given back for this long.
const UNAVAILABLE_DELAY: Duration = Duration::from_secs(5);
/// For the end of an intake that has panicked.
const CLOSE_AFTER_PANIC: Duration = Duration::from_millis(500);
/// Tokens of a long text, as long as no model says how many it takes.
const LONG_TEXT: usize = 256;
/// Until the server has said how long it waits for an acknowledgement.
const LEAST_ACK_WAIT: Duration = Duration::from_secs(1);

/// Whether jobs are coming in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullStatus {
    /// Not tried yet.
    Starting,
    /// The consumer is there and being pulled from.
    Pulling,
    /// It is not: why, and what helps.
    Failed(String),
}

/// Takes in one lane of one variant.
#[derive(Debug)]
pub struct JobIntake {
    pub(super) deployment: Arc<Deployment>,
    pub(super) context: IntakeContext,
    pub(super) lane: Lane,
    status: Mutex<PullStatus>,
}

/// A job that has been read.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lease: Lease,
    pub(super) request: EmbedRequest,
    pub(super) format: Format,
    pub(super) permit: Permit,
}

impl JobIntake {
    /// An intake for one of [`Lane::STORED`].
    #[must_use]
    pub fn new(deployment: Arc<Deployment>, context: IntakeContext, lane: Lane) -> Arc<Self> {
        Arc::new(Self { deployment, context, lane, status: Mutex::new(PullStatus::Starting) })
    }

    /// Whether jobs are coming in.
    pub fn status(&self) -> PullStatus {
        if !self.context.connections.stored.is_up() {
            return PullStatus::Failed("the connection to NATS for stored jobs is down".to_owned());
        }
        self.status.lock().clone()
    }

    fn set_status(&self, status: PullStatus) {
        let mut current = self.status.lock();
        if *current != status {
            let (stream, consumer) = self.names();
            match &status {
                PullStatus::Failed(reason) => tracing::warn!(stream, consumer, reason, "no jobs are coming in"),
                _ => tracing::info!(stream, consumer, "taking jobs"),
            }
            *current = status;
        }
    }

    /// The lane.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// The stream and the consumer that it takes from.
    #[must_use]
    pub fn names(&self) -> (String, String) {
        let variant = &self.deployment.variant;
        (streams::jobs_stream(&variant.model), streams::consumer(&variant.name, self.lane))
    }

    /// Takes jobs until `stop` is cancelled; then what was on its way is given back.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let connection = self.context.connections.stored.clone();
        let (stream, name) = self.names();
        let mut pause = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let consumer = loop {
            match Consumer::open(connection.clone(), stream.clone(), name.clone()).await {
                Ok(consumer) => break consumer,
                Err(error) => self.set_status(PullStatus::Failed(error.to_string())),
            }
            tokio::select! {
                () = tokio::time::sleep(pause.grow()) => {}
                () = stop.cancelled() => return,
            }
        };
        let mut pulling = Pulling { consumer, ack_wait: None, estimate: self.largest(), reserved: None, pause };
        let pulled = AssertUnwindSafe(self.pull(&mut pulling, connection, &stop)).catch_unwind().await;
        let ack_wait = pulling.ack_wait.unwrap_or(LEAST_ACK_WAIT);
        drop(pulling.reserved);
        let give_back = async |message: Message| {
            if let Some(lease) = Lease::take(message, &self.context.keeper, ack_wait, (&stream, &name)) {
                lease.give_back(Duration::ZERO);
            }
        };
        let close = pulling.consumer.close(give_back);
        if let Err(panic) = pulled {
            // What is on its way is in nobody's hands yet; without a server, nothing is, and somebody waits to hear of this.
            let _ = timeout(CLOSE_AFTER_PANIC, close).await;
            resume_unwind(panic);
        }
        close.await;
    }

    /// Pulls until `stop` is cancelled.
    async fn pull(self: &Arc<Self>, pulling: &mut Pulling, connection: Connection, stop: &CancellationToken) {
        let mut connected = connection.connected;
        // Only what happens from here on makes a request stale.
        connected.mark_unchanged();
        loop {
            let (known, waits) = (pulling.ack_wait.is_some(), pulling.consumer.is_waiting());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pulled = pulling.consumer.next() => self.pulled(pulling, pulled),
                changed = connected.changed() => {
                    if changed.is_ok() {
                        // The server forgot the request with the connection; what it had sent may still come.
                        pulling.consumer.forget_request();
                        pulling.reserved = None;
                        pulling.pause.reset();
                    }
                }
                found = self.look_up(pulling.pause.next), if !known => self.found(pulling, found),
                room = self.room(pulling.estimate), if known && !waits => {
                    if let Err(error) = self.request(pulling, room).await {
                        self.set_status(PullStatus::Failed(format!("pulling: {error}")));
                        pulling.ack_wait = None;
                    }
                }
            }
        }
    }

    /// Asks for the consumer, after a pause that is longer the longer it has not been there.
    async fn look_up(&self, pause: Duration) -> Result<ConsumerInfo, ApiError> {
        if *self.status.lock() != PullStatus::Starting {
            tokio::time::sleep(pause).await;
        }
        let (stream, name) = self.names();
        consumer_info(&self.context.connections.stored, &stream, &name, &self.context.clock).await
    }

    fn found(&self, pulling: &mut Pulling, found: Result<ConsumerInfo, ApiError>) {
        match found {
            Ok(info) => {
                pulling.ack_wait = Some(Duration::from_nanos(info.config.ack_wait).max(LEAST_ACK_WAIT));
                pulling.pause.reset();
                self.set_status(PullStatus::Pulling);
            }
            Err(error) => {
                pulling.pause.grow();
                let (stream, name) = self.names();
                let reason = format!(
                    "consumer {name} of stream {stream}: {error}; if it has not been made yet, run `embed init`"
                );
                self.set_status(PullStatus::Failed(reason));
            }
        }
    }

    /// Waits until jobs may come in, and takes room for them.
    async fn room(&self, estimate: Estimate) -> Reservation {
        while let Some(pause) = self.deployment.pause() {
            // What cannot be worked on stays in the stream, for other workers.
            self.set_status(PullStatus::Failed(pause.reason().to_owned()));
            let _ = timeout(LOOK_AGAIN, self.deployment.changed()).await;
        }
        self.set_status(PullStatus::Pulling);
        let admission = &self.deployment.variant.admission;
        let least = (estimate.tokens, estimate.bytes);
        let (tokens, bytes) = admission.capacity(self.lane);
        let most = (self.most_messages().saturating_mul(estimate.tokens).min(tokens), bytes);
        admission.reserve(self.lane, least, most, self.context.publisher.max_payload()).await
    }

    /// Nothing is known of what comes: as large as a job can be.
    fn largest(&self) -> Estimate {
        let most_tokens = self.deployment.variant.admission.largest_cost(self.lane);
        Estimate::largest(most_tokens, self.context.publisher.max_payload())
    }

    /// Tokens of the longest text.
    fn longest_text(&self) -> usize {
        self.deployment.peek().map_or(LONG_TEXT, |version| version.metadata().max_seq_length as usize)
    }

    /// Without a version, the first job asks for one to be loaded, and waits for it; the others can wait in the stream.
    fn most_messages(&self) -> usize {
        if self.deployment.peek().is_some() { MOST_MESSAGES } else { 1 }
    }

    async fn request(&self, pulling: &mut Pulling, room: Reservation) -> Result<(), async_nats::PublishError> {
        let estimate = pulling.estimate;
        let messages = (room.tokens() / estimate.tokens.max(1)).clamp(1, self.most_messages());
        let max_bytes = match messages {
            // Whatever its size, it must come through.
            1 => self.context.publisher.max_payload() + 64 * 1024,
            _ => room.bytes().min(messages * estimate.bytes * 2),
        };
        pulling.reserved = Some(room);
        pulling.consumer.request(messages, max_bytes).await
    }

    fn pulled(self: &Arc<Self>, pulling: &mut Pulling, pulled: Pulled) {
        match pulled {
            Pulled::Message(message) => {
                pulling.pause.reset();
                self.take(pulling, message);
            }
            Pulled::Forged(message) => self.forged(message.reply.as_deref()),
            Pulled::Ended => {}
            Pulled::TooLarge => pulling.estimate = self.largest(),
            Pulled::Gone(reason) => {
                let (stream, name) = self.names();
                tracing::warn!(stream, consumer = name, reason, "the consumer is gone; looking for it");
                pulling.ack_wait = None;
            }
        }
        if !pulling.consumer.is_waiting() {
            pulling.reserved = None;
        }
    }

    /// A message came that no stream has delivered: it is not worked on, and nothing is said where it wants an acknowledgement.
    fn forged(&self, acknowledgement: Option<&str>) {
        let why = "it is no delivery of this consumer";
        self.context.publisher.replies().refuse(Refused::Delivery, acknowledgement.unwrap_or_default(), &why);
    }

    /// A message becomes a lease, and then a job.
    fn take(self: &Arc<Self>, pulling: &mut Pulling, message: Message) {
        let variant = &self.deployment.variant;
        let (bytes, ack_wait) = (message.length, pulling.ack_wait.unwrap_or(LEAST_ACK_WAIT));
        let malformed = malformed(&message);
        let reply = message.reply.clone();
        let Some(mut lease) = Lease::take(message, &self.context.keeper, ack_wait, pulling.consumer.names()) else {
            return self.forged(reply.as_deref());
        };
        self.record(&mut lease);
        tracing::trace!(lane = %self.lane, sequence = lease.delivery().sequence, "take a job");
        variant.metrics.received(self.lane);
        let (admission, lane) = (&variant.admission, self.lane);
        let mut permit_for = |size: &Size| {
            let reserved = pulling.reserved.as_mut().and_then(|reserved| reserved.split(size));
            reserved.or_else(|| admission.try_admit(lane, size)).or_else(|| admission.try_admit_ahead(lane, size))
        };
        let read = read(&lease, malformed);
        if lease.delivery().deliveries > 1 {
            let id = read.as_ref().ok().and_then(|(request, _)| request.id.as_ref());
            JobEvent::Redelivered.tell(&lease, variant, id);
        }
        match read {
            Ok((request, format)) => {
                let size = Size::of(&request, self.longest_text(), bytes);
                pulling.estimate.saw(admission.cost(lane, &size), bytes);
                match permit_for(&size) {
                    Some(permit) => self.begin(Job { lease, request, format, permit }),
                    // More came than was asked for, or larger ones: there is no room to hold them.
                    None => lease.give_back(Duration::ZERO),
                }
            }
            Err(refusal) => match permit_for(&Size { texts: 1, tokens: 1, bytes }) {
                Some(permit) => {
                    let identity = readable_identity(&lease);
                    self.refuse(lease, identity, refusal.error, refusal.format, 0, Some(permit));
                }
                None => lease.give_back(Duration::ZERO),
            },
        }
    }

    /// Begins to record what happens to a job, if it is to be.
    fn record(&self, lease: &mut Lease) {
        let header = lease.header(headers::TRACEPARENT);
        let Some(mut trace) = self.deployment.variant.trace(self.lane, header, lease.received()) else { return };
        let delivery = lease.delivery();
        trace.queued(self.context.clock.age(delivery.published));
        for (key, count) in [("embed.sequence", delivery.sequence), ("embed.deliveries", delivery.deliveries)] {
            trace.note(KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX)));
        }
        lease.record(Some(trace));
    }

    fn begin(self: &Arc<Self>, job: Job) {
        match self.deployment.live() {
            Some(version) if job.lease.delivery().deliveries == 1 => self.submit(job, version, None),
            _ => {
                let intake = Arc::clone(self);
                self.context.publisher.spawn(async move {
                    match intake.deployment.when_live().await {
                        Ok(version) if job.lease.delivery().deliveries == 1 => intake.submit(job, version, None),
                        Ok(version) => intake.run_again(job, version).await,
                        Err(error) => {
                            let (variant, id) = (&intake.deployment.variant, job.request.id.as_ref());
                            JobEvent::GoesBack { reason: &error.to_string() }.tell(&job.lease, variant, id);
                            let stopping = error.code == ErrorCode::ShuttingDown;
                            job.lease.give_back(if stopping { Duration::ZERO } else { UNAVAILABLE_DELAY });
                        }
                    }
                });
            }
        }
    }

    /// Into the pipeline. `again`: it was delivered before, so nothing else may run beside it.
    pub(super) fn submit(
        self: &Arc<Self>,
        job: Job,
        version: Arc<ServedVersion>,
        again: Option<(Attempts, OwnedSemaphorePermit)>,
    ) {
        let Job { lease, request, format, permit } = job;
        let identity = identity(&lease, &request);
        if let Err(error) = version.check(&request, format, self.context.publisher.max_payload()) {
            return self.refuse(lease, Some(identity), error, format, 0, Some(permit));
        }
        let (received, lane) = (lease.received(), self.lane);
        // As it was received: what it has waited here since is counted from then on.
        let age = self.context.clock.age(lease.delivery().published).saturating_sub(received.elapsed());
        let deadline = request.deadline_ms.map(Duration::from_millis);
        let left = deadline.map(|deadline| deadline.saturating_sub(age));
        let ask = Ask {
            id: identity.id.clone(),
            format,
            encoding: request.encoding_for(format),
            dimensions: request.dimensions.filter(|d| *d != version.metadata().dimension),
            received,
            demand: Demand { age, deadline },
        };
        // Not what may have killed its worker.
        let sample = if again.is_some() { None } else { self.deployment.variant.tap.sample(lane, &request) };
        let to_engine = Request {
            compared: false,
            probe: false,
            lane,
            sender: None,
            prompt: version.prompt(&request),
            texts: request.texts,
            truncate: request.truncate,
            received,
            deadline: left.and_then(|left| received.checked_add(left)),
            alone: again.is_some(),
            begun: Arc::clone(lease.begun()),
            trace: lease.span(),
        };
        let (before, one_at_a_time) = again.unzip();
        let reply = Reply::Stored { lease, identity, before: before.unwrap_or_default(), permit };
        let (finished, variant) = (self.context.publisher.finished().clone(), Arc::clone(&self.deployment.variant));
        let (token, used) = (self.context.publisher.token(), Arc::clone(&version));
        version.pipeline.submit(to_engine, move |embedded| {
            drop(one_at_a_time);
            // If nobody takes it, it is dropped, and so the job goes back.
            let _ = finished.send(Finished { ask, variant, version: used, lane, reply, embedded, sample, token });
        });
    }

    /// Ends a job that cannot be served. Where its id is known, the failure is stored as its outcome, so that whoever
    /// waits for it hears of it.
    pub(super) fn refuse(
        &self,
        lease: Lease,
        job: Option<JobIdentity>,
        error: WireError,
        format: Format,
        attempts: u64,
        permit: Option<Permit>,
    ) {
        let variant = Arc::clone(&self.deployment.variant);
        let demand = Demand { age: self.context.clock.age(lease.delivery().published), ..Demand::default() };
        variant.metrics.refused(self.lane, Duration::ZERO, demand, error.code);
        let publisher = self.context.publisher.clone();
        self.context.publisher.spawn(async move {
            match job {
                Some(job) => {
                    let outcome = Outcome::Failure(EmbedFailure { id: Some(job.id.clone()), error });
                    publisher.settle(lease, &variant, &job, &outcome, format, attempts).await;
                }
                None => publisher.reject(lease, &variant, error, format).await,
            }
            drop(permit);
        });
    }
}

/// What the outcome of a job is stored by: the id that it names, in its payload or beside it, or one that follows from where it is stored.
pub(super) fn identity(lease: &Lease, request: &EmbedRequest) -> JobIdentity {
    let id = request.id.clone().or_else(|| lease.id_in_headers());
    let id = id.unwrap_or_else(|| lease.delivery().job_id());
    JobIdentity { id, tenant: lease.tenant(), digest: Some(request.digest()) }
}

/// What the outcome of a job is stored by that cannot be read as a whole. `None`: nobody can wait for one.
pub(super) fn readable_identity(lease: &Lease) -> Option<JobIdentity> {
    let id = readable_id(lease.payload(), lease.header(headers::CONTENT_TYPE));
    id.or_else(|| lease.id_in_headers()).map(|id| JobIdentity { id, tenant: lease.tenant(), digest: None })
}

/// Reads a job, unless it is known to be none.
fn read(lease: &Lease, malformed: Option<WireError>) -> Result<(EmbedRequest, Format), DecodeError> {
    match malformed {
        Some(error) => Err(DecodeError { error, format: Format::sniff(lease.payload()).unwrap_or(Format::Json) }),
        None => decode_request(lease.payload(), lease.header(headers::CONTENT_TYPE)),
    }
}

/// What a pull loop knows.
#[derive(Debug)]
struct Pulling {
    consumer: Consumer,
    /// As the consumer has it. `None`: it has to be looked up, or is not there.
    ack_wait: Option<Duration>,
    estimate: Estimate,
    /// Room for what the request that waits may bring.
    reserved: Option<Reservation>,
    pause: Backoff,
}
