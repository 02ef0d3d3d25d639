//! Texts that were served leave for whoever is compared with their variant: never in anybody's way, and within a bound.

use std::time::{Duration, Instant};

use async_nats::Client;
use embed_schemas::{Format, subjects};
use tokio::sync::mpsc;

use crate::{
    supervise::{Supervisor, Task},
    variant::Tapped,
};

/// What may wait to be sent. Beyond it, it is dropped.
const MOST_WAITING: usize = 64;

/// Where texts for shadows are put.
#[derive(Debug, Clone)]
pub(super) struct Shadows(mpsc::Sender<Tapped>);

impl Shadows {
    /// Sends on this connection, at most so many bytes a second.
    pub(super) fn start(client: Client, bytes_per_second: u64, supervisor: &Supervisor) -> (Self, Task) {
        let (sender, mut tapped) = mpsc::channel::<Tapped>(MOST_WAITING);
        let send = async move {
            let mut budget = Budget::new(bytes_per_second, Instant::now());
            while let Some(Tapped { tapping, mut texts }) = tapped.recv().await {
                let dropped = tapping.take_dropped();
                texts.dropped = dropped;
                let (subject, payload) =
                    (subjects::shadow(&tapping.wish.model, &tapping.wish.to), Format::MessagePack.encode(&texts));
                let fits = payload.len() <= client.max_payload() && budget.take(Instant::now(), payload.len());
                // Without a server it waits here, and what comes meanwhile is dropped.
                if !fits || client.publish(subject, payload).await.is_err() {
                    tapping.dropped(dropped + 1);
                }
            }
        };
        (Self(sender), supervisor.spawn("the publisher of what is shadowed", send))
    }

    /// Gives texts away, if there is room for them.
    pub(super) fn offer(&self, tapped: Tapped) {
        if let Err(mpsc::error::TrySendError::Full(tapped)) = self.0.try_send(tapped) {
            tapped.tapping.dropped(1);
        }
    }
}

/// Bytes that may leave: so many a second, and a second's worth at once.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(per_second: u64, now: Instant) -> Self {
        Self { per_second: per_second as f64, left: per_second as f64, at: now }
    }

    /// Takes so many bytes, if they are there.
    fn take(&mut self, now: Instant, bytes: usize) -> bool {
        let since: Duration = now.saturating_duration_since(self.at);
        self.left = (self.left + since.as_secs_f64() * self.per_second).min(self.per_second);
        self.at = now;
        let fits = bytes as f64 <= self.left;
        if fits {
            self.left -= bytes as f64;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_leaves_than_may(steps in prop::collection::vec((0u64..500, 0usize..3_000), 1..200)) {
            let start = Instant::now();
            let (mut budget, mut now, mut sent) = (Budget::new(1_000, start), start, 0);
            for (ms, bytes) in steps {
                now += Duration::from_millis(ms);
                let all = 1_000.0 * (1.0 + now.duration_since(start).as_secs_f64());
                if budget.take(now, bytes) {
                    sent += bytes;
                }
                prop_assert!(sent as f64 <= all + 1e-6, "{} of {}", sent, all);
            }
            now += Duration::from_secs(1);
            prop_assert!(budget.take(now, 1_000));
        }
    }
}
