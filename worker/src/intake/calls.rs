//! Online calls: core request-reply.
//!
//! The endpoints are ordinary queue subscriptions, not the client library's service endpoints: those drop what is on its
//! way when they stop, and cannot answer an error with a body.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Subject, SubscribeError, Subscriber};
use embed_engine::pipeline::Request;
use embed_schemas::{ErrorCode, Format, Lane, WireError, headers, subjects, trace::traceparent, wire::decode_request};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{IntakeContext, malformed, sender::sender};
use crate::{
    connection::end_subscription,
    metrics::{Demand, EndpointStats},
    publish::{Ask, Call, Caller, Finished, Reply},
    replies::Refused,
    variant::{Deployment, Permit, Sender, ServedVersion, Size, Variant},
};

/// Calls that may wait for a version to be loaded, per endpoint. Beyond it, calls are answered `overloaded`.
const MOST_WAITING: usize = 256;

/// One subject on which calls for a variant come in.
#[derive(Debug)]
pub struct Endpoint {
    subscriber: Subscriber,
    calls: Arc<CallIntake>,
    /// Counted for the micro service's statistics.
    pub stats: Arc<EndpointStats>,
}

/// What happens to a call.
#[derive(Debug)]
struct CallIntake {
    deployment: Arc<Deployment>,
    context: IntakeContext,
    is_probe: bool,
    stats: Arc<EndpointStats>,
    /// Permits for calls that wait for a version to be loaded.
    waiting: Arc<Semaphore>,
}

/// Subscribes the endpoint of a variant: the subject pinned to it.
///
/// # Errors
/// If the subscription fails.
pub async fn subscribe_pinned(
    deployment: &Arc<Deployment>,
    context: &IntakeContext,
) -> Result<Endpoint, SubscribeError> {
    let Variant { model, name, .. } = &*deployment.variant;
    let pinned = (format!("{model}-{name}"), subjects::pinned(Lane::Rpc, model, name));
    Endpoint::subscribe(pinned, subjects::RPC_QUEUE_GROUP, false, deployment, context).await
}

/// Subscribes the endpoint of the worker's own probe.
///
/// # Errors
/// If the subscription fails.
pub async fn subscribe_probe(
    deployment: &Arc<Deployment>,
    context: &IntakeContext,
) -> Result<Endpoint, SubscribeError> {
    let Variant { model, name, .. } = &*deployment.variant;
    let probe = (format!("{model}-{name}-probe"), subjects::probe(&context.worker, model, name));
    // Only the worker itself is in a queue group of its own name.
    Endpoint::subscribe(probe, &context.worker, true, deployment, context).await
}

/// Subscribes the endpoint of a model's default variant: the subject that names none.
///
/// # Errors
/// If the subscription fails.
pub async fn subscribe_bare(deployment: &Arc<Deployment>, context: &IntakeContext) -> Result<Endpoint, SubscribeError> {
    let model = &deployment.variant.model;
    let bare = (model.to_string(), subjects::bare(Lane::Rpc, model));
    Endpoint::subscribe(bare, subjects::RPC_QUEUE_GROUP, false, deployment, context).await
}

impl Endpoint {
    async fn subscribe(
        (name, subject): (String, String),
        queue_group: &str,
        is_probe: bool,
        deployment: &Arc<Deployment>,
        context: &IntakeContext,
    ) -> Result<Self, SubscribeError> {
        let client = &context.connections.online.client;
        let subscriber = client.queue_subscribe(subject.clone(), queue_group.to_owned()).await?;
        let stats = Arc::new(EndpointStats::new(name, subject, queue_group.to_owned()));
        let calls = CallIntake {
            deployment: Arc::clone(deployment),
            context: context.clone(),
            is_probe,
            stats: Arc::clone(&stats),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
        };
        Ok(Self { subscriber, calls: Arc::new(calls), stats })
    }

    /// Takes calls until `stop` is cancelled and everything that the server had sent until it heard of that has been taken.
    pub async fn serve(self, stop: CancellationToken) {
        let Self { mut subscriber, calls, .. } = self;
        loop {
            let message = tokio::select! {
                message = subscriber.next() => message,
                () = stop.cancelled() => break,
            };
            let Some(message) = message else { return };
            calls.take(message);
        }
        let take = async |message| calls.take(message);
        if let Err(error) = end_subscription(&calls.context.connections.online, subscriber, take).await {
            tracing::warn!(%error, "a subscription could not be ended in good order");
        }
    }
}

