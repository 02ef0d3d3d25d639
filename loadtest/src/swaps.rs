//! Other versions of a model take the place of the one that is live, one after the other, and what callers notice of it.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use embed_client::{Client, WorkerInfo};
use embed_control::models;
use embed_registry::Registry;
use embed_schemas::{
    Slug,
    serving::{CURRENT_VERSION, VariantStatus},
};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::tally::{Done, Outcome, latencies};

/// How often workers are asked whether they have followed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a swap leaves behind is not over with it: the version before is freed, caches fill anew.
const AFTERMATH: Duration = Duration::from_secs(3);
/// For one swap.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to swap, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the pointer is moved.
    pub registry: Registry,
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
    /// Before the first and after the last: without swaps, for comparison.
    pub quiet: Duration,
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

    async fn current(&self) -> anyhow::Result<String> {
        Ok(self.registry.current(&self.model).await?.version)
    }

    async fn promote(&self, version: &str) -> anyhow::Result<()> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.registry.promote(&self.model, version, "embed-loadtest", &now).await?;
        Ok(())
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
        let first = self.current().await?;
        let swaps = self.drive(client, start, &mut on_swap).await;
        if self.current().await? != first {
            self.promote(&first).await?;
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
        tokio::time::sleep(self.quiet).await;
        for n in 0..self.swaps + self.rollbacks {
            let rollback = n >= self.swaps;
            let current = self.current().await?;
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
        tokio::time::sleep(AFTERMATH + self.quiet).await;
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
        self.promote(version).await?;
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

/// Calls by what went on meanwhile.
#[derive(Debug)]
pub struct Phases {
    /// While a version was being loaded, until it was live.
    pub during: Phase,
    /// Between swaps, and while a version went live that had been kept warm.
    pub between: Phase,
    /// Before the first swap and after the last, when nothing of the kind went on.
    pub without: Phase,
}

/// Some of the calls.
#[derive(Debug)]
pub struct Phase {
    /// Latencies of those that were not refused, microseconds.
    pub latency: Histogram<u64>,
    /// All of them.
    pub calls: u64,
    /// Those that were not answered with vectors.
    pub errors: u64,
}

impl Default for Phase {
    fn default() -> Self {
        Self { latency: latencies(), calls: 0, errors: 0 }
    }
}

impl Phase {
    fn count(&mut self, done: &Done) {
        self.calls += 1;
        self.errors += u64::from(!matches!(done.outcome, Outcome::Answered { .. }));
        if done.outcome != Outcome::Refused {
            self.latency.saturating_record(u64::try_from(done.latency.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

impl Phases {
    /// Sorts calls that were due after the warm-up. Swaps are in their order.
    #[must_use]
    pub fn of(calls: &[Done], swaps: &[Swap], warm_up: Duration) -> Self {
        let [mut during, mut between, mut without] = std::array::from_fn(|_| Phase::default());
        let first = swaps.first().map_or(f64::INFINITY, |swap| swap.promoted);
        let last = swaps.last().map_or(f64::NEG_INFINITY, |swap| swap.live + AFTERMATH.as_secs_f64());
        for done in calls.iter().filter(|done| done.due >= warm_up) {
            let (due, over) = (done.due.as_secs_f64(), (done.due + done.latency).as_secs_f64());
            let phase = if swaps.iter().any(|swap| !swap.kept && swap.meets(done)) {
                &mut during
            } else if over < first || due > last {
                &mut without
            } else {
                &mut between
            };
            phase.count(done);
        }
        Self { during, between, without }
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
        Done {
            due: ms(due),
            late: Duration::ZERO,
            latency: ms(latency),
            outcome: Outcome::Answered { tokens: vec![1], batch_size: 1 },
        }
    }

    #[test]
    fn calls_are_during_a_swap_if_they_meet_it() {
        let swaps = [swap(false, 2.0, 3.0), swap(true, 4.0, 4.1)];
        let refused = Done { outcome: Outcome::Refused, ..done(3500, 1) };
        let calls = [
            [done(500, 10), done(1500, 400), done(1900, 150), done(2500, 1)],
            [done(3050, 1), done(4050, 1), refused, done(7200, 1)],
        ];
        let phases = Phases::of(&calls.concat(), &swaps, Duration::from_secs(1));
        let counts = [&phases.during, &phases.between, &phases.without].map(|phase| (phase.calls, phase.errors));
        assert_eq!(counts, [(2, 0), (3, 1), (2, 0)], "one was in the warm-up");
        assert_eq!(phases.between.latency.len(), 2, "a refusal has no latency");
        assert!(phases.without.latency.max() >= 400_000 && phases.during.latency.max() >= 150_000);
    }

    #[test]
    fn versions_take_turns() {
        let versions = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(["a", "b", "c", "other"].map(|current| following(&versions, current)), ["b", "c", "a", "a"]);
    }

    proptest! {
        #[test]
        fn every_call_is_in_one_phase(
            calls in prop::collection::vec((0u64..20_000, 0u64..500), 0..50),
            at in 0.0f64..10.0,
            kept: bool,
        ) {
            let calls: Vec<_> = calls.into_iter().map(|(due, latency)| done(due, latency)).collect();
            let phases = Phases::of(&calls, &[swap(kept, at, at + 1.0)], Duration::ZERO);
            prop_assert_eq!(phases.during.calls + phases.between.calls + phases.without.calls, calls.len() as u64);
            prop_assert!(!kept || phases.during.calls == 0);
        }
    }
}
