//! What is taken from a consumer is owned by one value, a [`Lease`], from the moment it leaves the socket.
//!
//! As long as there is a lease, the server hears that its message is being worked on, whatever that waits for. A lease ends by
//! [`Lease::ack`], [`Lease::terminate`] or [`Lease::give_back`], and there is no other way to say any of this to the server; one that is
//! dropped gives its message back. So nothing that is in the worker can be forgotten, and nothing has to be remembered.

mod attempts;
mod delivery;
mod keeper;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use async_nats::{Message, Subject};
pub use attempts::{AttemptStore, Attempts};
use bytes::Bytes;
pub use delivery::Delivery;
use embed_otlp::KeyValue;
use embed_schemas::{JobId, Lane, Slug, headers, subjects, trace::TraceContext};
pub use keeper::Keeper;
use tokio::sync::oneshot;

use self::keeper::Held;
use crate::spans::Trace;

/// A message of a job stream that this worker has.
#[derive(Debug)]
pub struct Lease {
    message: Message,
    delivery: Delivery,
    received: Instant,
    begun: Arc<AtomicBool>,
    holder: Holder,
    trace: Option<Box<Trace>>,
}

/// Who is told how a lease ends.
#[derive(Debug)]
enum Holder {
    /// The server, by the keeper.
    Server(Held),
    /// Whoever took a message that the server does not deliver any more.
    Taker(oneshot::Sender<()>),
}

impl Lease {
    /// Takes a message that this consumer of this stream has delivered. `None` if it has not, whatever the message says: then there is
    /// nothing to give back, and nothing is published where it wants acknowledgements.
    #[must_use]
    pub fn take(
        message: Message,
        keeper: &Keeper,
        ack_wait: Duration,
        (stream, consumer): (&str, &str),
    ) -> Option<Self> {
        let reply = message.reply.clone()?;
        let delivery = Delivery::parse(&reply).filter(|by| by.stream == stream && by.consumer == consumer)?;
        let holder = Holder::Server(keeper.hold(reply, ack_wait));
        Some(Self { message, delivery, received: Instant::now(), begun: Arc::default(), holder, trace: None })
    }

    /// A message that the server does not deliver any more. The server is told nothing of how this ends: if the message is done with, the
    /// receiver hears of it; if it was given back, the sender is gone.
    #[must_use]
    pub fn of_undelivered(message: Message, delivery: Delivery) -> (Self, oneshot::Receiver<()>) {
        let (done, is_done) = oneshot::channel();
        let holder = Holder::Taker(done);
        (Self { message, delivery, received: Instant::now(), begun: Arc::default(), holder, trace: None }, is_done)
    }

    /// What the server says of it.
    #[must_use]
    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// When it arrived.
    #[must_use]
    pub const fn received(&self) -> Instant {
        self.received
    }

    /// What was published.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The subject on which it is stored.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.message.subject
    }

    /// The lane that it came by.
    #[must_use]
    pub fn lane(&self) -> Lane {
        subjects::parse(self.subject()).map_or(Lane::Job, |target| target.lane)
    }

    /// Whose job it is. Told by the subject, which is the server's to permit, and by nothing that a producer writes.
    #[must_use]
    pub fn tenant(&self) -> Option<Slug> {
        subjects::parse(self.subject())?.tenant
    }

    /// A header of the message.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The subject that wants a direct copy of the outcome, whatever it is.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.header(headers::REPLY_TO)
    }

    /// Producers name the job in `Nats-Msg-Id` as well, which can be read even where the payload cannot.
    #[must_use]
    pub fn id_in_headers(&self) -> Option<JobId> {
        self.header(headers::MSG_ID)?.parse().ok()
    }

    /// From now on, what happens to it is recorded.
    pub fn record(&mut self, trace: Option<Box<Trace>>) {
        self.trace = trace;
    }

    /// What is recorded of it, if anything is.
    pub fn trace(&mut self) -> Option<&mut Trace> {
        self.trace.as_deref_mut()
    }

    /// The span that it is, if it is recorded.
    #[must_use]
    pub fn span(&self) -> Option<TraceContext> {
        self.trace.as_ref().map(|trace| trace.context())
    }

    /// The trace context that its outcome carries, whatever is in the header: as it came, or, if it is recorded, that of its own span.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.trace.as_ref().map(|trace| trace.header()).or_else(|| self.header(headers::TRACEPARENT))
    }

    /// Its trace, whoever records it: for logs.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        self.traceparent().and_then(TraceContext::parse).map(|context| context.trace_id())
    }

    /// How it ends, for whoever looks at its trace.
    fn ends(&mut self, how: &'static str) {
        if let Some(trace) = &mut self.trace {
            trace.note(KeyValue::new("embed.end", how));
        }
    }

    /// Set when one of its texts is given to an engine: until then, nothing that happens is its doing.
    #[must_use]
    pub const fn begun(&self) -> &Arc<AtomicBool> {
        &self.begun
    }

    /// What is to be written down if the message is given back in good order, in place of what is written for the case that it kills the
    /// worker. `false` if it has been given back already, since the worker stops.
    pub fn on_give_back(&mut self, subject: Subject, payload: Bytes) -> bool {
        match &mut self.holder {
            Holder::Server(held) => held.on_give_back(Some((subject, payload))),
            Holder::Taker(_) => true,
        }
    }

    /// The job is done. A lost acknowledgement leads to a redelivery, which the results stream recognizes.
    pub fn ack(mut self) {
        self.ends("acknowledged");
        self.holder.end(Bytes::from_static(b"+ACK"));
    }

    /// The message is no job, and never will be.
    pub fn terminate(mut self) {
        self.ends("terminated");
        self.holder.end(Bytes::from_static(b"+TERM"));
    }

    /// Gives the message back, to be delivered again after `delay`, here or elsewhere; later, if it has been delivered many times: deliveries
    /// are bounded. Costs the job nothing.
    pub fn give_back(mut self, delay: Duration) {
        self.ends("given back");
        let delay = self.delivery.pause(delay);
        self.holder.give_back(delay);
    }

    /// Gives the message back after an attempt that counts.
    pub fn retry_after(mut self, delay: Duration) {
        if let Holder::Server(held) = &mut self.holder {
            held.on_give_back(None);
        }
        self.give_back(delay);
    }
}

impl Holder {
    fn end(self, acknowledgement: Bytes) {
        match self {
            Self::Server(held) => held.end(acknowledgement),
            // Whoever took it may have stopped.
            Self::Taker(done) => drop(done.send(())),
        }
    }

    fn give_back(self, delay: Duration) {
        match self {
            Self::Server(held) => held.give_back(delay),
            Self::Taker(done) => drop(done),
        }
    }
}