impl CallIntake {
    fn take(self: &Arc<Self>, message: Message) {
        let received = Instant::now();
        // Without a reply subject nobody would hear the answer.
        let Some(reply) = message.reply.clone() else { return };
        if self.context.publisher.replies().allow(Refused::Call, &reply).is_err() {
            return;
        }
        if !self.is_probe {
            self.deployment.variant.metrics.received(Lane::Rpc);
        }
        let call = self.call(&message, reply, received);
        match self.deployment.live() {
            Some(version) => self.enter(&version, &message, call, received),
            None => self.wait_for_version(message, call, received),
        }
    }

    /// Nothing is loaded: the call waits until something is, and those behind it are not held up by it.
    fn wait_for_version(self: &Arc<Self>, message: Message, call: Call, received: Instant) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return call.refuse(WireError::new(
                ErrorCode::Overloaded,
                "the variant is being loaded and too many calls wait for it; try again later",
            ));
        };
        let calls = Arc::clone(self);
        self.context.publisher.spawn(async move {
            match calls.deployment.when_live().await {
                Ok(version) => calls.enter(&version, &message, call, received),
                Err(error) => call.refuse(error),
            }
            drop(permit);
        });
    }

    fn call(&self, message: &Message, reply: Subject, received: Instant) -> Call {
        let context = header(message, headers::TRACEPARENT);
        let variant = &self.deployment.variant;
        self.context.publisher.call(Caller {
            reply,
            traceparent: context.and_then(traceparent),
            trace: if self.is_probe { None } else { variant.trace(Lane::Rpc, context, received) },
            // Until it has been read.
            format: Format::sniff(&message.payload).unwrap_or(Format::Json),
            received,
            demand: Demand::default(),
            variant: Arc::clone(variant),
            stats: Arc::clone(&self.stats),
            is_probe: self.is_probe,
        })
    }

    /// Into the pipeline, or back with the reason.
    fn enter(&self, version: &Arc<ServedVersion>, message: &Message, call: Call, received: Instant) {
        let admission = &self.deployment.variant.admission;
        let sender = self.sender(message);
        if !self.is_probe
            && let Err(error) = admission.has_room_for(sender)
        {
            return call.refuse(error);
        }
        if let Some(error) = malformed(message) {
            return call.refuse(error);
        }
        let (request, format) = match decode_request(&message.payload, header(message, headers::CONTENT_TYPE)) {
            Ok(decoded) => decoded,
            Err(refusal) => return call.set_format(refusal.format).refuse(refusal.error),
        };
        let call = call.set_format(format);
        if let Err(error) = version.check(&request, format, self.context.publisher.max_payload()) {
            return call.refuse(error);
        }
        let deadline = request.deadline_ms.map(Duration::from_millis);
        let demand = Demand { deadline, ..Demand::default() };
        let call = call.set_demand(demand);
        // The worker's own call is to tell whether it works, not whether it has much to do.
        let permit = match self.is_probe {
            true => None,
            false => {
                let size = Size::of(&request, version.metadata().max_seq_length as usize, message.length);
                let admitted = admission.check_call(&size).and_then(|()| admission.admit_call(sender, size, deadline));
                match admitted {
                    Ok(permit) => Some(permit),
                    Err(error) => return call.refuse(error),
                }
            }
        };
        let ask = Ask {
            id: request.id.clone().unwrap_or_else(|| self.context.call_id()),
            format,
            encoding: request.encoding_for(format),
            dimensions: request.dimensions.filter(|d| *d != version.metadata().dimension),
            received,
            demand,
        };
        let sample = if self.is_probe { None } else { self.deployment.variant.tap.sample(Lane::Rpc, &request) };
        let to_engine = Request {
            compared: sample.is_some(),
            probe: self.is_probe,
            sender: permit.as_ref().and_then(Permit::sender),
            prompt: version.prompt(&request),
            truncate: request.truncate,
            received,
            deadline: deadline.and_then(|deadline| received.checked_add(deadline)),
            trace: call.trace(),
            ..Request::new(request.texts)
        };
        let (finished, variant) = (self.context.publisher.finished().clone(), Arc::clone(&self.deployment.variant));
        let (token, used) = (self.context.publisher.token(), Arc::clone(version));
        version.pipeline.submit(to_engine, move |embedded| {
            // Before the answer leaves: who has it may call again at once.
            drop(permit);
            let (lane, reply) = (Lane::Rpc, Reply::Call(call));
            // If nobody takes it, it is dropped, and so answered that the worker stops.
            let _ = finished.send(Finished { ask, variant, version: used, lane, reply, embedded, sample, token });
        });
    }

    /// Who sent a call, as far as can be told.
    fn sender(&self, message: &Message) -> Sender {
        let trusted = self.deployment.variant.admission.sender_header();
        let told = trusted.and_then(|name| Some((name, header(message, name)?)));
        sender(message.reply.as_deref().unwrap_or_default(), told)
    }
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
}
