//! Publishes what each variant did, once a window. Windows are aligned to the server's clock, so that those of different workers
//! can be laid side by side, and beside the times of messages, whatever a worker's own clock says; idle ones are published as well, so that silence means that a worker is gone.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use embed_schemas::{Format, Lane, shadow::ShadowStats, stats::VariantStats, subjects};
use serde::Serialize;

use crate::{jetstream::ServerClock, serving::ServedVariants};

/// Publishes for ever.
pub async fn publish(client: Client, worker: String, served: ServedVariants, window: Duration, clock: ServerClock) {
    let length_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX).max(1);
    let now = || clock.at(Instant::now(), SystemTime::now());
    let mut last = None;
    loop {
        let mut start_ms = start_of(now(), length_ms);
        if last == Some(start_ms) {
            // Woken a moment too early, or the clock was put back by one: that window is out.
            start_ms += u64::from(length_ms);
        }
        last = Some(start_ms);
        let end = UNIX_EPOCH + Duration::from_millis(start_ms + u64::from(length_ms));
        tokio::time::sleep(end.duration_since(now()).unwrap_or_default()).await;
        // What is not loaded has done nothing.
        for (deployment, live) in served.live() {
            let variant = &deployment.variant;
            if let Some((id, counts)) = variant.metrics.shadow().take() {
                let stats = ShadowStats {
                    id,
                    model: variant.model.clone(),
                    variant: variant.name.clone(),
                    version: live.metadata().version.clone(),
                    worker: worker.clone(),
                    start_ms,
                    length_ms,
                    counts,
                };
                send(&client, subjects::shadow_stats(&variant.model, &variant.name), &stats).await;
            }
            for lane in Lane::ALL {
                let stats = VariantStats {
                    model: variant.model.clone(),
                    variant: variant.name.clone(),
                    version: live.metadata().version.clone(),
                    lane,
                    worker: worker.clone(),
                    start_ms,
                    length_ms,
                    counts: variant.metrics.window().take(lane, start_ms, length_ms),
                };
                send(&client, subjects::stats(&variant.model, &variant.name), &stats).await;
            }
        }
    }
}

async fn send(client: &Client, subject: String, stats: &impl Serialize) {
    if let Err(error) = client.publish(subject, Format::MessagePack.encode(stats)).await {
        tracing::debug!(%error, "statistics could not be sent");
    }
}

/// The beginning of the window in which this moment lies, Unix time in milliseconds.
fn start_of(now: SystemTime, length_ms: u32) -> u64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    now - now % u64::from(length_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_to_the_clock() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(start_of(at(12_345), 5_000), 10_000);
        assert_eq!(start_of(at(15_000), 5_000), 15_000);
    }
}
