//! Keeps so many requests under way for a time, and says how many texts that came to.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::peer::Peer;
use crate::tally::latencies;

/// Before the time counts, at most: connections, caches, first kernels.
const WARM_UP: Duration = Duration::from_secs(1);
/// A short text, as online calls have.
pub(super) const SHORT: &str = "hello world";

/// How somebody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Requests under way.
    pub concurrency: usize,
    /// Texts in each; for a library, in a batch.
    pub texts: usize,
}

/// Texts a second with these settings. The texts are taken in turn.
pub(super) async fn rate(
    peer: &Peer,
    texts: &Arc<[String]>,
    setting: Setting,
    duration: Duration,
) -> anyhow::Result<f64> {
    if let Peer::Library(library) = peer {
        return library.rate(setting.texts, duration).await;
    }
    let start = Instant::now();
    let window = warm_up(duration)..warm_up(duration) + duration;
    let next = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    for _ in 0..setting.concurrency {
        let (peer, texts, next, window) = (peer.clone(), texts.clone(), next.clone(), window.clone());
        all.spawn(async move {
            let mut done = 0.0;
            while start.elapsed() < window.end {
                let first = next.fetch_add(setting.texts, Ordering::Relaxed);
                let request = (first..first + setting.texts).map(|n| texts[n % texts.len()].clone()).collect();
                let began = start.elapsed();
                peer.embed(request).await?;
                done += setting.texts as f64 * share_within(&(began..start.elapsed()), &window);
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0.0;
    while let Some(one) = all.join_next().await {
        done += one??;
    }
    Ok(done / duration.as_secs_f64())
}

/// One short text after the other.
pub(super) async fn lone(peer: &Peer, duration: Duration) -> anyhow::Result<Histogram<u64>> {
    let mut all = latencies();
    if let Peer::Library(library) = peer {
        let took = library.lone(SHORT, duration).await?;
        took.into_iter().for_each(|ms| all.saturating_record((ms * 1000.0) as u64));
        return Ok(all);
    }
    let (start, warm_up) = (Instant::now(), warm_up(duration));
    // One at least, however long it takes.
    while start.elapsed() < warm_up + duration || all.is_empty() {
        let before = Instant::now();
        let counts = start.elapsed() >= warm_up;
        peer.embed(vec![SHORT.to_owned()]).await?;
        if counts {
            all.saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(all)
}

fn warm_up(duration: Duration) -> Duration {
    WARM_UP.min(duration / 4)
}

/// How much of a request's time was within the window. A request that takes seconds would else count as a whole or not at all.
fn share_within(request: &Range<Duration>, window: &Range<Duration>) -> f64 {
    let within = request.end.min(window.end).saturating_sub(request.start.max(window.start));
    let whole = request.end.saturating_sub(request.start);
    if whole.is_zero() { f64::from(u8::from(window.contains(&request.start))) } else { within.div_duration_f64(whole) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(from: u64, to: u64) -> Range<Duration> {
        Duration::from_millis(from)..Duration::from_millis(to)
    }

    #[test]
    fn a_request_counts_by_its_time_in_the_window() {
        let window = range(1000, 2000);
        for (request, share) in [
            (range(0, 900), 0.0),
            (range(500, 1500), 0.5),
            (range(1200, 1300), 1.0),
            (range(1900, 2900), 0.1),
            (range(0, 4000), 0.25),
            (range(1000, 1000), 1.0),
            (range(2000, 2000), 0.0),
        ] {
            assert!((share_within(&request, &window) - share).abs() < 1e-9, "{request:?}");
        }
    }

    proptest! {
        #[test]
        fn one_after_the_other_come_to_the_window_however_long_they_take(took in 1u64..3000) {
            let window = range(1000, 2000);
            // One of them for each `took`, from before the window until after it.
            let requests = (0..).map(|n| range(n * took, (n + 1) * took)).take_while(|one| one.start < window.end);
            let done: f64 = requests.map(|one| share_within(&one, &window)).sum();
            prop_assert!((done * took as f64 - 1000.0).abs() < 1e-6, "{done} of {took} ms");
        }
    }
}
