//! Other versions of a model take the place of the one that is live, one after the other, and what callers notice of it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use embed_producer::{Client, client::WorkerInfo, models};
use embed_schemas::{
    Slug,
    serving::{CURRENT_VERSION, VariantStatus},
};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    pointer::Pointer,
    tally::{Done, Outcome, latencies},
};

/// How often workers are asked whether they have followed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For one swap.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to swap, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the pointer is moved.
    pub pointer: Pointer,
    /// The model.
    pub model: Slug,
    /// The variant that is watched; the default one if `None`.
    pub variant: Option<Slug>,
    /// The versions, in turn. At least two.
    pub versions: Vec<String>,
    /// How many swaps.
    pub swaps: usize,
    /// How many times back and forth afterwards, at once, to the version that was live before.
    pub rollbacks: usize,
    /// Before each swap.
    pub pause: Duration,
}

/// One swap. Moments are from the start of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Swap {
    /// The version that went live.
    pub version: String,
    /// Whether the workers had kept it warm, so that nothing had to be loaded.
    pub kept: bool,
    /// Whether it was asked for as a rollback.
    pub rollback: bool,
    /// When it was promoted, seconds.
    pub promoted: f64,
    /// When it was live on all workers, seconds.
    pub live: f64,
}

impl Swap {
    /// From promotion to live, seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.live - self.promoted
    }

    fn meets(&self, done: &Done) -> bool {
        let (from, to) = (done.due.as_secs_f64(), (done.due + done.latency).as_secs_f64());
        from <= self.live && to >= self.promoted
    }
}

impl Plan {
    /// Finds the workers that serve the variant, and makes sure that they follow the pointer.
    ///
    /// # Errors
    /// If there is no such worker, or one does not follow the pointer.
    pub async fn workers(&self, client: &Client) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        for worker in client.workers().await? {
            let Some(status) = self.status(&worker) else { continue };
            ensure!(
                status.wanted.starts_with(CURRENT_VERSION),
                "{}: it serves {} of {} at a fixed version: nothing would change",
                worker.id,
                status.wanted,
                self.model
            );
            ids.push(worker.id);
        }
        ensure!(!ids.is_empty(), "no worker serves {}", self.model);
        Ok(ids)
    }

    fn status<'a>(&self, worker: &'a WorkerInfo) -> Option<&'a VariantStatus> {
        let wanted = |(model, variant): &(Slug, Slug), status: &VariantStatus| {
            *model == self.model && self.variant.as_ref().map_or(status.default, |name| name == variant)
        };
        worker.variants.iter().find(|(key, status)| wanted(key, status)).map(|(_, status)| status)
    }

    /// Makes the swaps, then the rollbacks, and points back at the version that was current before.
    ///
    /// # Errors
    /// If a version does not go live; the pointer is put back all the same.
    pub async fn run(
        &self,
        client: &Client,
        start: Instant,
        mut on_swap: impl FnMut(&Swap),
    ) -> anyhow::Result<Vec<Swap>> {
        let first = self.pointer.current()?;
        let swaps = self.drive(client, start, &mut on_swap).await;
        if self.pointer.current()? != first {
            self.pointer.promote(&first)?;
            models::refresh(client, Some(&self.model)).await?;
        }
        swaps
    }

    async fn drive(
        &self,
        client: &Client,
        start: Instant,
        on_swap: &mut impl FnMut(&Swap),
    ) -> anyhow::Result<Vec<Swap>> {
        let workers = self.workers(client).await?;
        let mut swaps: Vec<Swap> = Vec::new();
        for n in 0..self.swaps + self.rollbacks {
            let rollback = n >= self.swaps;
            let current = self.pointer.current()?;
            let next = match swaps.len().checked_sub(2) {
                Some(before) if rollback => swaps[before].version.clone(),
                _ => following(&self.versions, &current).to_owned(),
            };
            if !rollback {
                tokio::time::sleep(self.pause).await;
            }
            let swap = self.swap(client, &workers, &next, rollback, start).await?;
            on_swap(&swap);
            swaps.push(swap);
        }
        // What a swap leaves behind belongs to it as well.
        tokio::time::sleep(self.pause).await;
        Ok(swaps)
    }

    async fn swap(
        &self,
        client: &Client,
        workers: &[String],
        version: &str,
        rollback: bool,
        start: Instant,
    ) -> anyhow::Result<Swap> {
        let mut kept = true;
        for id in workers {
            let status = self.ask(client, id).await?;
            kept &= status.previous.as_deref() == Some(version);
        }
        let promoted = start.elapsed();
        self.pointer.promote(version)?;
        models::refresh(client, Some(&self.model)).await?;
        for id in workers {
            loop {
                let status = self.ask(client, id).await?;
                if status.live.is_some_and(|live| live.version == version) {
                    break;
                }
                if let Some(failed) = status.failed.filter(|failed| failed.version == version) {
                    bail!("{id}: {version} does not go live: {}", failed.reason);
                }
                ensure!(start.elapsed() - promoted < PATIENCE, "{id}: {version} is not live after {PATIENCE:?}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        let (promoted, live) = (promoted.as_secs_f64(), start.elapsed().as_secs_f64());
        Ok(Swap { version: version.to_owned(), kept, rollback, promoted, live })
    }

    async fn ask(&self, client: &Client, id: &str) -> anyhow::Result<VariantStatus> {
        let worker = client.worker(id).await?.with_context(|| format!("{id}: it is gone"))?;
        self.status(&worker).cloned().with_context(|| format!("{id}: it does not serve {} any more", self.model))
    }
}

/// The version after this one, in turn.
fn following<'a>(versions: &'a [String], current: &str) -> &'a str {
    let next = versions.iter().position(|version| version == current).map_or(0, |at| at + 1);
    &versions[next % versions.len()]
}

