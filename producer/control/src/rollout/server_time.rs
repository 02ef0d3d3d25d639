//! The server's time, which all times of a rollout are in: those who carry one on, and workers, may have clocks that are off.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use async_nats::Client;
use embed_schemas::streams::STATS_STREAM;
use serde_json::json;

use super::milliseconds;
pub(super) use crate::times::parse_ms;
use crate::{Error, bucket};

/// This machine's clock, corrected by what the server says. Clones are corrected together.
#[derive(Clone)]
pub struct ServerTime {
    local: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// By how many milliseconds the server's clock is ahead.
    ahead_ms: Arc<AtomicI64>,
}

impl fmt::Debug for ServerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTime").field("ahead_ms", &self.ahead_ms).finish_non_exhaustive()
    }
}

impl Default for ServerTime {
    fn default() -> Self {
        Self::by(|| milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl ServerTime {
    /// By a clock that gives the Unix time in milliseconds, and may be off.
    #[must_use]
    pub fn by(local: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { local: Arc::new(local), ahead_ms: Arc::default() }
    }

    /// The server's time as it was last heard of, Unix time in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.local)().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Asks the server what time it is. Gives back the number of the last message in the stream of statistics, which comes along.
    ///
    /// # Errors
    /// If there is no such stream, or it does not answer.
    pub(super) async fn ask(&self, client: &Client) -> Result<u64, Error> {
        let asked = (self.local)();
        let info = bucket::call(client, "STREAM.INFO", STATS_STREAM, &json!({})).await.map_err(missing)?;
        let info = info.unwrap_or_default();
        // An old server does not say: then this machine's clock has to do.
        if let Some(server) = info["ts"].as_str().and_then(parse_ms) {
            let here = asked.midpoint((self.local)());
            self.ahead_ms.store(server.cast_signed() - here.cast_signed(), Ordering::Relaxed);
        }
        Ok(info["state"]["last_seq"].as_u64().unwrap_or_default())
    }

    /// The server's time, asked for now if it can be.
    pub(super) async fn asked(&self, client: &Client) -> u64 {
        if let Err(error) = self.ask(client).await {
            tracing::debug!(%error, "the server does not say what time it is");
        }
        self.now_ms()
    }
}

/// The stream is made by `embed init`, as a bucket is.
pub(super) fn missing(error: Error) -> Error {
    match error {
        Error::NoBucket { .. } => Error::rejected(
            "cannot read statistics",
            format!("there is no stream {STATS_STREAM}: run `embed init` against this server"),
        ),
        other => other,
    }
}
