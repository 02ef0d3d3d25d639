//! The connections to NATS, and how often each has been made.

use async_nats::{Client, Event, client::FlushError};
use embed_connect::{ConnectError, ConnectSettings};
use tokio::sync::watch;

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
    let (online, stored) = tokio::try_join!(one(settings, name, "calls"), one(settings, &stored, "stored jobs"))?;
    Ok(Connections { online, stored })
}

async fn one(settings: &ConnectSettings, name: &str, carries: &'static str) -> Result<Connection, ConnectError> {
    let (count, connected) = watch::channel(0);
    let adjust = |options: async_nats::ConnectOptions| {
        options.event_callback(move |event| {
            match event {
                Event::Connected => {
                    count.send_modify(|n| *n += 1);
                    tracing::info!(carries, "connected to NATS");
                }
                // The worker closes it itself, when it stops.
                Event::Closed => tracing::debug!(carries, "disconnected from NATS"),
                event => tracing::warn!(%event, carries, "NATS connection"),
            }
            std::future::ready(())
        })
    };
    let client = embed_connect::connect(settings, name, adjust).await?;
    Ok(Connection { client, connected })
}
