//! Whether there is a connection to NATS, for requests that must not wait for one.

use std::time::Duration;

use async_nats::connection::State;
use embed_client::Client;
use tokio::{sync::watch, time::Instant};

use crate::error::ApiError;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For so long, requests that are under way are not given up: a client that is sent to another server is connected again within it.
const GRACE: Duration = Duration::from_millis(500);

/// The connection, as far as requests ask for it.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    lost: watch::Sender<bool>,
}

impl Link {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, lost: watch::Sender::new(false) }
    }

    /// Whether there is one.
    pub(crate) fn is_up(&self) -> bool {
        self.client.nats().connection_state() == State::Connected
    }

    /// An error if there is none.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        if self.is_up() { Ok(()) } else { Err(ApiError::disconnected()) }
    }

    /// Waits until there is none, and has been none for a while.
    pub(crate) async fn lost(&self) {
        // The sender is ours, so it does not go away.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// Looks at it for ever.
    pub(crate) async fn follow(&self) {
        let mut down_since = None;
        loop {
            down_since = if self.is_up() { None } else { down_since.or(Some(Instant::now())) };
            let lost = down_since.is_some_and(|since: Instant| since.elapsed() >= GRACE);
            self.lost.send_if_modified(|known| std::mem::replace(known, lost) != lost);
            metrics::gauge!(embed_schemas::metrics::GATEWAY_NATS_CONNECTED)
                .set(f64::from(u8::from(down_since.is_none())));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
