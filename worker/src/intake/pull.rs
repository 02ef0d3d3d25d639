//! Stored jobs: pulled from a durable consumer as there is room for their texts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{
    connection::State,
    jetstream::{
        self,
        consumer::{PullConsumer, pull},
    },
};
use embed_schemas::{
    EmbedFailure, ErrorCode, Format, JobId, Lane, Outcome, WireError, headers, streams, wire::decode_request,
};
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::in_progress::InProgress;
use crate::{
    publish::{Delivery, Publisher, Reply},
    serving::Served,
};

/// A pull request is renewed after this. It is short because the server forgets requests when a consumer's leader
/// changes, without telling: nothing would arrive until the renewal.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// Most messages that one pull request asks for.
const MOST_MESSAGES: usize = 512;
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// A job whose variant cannot be loaded is given back for this long.
const UNAVAILABLE_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

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

/// Pulls one lane of one variant.
#[derive(Debug)]
pub struct Puller {
    served: Arc<Served>,
    publisher: Publisher,
    lane: Lane,
    in_progress: InProgress,
    status: Mutex<PullStatus>,
}

impl Puller {
    /// A puller for one of [`Lane::STORED`].
    pub fn new(served: Arc<Served>, publisher: Publisher, lane: Lane) -> Arc<Self> {
        Arc::new(Self {
            served,
            publisher,
            lane,
            in_progress: InProgress::default(),
            status: Mutex::new(PullStatus::Starting),
        })
    }

    /// Whether jobs are coming in.
    pub fn status(&self) -> PullStatus {
        if self.publisher.stored().connection_state() != State::Connected {
            return PullStatus::Failed("the connection to NATS for stored jobs is down".to_owned());
        }
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_status(&self, status: PullStatus) {
        let mut current = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != status {
            let (stream, consumer) = self.names();
            match &status {
                PullStatus::Failed(reason) => tracing::warn!(stream, consumer, reason, "no jobs are coming in"),
                _ => tracing::info!(stream, consumer, "taking jobs"),
            }
            *current = status;
        }
    }

    fn names(&self) -> (String, String) {
        let variant = &self.served.variant;
        (streams::jobs_stream(&variant.model), streams::consumer(&variant.name, self.lane))
    }

    /// Pulls until `stop` is cancelled. `connected` counts the connections: after a new one, pull requests made on the old
    /// one are lost.
    pub async fn run(&self, stop: CancellationToken, mut connected: watch::Receiver<u64>) {
        let mut delay = FIRST_DELAY;
        while !stop.is_cancelled() {
            let error = match self.consumer().await {
                Ok(consumer) => {
                    self.set_status(PullStatus::Pulling);
                    let ack_wait = consumer.cached_info().config.ack_wait;
                    tokio::select! {
                        error = self.pull(&consumer, &stop, &mut connected, &mut delay) => error,
                        () = self.in_progress.report(ack_wait) => unreachable!("it reports for ever"),
                    }
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.set_status(PullStatus::Failed(error));
                tokio::select! {
                    () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                    _ = connected.changed() => delay = FIRST_DELAY,
                    () = stop.cancelled() => {}
                }
            }
        }
        // While the worker finishes what it has, the server must still hear of it.
    }

    /// Keeps the server informed about what is still in the worker, for ever. For the time after [`Puller::run`].
    pub async fn report(&self) {
        self.in_progress.report(Duration::from_secs(1)).await;
    }

    /// Gives back what is still in the worker, and says how many jobs that were.
    pub async fn give_back(&self) -> usize {
        self.in_progress.give_back().await
    }

    async fn consumer(&self) -> Result<PullConsumer, String> {
        let (stream, name) = self.names();
        self.publisher.jetstream().get_consumer_from_stream::<pull::Config, _, _>(&name, &stream).await.map_err(|e| {
            format!("consumer {name} of stream {stream}: {e}; if it has not been made yet, run `embed init`")
        })
    }

    /// Pulls until stopped (`None`), or until something goes wrong that may need a fresh look at the consumer.
    async fn pull(
        &self,
        consumer: &PullConsumer,
        stop: &CancellationToken,
        connected: &mut watch::Receiver<u64>,
        delay: &mut Duration,
    ) -> Option<String> {
        // How many messages there is room for depends on the texts in one. Until that is known, assume a backfill chunk.
        let mut texts_per_message = 64.0f64;
        loop {
            let room = self.wait_for_room(stop).await?;
            let messages = ((room as f64 / texts_per_message).ceil() as usize).clamp(1, MOST_MESSAGES);
            // Only what happens from here on makes the request stale. What had happened before would drop it as soon as it is
            // made, with jobs that are already on their way to it and would wait for `ack_wait`.
            connected.mark_unchanged();
            let mut batch = match consumer.batch().max_messages(messages).expires(PULL_EXPIRES).messages().await {
                Ok(batch) => batch,
                Err(error) => return Some(format!("pulling: {error}")),
            };
            loop {
                let next = tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        Self::hand_back(&mut batch).await;
                        return None;
                    }
                    next = batch.next() => next,
                    _ = connected.changed() => break,
                };
                match next {
                    Some(Ok(message)) => {
                        *delay = FIRST_DELAY;
                        let texts = self.take(message, stop).await;
                        texts_per_message = texts_per_message * 0.9 + texts as f64 * 0.1;
                    }
                    Some(Err(error)) => return Some(format!("pulling: {error}")),
                    None => break,
                }
            }
            // After a reconnect, what has already arrived is as good as before.
            while let Some(Some(Ok(message))) = batch.next().now_or_never() {
                self.take(message, stop).await;
            }
        }
    }

