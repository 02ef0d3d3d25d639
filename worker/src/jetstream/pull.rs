//! Pull requests of one consumer. The client library's own keep messages where nobody sees them, and forget those that come late; here,
//! everything that the server sends is handed out, whatever became of the request that it answers.

use std::time::{Duration, Instant};

use async_nats::{Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::Serialize;

use super::{
    ServerClock,
    api::{self, ApiError, ConsumerInfo},
};
use crate::connection::{Connection, end_subscription};

/// A request is renewed after this: the server forgets requests when a consumer's leader changes, without telling.
const EXPIRES: Duration = Duration::from_secs(10);
/// While a request waits, the server says so often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After so long without a sign, the request is taken to be forgotten.
const SILENCE: Duration = Duration::from_millis(2500);

/// A durable pull consumer, and the request that waits for its messages.
#[derive(Debug)]
pub struct Consumer {
    connection: Connection,
    stream: String,
    name: String,
    inbox: String,
    subscriber: Subscriber,
    requests: u64,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    messages: usize,
    last_sign: Instant,
}

/// What comes of pulling.
#[derive(Debug)]
pub enum Pulled {
    /// A message. It has to be answered.
    Message(Message),
    /// A message that no stream has delivered. Whoever sent it knows the inbox; it is not answered.
    Forged(Message),
    /// The request ended, or was forgotten; ask again.
    Ended,
    /// The next message is larger than the request allowed.
    TooLarge,
    /// The consumer is not there, or nobody answers for it.
    Gone(String),
}

#[derive(Serialize)]
struct Request {
    batch: usize,
    max_bytes: usize,
    /// Nanoseconds.
    expires: u64,
    idle_heartbeat: u64,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What JetStream says of a consumer. What time it is there goes to the clock.
///
/// # Errors
/// If it is not there, or JetStream does not answer.
pub async fn info(
    connection: &Connection,
    stream: &str,
    name: &str,
    clock: &ServerClock,
) -> Result<ConsumerInfo, ApiError> {
    let asked = Instant::now();
    let info = api::consumer_info(&connection.client, stream, name).await?;
    if let Ok(server) = humantime::parse_rfc3339(&info.ts) {
        clock.heard(server, asked, Instant::now());
    }
    Ok(info)
}

impl Consumer {
    /// Listens for the messages of a consumer, which need not be there yet.
    ///
    /// # Errors
    /// If the subscription fails.
    pub async fn open(connection: Connection, stream: String, name: String) -> Result<Self, SubscribeError> {
        let inbox = connection.client.new_inbox();
        let subscriber = connection.client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self { connection, stream, name, inbox, subscriber, requests: 0, waiting: None })
    }

    /// Whether a request waits for messages.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Forgets the request that waits: the server did, since the connection is another one.
    pub fn forget_request(&mut self) {
        self.waiting = None;
    }

    /// Asks for so many messages, which have at most so many bytes together.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn request(&mut self, messages: usize, max_bytes: usize) -> Result<(), async_nats::PublishError> {
        self.requests += 1;
        let request = Request {
            batch: messages,
            max_bytes,
            expires: nanoseconds(EXPIRES),
            idle_heartbeat: nanoseconds(HEARTBEAT),
        };
        let payload: Bytes = serde_json::to_vec(&request).expect("numbers").into();
        let call = format!("CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name);
        let subject = embed_connect::api_subject(&self.connection.client, &call);
        let reply = format!("{}.{}", self.inbox, self.requests);
        self.waiting = Some(Waiting { messages, last_sign: Instant::now() });
        self.connection.client.publish_with_reply(subject, reply, payload).await
    }

    /// What comes next. Can be dropped and called again without losing anything.
    pub async fn next(&mut self) -> Pulled {
        loop {
            let silence = self.waiting.as_ref().map(|waiting| waiting.last_sign + SILENCE);
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                () = sleep_until(silence) => {
                    self.waiting = None;
                    return Pulled::Ended;
                }
            };
            let Some(message) = message else { return Pulled::Gone("the connection is closed".to_owned()) };
            // Messages of the stream can have statuses as well: whoever published them chose their headers.
            let status = if is_delivery(&message, &self.inbox) {
                None
            } else if let Some(status) = message.status {
                Some(status.as_u16())
            } else {
                return Pulled::Forged(message);
            };
            let Some(status) = status else {
                if let Some(waiting) = &mut self.waiting {
                    waiting.last_sign = Instant::now();
                    waiting.messages = waiting.messages.saturating_sub(1);
                    if waiting.messages == 0 {
                        self.waiting = None;
                    }
                }
                return Pulled::Message(message);
            };
            // The end of a request that was given up, or filled, concerns nobody.
            let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
            if number != Some(self.requests) || self.waiting.is_none() {
                continue;
            }
            let description = message.description.unwrap_or_default().to_lowercase();
            match (status, description.as_str()) {
                (100, _) => {
                    if let Some(waiting) = &mut self.waiting {
                        waiting.last_sign = Instant::now();
                    }
                    continue;
                }
                (409, text) if text.contains("maxbytes") => {
                    self.waiting = None;
                    return Pulled::TooLarge;
                }
                (409, text) if text.contains("deleted") => {
                    self.waiting = None;
                    return Pulled::Gone("it was deleted".to_owned());
                }
                (503, _) => {
                    self.waiting = None;
                    return Pulled::Gone("JetStream does not answer for it".to_owned());
                }
                (status, text) => {
                    tracing::debug!(status, text, "a pull request ended");
                    self.waiting = None;
                    return Pulled::Ended;
                }
            }
        }
    }

    /// The stream and the consumer.
    #[must_use]
    pub fn names(&self) -> (&str, &str) {
        (&self.stream, &self.name)
    }

    /// Takes no more, and hands over what is on its way.
    pub async fn close<F: Future<Output = ()>>(self, take: impl Fn(Message) -> F) {
        let inbox = self.inbox.clone();
        let take = async |message: Message| {
            if is_delivery(&message, &inbox) {
                take(message).await;
            }
        };
        let ended = end_subscription(&self.connection, self.subscriber, take).await;
        if let Err(error) = ended {
            tracing::warn!(%error, "pulling could not be ended in good order");
        }
    }
}

/// Whether the stream has sent it: what JetStream delivers comes under the subject that it is stored on. The rest is the server's, or
/// somebody's who publishes here.
fn is_delivery(message: &Message, inbox: &str) -> bool {
    !message.subject.starts_with(inbox)
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
