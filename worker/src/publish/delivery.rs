//! Where an answer goes.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_nats::{
    HeaderMap, Subject,
    jetstream::{self, AckKind},
};
use embed_schemas::{Lane, headers, subjects};

use crate::telemetry::EndpointStats;

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply {
    /// To the caller.
    Call(Call),
    /// Into the results stream; the job's message is acknowledged afterwards.
    Stored(Box<Delivery>),
}

/// An online call.
#[derive(Debug)]
pub struct Call {
    /// Where the caller listens.
    pub reply: Subject,
    /// Its trace context.
    pub traceparent: Option<String>,
    /// When it arrived.
    pub received: Instant,
    /// Where the answer is counted.
    pub stats: Arc<EndpointStats>,
    /// The worker's call to itself: no traffic, so it is left out of the metrics.
    pub is_probe: bool,
}

/// A message of a job stream.
#[derive(Debug)]
pub struct Delivery {
    /// The message, with its payload, for the case that it becomes a dead letter.
    pub message: jetstream::Message,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How often it has been delivered, this time included.
    pub deliveries: u64,
    /// How long ago it was published.
    pub age: Duration,
}

impl Delivery {
    /// Reads what the server says of a message. `None` if it is not from a job stream.
    pub fn new(message: jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        let (sequence, deliveries) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or_default());
        let age = SystemTime::now().duration_since(SystemTime::from(info.published)).unwrap_or_default();
        Some(Self { message, sequence, deliveries, age })
    }

    /// The subject on which it is stored.
    pub fn subject(&self) -> &Subject {
        &self.message.subject
    }

    /// The lane that it came by.
    pub fn lane(&self) -> Lane {
        subjects::parse(self.subject()).map_or(Lane::Job, |target| target.lane)
    }

    /// The subject that wants a direct copy of the outcome.
    pub fn reply_to(&self) -> Option<&str> {
        self.header(headers::REPLY_TO)
    }

    /// A header of the message.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.message.headers.as_ref(), name)
    }

    /// Acknowledges. A lost acknowledgement leads to a redelivery, which the results stream recognizes.
    pub async fn ack(&self) {
        self.send(AckKind::Ack).await;
    }

    /// Gives the message back, to be delivered again after `delay`.
    pub async fn nak(&self, delay: Duration) {
        self.send(AckKind::Nak(Some(delay))).await;
    }

    /// Says that it is being worked on.
    pub async fn in_progress(&self) {
        self.send(AckKind::Progress).await;
    }

    /// Ends it without success.
    pub async fn term(&self) {
        self.send(AckKind::Term).await;
    }

    async fn send(&self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::warn!(%error, sequence = self.sequence, "an acknowledgement could not be sent");
        }
    }
}

/// A header's value.
pub fn header<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers?.get(name).map(async_nats::HeaderValue::as_str)
}
