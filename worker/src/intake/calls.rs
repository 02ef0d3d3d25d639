//! Online calls: core request-reply.
//!
//! The endpoints are ordinary queue subscriptions, not the client library's service endpoints: those drop what is on its
//! way when they stop, and cannot answer an error with a body.

use std::{sync::Arc, time::Instant};

use async_nats::{Client, Message, Subject, SubscribeError, Subscriber, connection::State};
use embed_schemas::{
    EmbedFailure, ErrorCode, Format, Lane, Outcome, WireError, headers, subjects,
    wire::{DecodeError, decode_request},
};
use futures::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    publish::{Call, Publisher, Reply, header},
    serving::{Pipeline, Served, Variant},
    telemetry::EndpointStats,
};

/// Calls that may wait for a version to be loaded, per endpoint. Beyond it, calls are answered `overloaded`.
const MOST_WAITING: usize = 256;

/// One subject on which calls for a variant come in.
#[derive(Debug)]
pub struct Endpoint {
    subscriber: Subscriber,
    door: Arc<Door>,
    /// Counted for the micro service's statistics.
    pub stats: Arc<EndpointStats>,
}

/// What happens to a call.
#[derive(Debug)]
struct Door {
    served: Arc<Served>,
    publisher: Publisher,
    is_probe: bool,
    stats: Arc<EndpointStats>,
    /// Permits for calls that wait for a version to be loaded.
    waiting: Arc<Semaphore>,
}

/// Subscribes the endpoints that a variant always has: the subject pinned to it, and the worker's own probe.
///
/// # Errors
/// If a subscription fails.
pub async fn subscribe(
    client: &Client,
    worker: &str,
    served: &Arc<Served>,
    publisher: &Publisher,
) -> Result<Vec<Endpoint>, SubscribeError> {
    let Variant { model, name, .. } = &*served.variant;
    let pinned = (format!("{model}-{name}"), subjects::pinned(Lane::Rpc, model, name));
    let probe = (format!("{model}-{name}-probe"), subjects::probe(worker, model, name));
    Ok(vec![
        Endpoint::subscribe(client, pinned, subjects::RPC_QUEUE_GROUP, false, served, publisher).await?,
        // Only the worker itself is in a queue group of its own name.
        Endpoint::subscribe(client, probe, worker, true, served, publisher).await?,
    ])
}

/// Subscribes the endpoint of a model's default variant: the subject that names none.
///
/// # Errors
/// If the subscription fails.
pub async fn subscribe_bare(
    client: &Client,
    served: &Arc<Served>,
    publisher: &Publisher,
) -> Result<Endpoint, SubscribeError> {
    let model = &served.variant.model;
    let bare = (model.to_string(), subjects::bare(Lane::Rpc, model));
    Endpoint::subscribe(client, bare, subjects::RPC_QUEUE_GROUP, false, served, publisher).await
}

impl Endpoint {
    async fn subscribe(
        client: &Client,
        (name, subject): (String, String),
        queue_group: &str,
        is_probe: bool,
        served: &Arc<Served>,
        publisher: &Publisher,
    ) -> Result<Self, SubscribeError> {
        let subscriber = client.queue_subscribe(subject.clone(), queue_group.to_owned()).await?;
        let stats = Arc::new(EndpointStats::new(name, subject, queue_group.to_owned()));
        let door = Door {
            served: Arc::clone(served),
            publisher: publisher.clone(),
            is_probe,
            stats: Arc::clone(&stats),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
        };
        Ok(Self { subscriber, door: Arc::new(door), stats })
    }

    /// Takes calls until `stop` is cancelled and everything that the server had sent until then has been taken.
    pub async fn serve(mut self, stop: CancellationToken) {
        let mut draining = false;
        loop {
            let message = tokio::select! {
                message = self.subscriber.next() => message,
                () = stop.cancelled(), if !draining => {
                    draining = true;
                    // No more come after this; those on their way still do, and then the subscription ends. Without a
                    // server there is nobody to end it, and nothing is on its way but what has arrived.
                    let connected = self.door.publisher.online().connection_state() == State::Connected;
                    if !connected || self.subscriber.drain().await.is_err() {
                        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
                            self.door.take(message).await;
                        }
                        return;
                    }
                    continue;
                }
            };
            let Some(message) = message else { return };
            self.door.take(message).await;
        }
    }
}

impl Door {
    async fn take(self: &Arc<Self>, message: Message) {
        let received = Instant::now();
        // Without a reply subject nobody would hear the answer.
        let Some(reply) = message.reply.clone() else { return };
        if !self.is_probe {
            self.served.variant.metrics.received(Lane::Rpc);
        }
        match self.served.live() {
            Some(pipeline) => self.enter(&pipeline, &message, reply, received).await,
            None => self.wait_for_version(message, reply, received).await,
        }
    }

    /// Nothing is loaded: the call waits until something is, and those behind it are not held up by it.
    async fn wait_for_version(self: &Arc<Self>, message: Message, reply: Subject, received: Instant) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            let error = WireError::new(
                ErrorCode::Overloaded,
                "the variant is being loaded and too many calls wait for it; try again later",
            );
            return self.refuse(&message, reply, received, error, sniff(&message)).await;
        };
        let door = Arc::clone(self);
        tokio::spawn(async move {
            match door.served.pipeline().await {
                Ok(pipeline) => door.enter(&pipeline, &message, reply, received).await,
                Err(error) => door.refuse(&message, reply, received, error, sniff(&message)).await,
            }
            drop(permit);
        });
    }

    async fn enter(&self, pipeline: &Arc<Pipeline>, message: &Message, reply: Subject, received: Instant) {
        if let Err(refusal) = self.admit(pipeline, message, reply.clone(), received) {
            self.refuse(message, reply, received, refusal.error, refusal.format).await;
        }
    }

    async fn refuse(&self, message: &Message, reply: Subject, received: Instant, error: WireError, format: Format) {
        let variant = &self.served.variant;
        if !self.is_probe {
            variant.metrics.refused(Lane::Rpc, received.elapsed(), error.code);
        }
        let call = self.call(message, reply, received);
        let outcome = Outcome::Failure(EmbedFailure { id: None, error });
        self.publisher.answer(&call, variant, &outcome, format).await;
    }

    fn call(&self, message: &Message, reply: Subject, received: Instant) -> Call {
        let traceparent = header(message.headers.as_ref(), headers::TRACEPARENT).map(str::to_owned);
        Call { reply, traceparent, received, stats: Arc::clone(&self.stats), is_probe: self.is_probe }
    }

    /// Into the pipeline, or back with the reason.
    fn admit(
        &self,
        pipeline: &Arc<Pipeline>,
        message: &Message,
        reply: Subject,
        received: Instant,
    ) -> Result<(), DecodeError> {
        let variant = &self.served.variant;
        variant.has_time().map_err(|error| DecodeError { error, format: sniff(message) })?;
        let content_type = header(message.headers.as_ref(), headers::CONTENT_TYPE);
        let (request, format) = decode_request(&message.payload, content_type)?;
        let refuse = |error| DecodeError { error, format };
        pipeline.version.check(&request, format, self.publisher.max_payload()).map_err(refuse)?;
        let permit = variant.admit_call(request.texts.len()).map_err(refuse)?;
        let ask = pipeline.ask(&request, Lane::Rpc, format, received, received);
        pipeline.submit(ask, request, Reply::Call(self.call(message, reply, received)), permit);
        Ok(())
    }
}

/// The encoding of a message that has not been read.
fn sniff(message: &Message) -> Format {
    Format::sniff(&message.payload).unwrap_or(Format::Json)
}