    /// Waits until texts may come in, and says how many. `None` if the worker stops.
    async fn wait_for_room(&self, stop: &CancellationToken) -> Option<usize> {
        let admission = self.served.variant.admission(self.lane);
        tokio::select! {
            () = stop.cancelled() => return None,
            // What cannot be worked on stays in the stream, for other workers.
            () = self.served.loadable() => {}
        }
        tokio::select! {
            () = stop.cancelled() => None,
            permit = admission.acquire() => {
                drop(permit.ok()?);
                Some(admission.available_permits().max(1))
            }
        }
    }

    /// Messages that were pulled and not begun go back, or they would wait for `ack_wait`.
    async fn hand_back(batch: &mut pull::Batch) {
        while let Some(Some(Ok(message))) = batch.next().now_or_never() {
            if let Some(delivery) = Delivery::new(message) {
                delivery.nak(Duration::ZERO).await;
            }
        }
    }

    /// Turns a message into a job, as soon as there is room for its texts. Says how many texts it had.
    async fn take(&self, message: jetstream::Message, stop: &CancellationToken) -> usize {
        let received = Instant::now();
        let Some(delivery) = Delivery::new(message) else { return 0 };
        let variant = &self.served.variant;
        variant.metrics.received(self.lane);
        if delivery.deliveries > 1 {
            variant.metrics.redelivered(self.lane);
        }
        let decoded = decode_request(&delivery.message.payload, delivery.header(headers::CONTENT_TYPE));
        let (request, format) = match decoded {
            Ok(decoded) => decoded,
            Err(refusal) => {
                self.refuse(&delivery, None, refusal.error, refusal.format).await;
                return 0;
            }
        };
        if delivery.deliveries > variant.max_deliveries {
            let error = WireError::new(
                ErrorCode::TooManyDeliveries,
                format!(
                    "delivered {} times without an answer, at most {} are tried",
                    delivery.deliveries, variant.max_deliveries
                ),
            );
            self.refuse(&delivery, request.id, error, format).await;
            return 0;
        }
        let pipeline = tokio::select! {
            pipeline = self.served.pipeline() => pipeline,
            () = stop.cancelled() => {
                delivery.nak(Duration::ZERO).await;
                return request.texts.len();
            }
        };
        let pipeline = match pipeline {
            Ok(pipeline) => pipeline,
            Err(error) => {
                tracing::warn!(%error, sequence = delivery.sequence, "a job goes back");
                delivery.nak(UNAVAILABLE_DELAY).await;
                return request.texts.len();
            }
        };
        if let Err(error) = pipeline.version.check(&request, format, self.publisher.max_payload()) {
            self.refuse(&delivery, request.id, error, format).await;
            return 0;
        }
        let texts = request.texts.len();
        let permit = tokio::select! {
            permit = Arc::clone(variant.admission(self.lane)).acquire_many_owned(u32::try_from(texts).unwrap_or(u32::MAX)) => permit,
            () = stop.cancelled() => {
                delivery.nak(Duration::ZERO).await;
                return texts;
            }
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return texts };
        let published = received.checked_sub(delivery.age).unwrap_or(received);
        let mut ask = pipeline.ask(&request, self.lane, format, received, published);
        if let (None, Some(id)) = (&request.id, id_in_headers(&delivery)) {
            ask.id = id;
        }
        let job = pipeline.submit(ask, request, Reply::Stored(Box::new(delivery)), permit);
        self.in_progress.add(Arc::downgrade(&job));
        texts
    }

    /// Ends a job that cannot be served. Where its id is known, the failure is stored as its outcome, so that whoever
    /// waits for it hears of it.
    async fn refuse(&self, delivery: &Delivery, id: Option<JobId>, error: WireError, format: Format) {
        let variant = &self.served.variant;
        variant.metrics.refused(self.lane, Duration::ZERO, error.code);
        match id.or_else(|| id_in_headers(delivery)) {
            Some(id) => {
                let outcome = Outcome::Failure(EmbedFailure { id: Some(id.clone()), error });
                self.publisher.settle(delivery, variant, &id, &outcome, format).await;
            }
            None => self.publisher.reject(delivery, variant, error, format).await,
        }
    }
}

/// Producers name the job in `Nats-Msg-Id` as well, which can be read even where the payload cannot.
fn id_in_headers(delivery: &Delivery) -> Option<JobId> {
    delivery.header(headers::MSG_ID)?.parse().ok()
}
