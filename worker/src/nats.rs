//! The connection to NATS, and how often it has been made.

use async_nats::{Client, Event};
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

/// Connects. Afterwards, a lost connection is made anew for ever.
///
/// # Errors
/// As [`embed_connect::connect`].
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Connection, ConnectError> {
    let (count, connected) = watch::channel(0);
    let adjust = |options: async_nats::ConnectOptions| {
        options.event_callback(move |event| {
            match event {
                Event::Connected => {
                    count.send_modify(|n| *n += 1);
                    tracing::info!("connected to NATS");
                }
                // The worker closes it itself, when it stops.
                Event::Closed => tracing::debug!("disconnected from NATS"),
                event => tracing::warn!(%event, "NATS connection"),
            }
            std::future::ready(())
        })
    };
    let client = embed_connect::connect(settings, name, adjust).await?;
    Ok(Connection { client, connected })
}
