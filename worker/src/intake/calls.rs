//! Online calls: core request-reply.
//!
//! The endpoints are ordinary queue subscriptions, not the client library's service endpoints: those drop what is on its
//! way when they stop, and cannot answer an error with a body.

use std::{sync::Arc, time::Instant};

use async_nats::{Client, Message, Subject, SubscribeError, Subscriber, connection::State};
use embed_schemas::{
    EmbedFailure, Format, Lane, Outcome, headers, subjects,
    wire::{DecodeError, decode_request},
};
use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::{
    pipeline::Pipeline,
    publish::{Call, Publisher, Reply, header},
    telemetry::EndpointStats,
    variant::Variant,
};

/// One subject on which calls for a variant come in.
#[derive(Debug)]
pub struct Endpoint {
    subscriber: Subscriber,
    pipeline: Arc<Pipeline>,
    publisher: Publisher,
    is_probe: bool,
    /// Counted for the micro service's statistics.
    pub stats: Arc<EndpointStats>,
}

/// Subscribes one variant's endpoints.
///
/// Three ways lead in: the subject pinned to the variant, the bare subject if this is the model's default, and the
/// worker's own probe.
///
/// # Errors
/// If a subscription fails.
pub async fn subscribe(
    client: &Client,
    worker: &str,
    pipeline: &Arc<Pipeline>,
    publisher: &Publisher,
) -> Result<Vec<Endpoint>, SubscribeError> {
    let Variant { model, name, is_default, .. } = &*pipeline.variant;
    let mut ways = vec![
        (format!("{model}-{name}"), subjects::pinned(Lane::Rpc, model, name), subjects::RPC_QUEUE_GROUP),
        (format!("{model}-{name}-probe"), subjects::probe(worker, model, name), worker),
    ];
    if *is_default {
        ways.push((model.to_string(), subjects::bare(Lane::Rpc, model), subjects::RPC_QUEUE_GROUP));
    }
    let mut endpoints = Vec::new();
    for (endpoint, subject, queue_group) in ways {
        let subscriber = client.queue_subscribe(subject.clone(), queue_group.to_owned()).await?;
        let stats = Arc::new(EndpointStats::new(endpoint, subject, queue_group.to_owned()));
        let (pipeline, publisher) = (Arc::clone(pipeline), publisher.clone());
        // Only the worker itself is in a queue group of its own name.
        endpoints.push(Endpoint { subscriber, pipeline, publisher, is_probe: queue_group == worker, stats });
    }
    Ok(endpoints)
}

impl Endpoint {
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
                    let connected = self.publisher.client().connection_state() == State::Connected;
                    if !connected || self.subscriber.drain().await.is_err() {
                        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
                            self.take(message).await;
                        }
                        return;
                    }
                    continue;
                }
            };
            let Some(message) = message else { return };
            self.take(message).await;
        }
    }

    async fn take(&self, message: Message) {
        let received = Instant::now();
        let variant = &self.pipeline.variant;
        // Without a reply subject nobody would hear the answer.
        let Some(reply) = message.reply.clone() else { return };
        if !self.is_probe {
            variant.metrics.received(Lane::Rpc);
        }
        if let Err(refusal) = self.admit(&message, reply.clone(), received) {
            variant.metrics.error(Lane::Rpc, refusal.error.code);
            let call = self.call(&message, reply, received);
            let outcome = Outcome::Failure(EmbedFailure { id: None, error: refusal.error });
            self.publisher.answer(&call, variant, &outcome, refusal.format).await;
        }
    }

    fn call(&self, message: &Message, reply: Subject, received: Instant) -> Call {
        let traceparent = header(message.headers.as_ref(), headers::TRACEPARENT).map(str::to_owned);
        Call { reply, traceparent, received, stats: Arc::clone(&self.stats), is_probe: self.is_probe }
    }

    /// Into the pipeline, or back with the reason.
    fn admit(&self, message: &Message, reply: Subject, received: Instant) -> Result<(), DecodeError> {
        let variant = &self.pipeline.variant;
        variant
            .has_time()
            .map_err(|error| DecodeError { error, format: Format::sniff(&message.payload).unwrap_or(Format::Json) })?;
        let content_type = header(message.headers.as_ref(), headers::CONTENT_TYPE);
        let (request, format) = decode_request(&message.payload, content_type)?;
        let refuse = |error| DecodeError { error, format };
        variant.check(&request, format, self.publisher.max_payload()).map_err(refuse)?;
        let permit = variant.admit_call(request.texts.len()).map_err(refuse)?;
        let ask = self.pipeline.ask(&request, Lane::Rpc, format, received, received);
        self.pipeline.submit(ask, request, Reply::Call(self.call(message, reply, received)), permit);
        Ok(())
    }
}
