//! The connections to NATS, how often each has been made, and what the client library needs help with.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use async_nats::{Client, Event, Message, SubscribeError, Subscriber, client::FlushError, connection::State};
use bytes::Bytes;
use embed_connect::{ConnectError, ConnectSettings};
use embed_schemas::metrics as names;
use futures::StreamExt;
use metrics::{counter, gauge};
use tokio::{sync::watch, time::timeout};

/// A server that does not answer two of these in a row is given up for another: meanwhile, it would go on to offer us calls.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Longest pause between two attempts to connect.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// How long what a server had sent may take to arrive, after it was told to send no more.
const LAST_MESSAGES: Duration = Duration::from_secs(2);

/// A connection, and the number of times that it has been established: whoever waits for something that a lost connection
/// may have swallowed can watch it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Counts connections.
    pub connected: watch::Receiver<u64>,
}

/// What a worker talks over. Stored jobs and their results have a connection of their own: megabytes of them may be on their way, and
/// behind those no call is to wait, nor its answer.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Calls, their answers, and whatever else is small.
    pub online: Connection,
    /// Stored jobs and their results.
    pub stored: Connection,
}

impl Connection {
    /// Whether there is a server at the moment.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

impl Connections {
    /// Waits until everything is out. Without a server, as long as there is none.
    ///
    /// # Errors
    /// If a connection is closed.
    pub async fn flush(&self) -> Result<(), FlushError> {
        tokio::try_join!(self.online.client.flush(), self.stored.client.flush()).map(|_| ())
    }
}

/// Connects. Afterwards, a lost connection is made anew for ever.
///
/// # Errors
/// As [`embed_connect::connect`].
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Connections, ConnectError> {
    let stored = format!("{name} stored");
    let (online, stored) = tokio::try_join!(one(settings, name, "calls"), one(settings, &stored, "stored"))?;
    Ok(Connections { online, stored })
}

async fn one(settings: &ConnectSettings, name: &str, carries: &'static str) -> Result<Connection, ConnectError> {
    let (count, connected) = watch::channel(0);
    let labels = [(names::CONNECTION, carries)];
    let up = gauge!(names::NATS_CONNECTED, &labels);
    let reconnects = counter!(names::NATS_RECONNECTS_TOTAL, &labels);
    let adjust = |options: async_nats::ConnectOptions| {
        let options = options.ping_interval(PING_INTERVAL);
        options.reconnect_delay_callback(|attempts| {
            let doubled =
                Duration::from_millis(10) * 2u32.saturating_pow(u32::try_from(attempts.min(10)).unwrap_or(10));
            doubled.min(LONGEST_RECONNECT_DELAY)
        })
    };
    let hear = move |event: &Event| match event {
        Event::Connected => {
            count.send_modify(|n| {
                if *n > 0 {
                    reconnects.increment(1);
                }
                *n += 1;
            });
            up.set(1.0);
            tracing::info!(carries, "connected to NATS");
        }
        // The worker closes it itself, when it stops.
        Event::Closed => tracing::debug!(carries, "disconnected from NATS"),
        event => {
            if matches!(event, Event::Disconnected) {
                up.set(0.0);
            }
            tracing::warn!(%event, carries, "NATS connection");
        }
    };
    let client = embed_connect::connect_hearing(settings, name, adjust, hear).await?;
    Ok(Connection { client, connected })
}

/// Tells the server to send nothing more on a subscription, and hands over everything that it had sent before it heard that: then
/// nothing is lost. Without a server, only what has arrived.
///
/// The library's own `drain` drops the subscription before the server can have heard of it, and with it what is on its way. It keeps
/// one that still expects messages: it is told to end after more than will ever come, a number that servers read as "now" since it has
/// more digits than they take. A server that understood it otherwise would go on sending until this gives up.
///
/// # Errors
/// If the connection is closed.
pub async fn end_subscription<F: Future<Output = ()>>(
    connection: &Connection,
    mut subscriber: Subscriber,
    mut take: impl FnMut(Message) -> F,
) -> Result<(), SubscribeError> {
    let client = &connection.client;
    let deadline = Instant::now() + LAST_MESSAGES;
    if connection.is_up() {
        let here = client.new_inbox();
        let mut answers = client.subscribe(here.clone()).await?;
        let told = subscriber.unsubscribe_after(u64::MAX).await.is_ok();
        // Servers handle what a client sends in its order: when this comes back, nothing more comes from before.
        let asked = client.publish(here, Bytes::new()).await.is_ok();
        let mut heard = !(told && asked);
        while !heard {
            tokio::select! {
                biased;
                message = subscriber.next() => match message {
                    Some(message) => take(message).await,
                    None => return Ok(()),
                },
                answer = timeout(deadline.saturating_duration_since(Instant::now()), answers.next()) => {
                    if answer.is_err() {
                        tracing::warn!("the server does not say that it sends no more");
                    }
                    heard = true;
                }
            }
        }
    }
    while let Some(Some(message)) = futures::FutureExt::now_or_never(subscriber.next()) {
        take(message).await;
    }
    Ok(())
}