/// Latencies, microseconds, by what went on meanwhile.
#[derive(Debug)]
pub struct Latencies {
    /// While a version was being loaded, or went live.
    pub during: Histogram<u64>,
    /// While nothing of the kind went on.
    pub between: Histogram<u64>,
}

impl Latencies {
    /// Sorts calls that were due after the warm-up. A refusal is no latency, and is counted elsewhere.
    #[must_use]
    pub fn of(calls: &[Done], swaps: &[Swap], warm_up: Duration) -> Self {
        let mut sorted = Self { during: latencies(), between: latencies() };
        for done in calls.iter().filter(|done| done.due >= warm_up && done.outcome != Outcome::Refused) {
            let micros = u64::try_from(done.latency.as_micros()).unwrap_or(u64::MAX);
            let mut met = swaps.iter().filter(|swap| swap.meets(done)).peekable();
            if met.peek().is_none() {
                sorted.between.saturating_record(micros);
            } else if met.any(|swap| !swap.kept) {
                sorted.during.saturating_record(micros);
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn swap(kept: bool, promoted: f64, live: f64) -> Swap {
        Swap { version: "v".into(), kept, rollback: false, promoted, live }
    }

    fn done(due: u64, latency: u64) -> Done {
        let ms = Duration::from_millis;
        Done { due: ms(due), late: Duration::ZERO, latency: ms(latency), outcome: Outcome::Answered(vec![1]) }
    }

    #[test]
    fn calls_are_during_a_swap_if_they_meet_it() {
        let swaps = [swap(false, 2.0, 3.0), swap(true, 4.0, 4.1)];
        let calls = [done(500, 10), done(1500, 400), done(1900, 150), done(2500, 1), done(3050, 1), done(4050, 1)];
        let sorted = Latencies::of(&calls, &swaps, Duration::from_secs(1));
        assert_eq!((sorted.during.len(), sorted.between.len()), (2, 2), "one in the warm-up, one with what was kept");
        assert!(sorted.between.max() >= 400_000 && sorted.during.max() >= 150_000);
    }

    #[test]
    fn versions_take_turns() {
        let versions = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(["a", "b", "c", "other"].map(|current| following(&versions, current)), ["b", "c", "a", "a"]);
    }

    proptest! {
        #[test]
        fn every_call_is_in_one_of_both_or_beside_what_was_kept(
            calls in prop::collection::vec((0u64..10_000, 0u64..500), 0..50),
            at in 0.0f64..10.0,
        ) {
            let calls: Vec<_> = calls.into_iter().map(|(due, latency)| done(due, latency)).collect();
            let sorted = Latencies::of(&calls, &[swap(false, at, at + 1.0)], Duration::ZERO);
            prop_assert_eq!(sorted.during.len() + sorted.between.len(), calls.len() as u64);
        }
    }
}
