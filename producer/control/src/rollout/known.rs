//! Whose reports count: those of workers that discovery knows, and of variants that they say they serve.
//!
//! Statistics come on a subject on which anybody may publish who is permitted to. A report of somebody whom discovery does not know is no evidence,
//! whatever it says; one of a worker that has just come waits until discovery has been asked again. Discovery itself believes who answers: only
//! permissions keep others from answering, and what they could do is bounded there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use embed_client::{Client, WorkerInfo};
use embed_schemas::{Slug, VariantStats, shadow::ShadowStats};

use crate::Error;

/// Workers that are remembered.
const MOST: usize = 4_096;
/// For so long after it was last known, a worker's reports count: it may have been too busy to answer, or be gone since.
const REMEMBERED_MS: u64 = 600_000;
/// Reports that may wait until discovery is asked again.
const MOST_WAITING: usize = 1_024;
/// Characters of a name that is nobody's, in a log.
const SHOWN: usize = 40;

/// The workers that discovery knows, or did a while ago.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeMap<String, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    serves: BTreeSet<(Slug, Slug)>,
    last_ms: u64,
}

/// A report, with what it says of where it comes from.
pub(super) trait Report {
    /// The worker, and the model and variant that it reports on.
    fn of(&self) -> (&str, &Slug, &Slug);
}

impl Report for VariantStats {
    fn of(&self) -> (&str, &Slug, &Slug) {
        (&self.worker, &self.model, &self.variant)
    }
}

impl Report for ShadowStats {
    fn of(&self) -> (&str, &Slug, &Slug) {
        (&self.worker, &self.model, &self.variant)
    }
}

impl Known {
    /// Asks all workers what they serve, and remembers who they are.
    ///
    /// # Errors
    /// If nobody can be asked.
    pub(super) async fn ask(&self, client: &Client, now_ms: u64) -> Result<Vec<WorkerInfo>, Error> {
        let workers = client.workers().await?;
        self.saw(&workers, now_ms);
        Ok(workers)
    }

    fn saw(&self, workers: &[WorkerInfo], now_ms: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, seen| seen.last_ms.saturating_add(REMEMBERED_MS) >= now_ms);
        for worker in workers.iter().filter(|worker| !worker.id.is_empty()) {
            if known.len() >= MOST && !known.contains_key(&worker.id) {
                continue;
            }
            let seen = known.entry(worker.id.clone()).or_default();
            seen.serves = worker.variants.keys().cloned().collect();
            seen.last_ms = now_ms;
        }
    }

    /// Whether a report counts.
    pub(super) fn counts(&self, report: &impl Report) -> bool {
        let (worker, model, variant) = report.of();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(worker).is_some_and(|seen| seen.serves.contains(&(model.clone(), variant.clone())))
    }
}

/// Reports of workers that were not known when they came.
#[derive(Debug)]
pub(super) struct Waiting<T>(Vec<(u64, T)>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Report> Waiting<T> {
    /// Discovery has been asked again: those that count now. The others are left out, for good.
    pub(super) fn settle(&mut self, known: &Known) -> Vec<(u64, T)> {
        let (count, strange): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|(_, report)| known.counts(report));
        if let Some((_, first)) = strange.first() {
            let worker: String = first.of().0.chars().take(SHOWN).collect();
            let reports = strange.len();
            tracing::warn!(reports, ?worker, "reports of workers that discovery does not know are left out");
        }
        count
    }

    /// Those that count; the others wait, as far as there is room.
    pub(super) fn sort(&mut self, reports: Vec<(u64, T)>, known: &Known) -> Vec<(u64, T)> {
        let (count, strange): (Vec<_>, Vec<_>) = reports.into_iter().partition(|(_, report)| known.counts(report));
        let room = MOST_WAITING.saturating_sub(self.0.len());
        self.0.extend(strange.into_iter().take(room));
        count
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{
        Lane, WindowCounts,
        serving::{VariantState, VariantStatus},
    };

    use super::*;

    fn worker(id: &str, variant: &str) -> WorkerInfo {
        let status = VariantStatus {
            state: VariantState::Live,
            default: true,
            wanted: "current".into(),
            live: None,
            previous: None,
            failed: None,
        };
        let variants = [(("m".parse().unwrap(), variant.parse().unwrap()), status)].into();
        WorkerInfo { id: id.to_owned(), variants }
    }

    fn report(worker: &str, variant: &str) -> VariantStats {
        VariantStats {
            model: "m".parse().unwrap(),
            variant: variant.parse().unwrap(),
            version: "v1".into(),
            lane: Lane::Rpc,
            worker: worker.into(),
            start_ms: 0,
            length_ms: 1_000,
            counts: WindowCounts::default(),
        }
    }

    #[test]
    fn only_workers_that_discovery_knows_count_and_for_what_they_serve() {
        let known = Known::default();
        known.saw(&[worker("w", "a"), worker("", "a")], 0);
        assert!(known.counts(&report("w", "a")));
        for (who, variant) in [("w", "b"), ("forged", "a"), ("", "a")] {
            assert!(!known.counts(&report(who, variant)), "{who} {variant}");
        }
        // Too busy to answer, and then gone.
        known.saw(&[], REMEMBERED_MS);
        assert!(known.counts(&report("w", "a")));
        known.saw(&[], REMEMBERED_MS + 1);
        assert!(!known.counts(&report("w", "a")));
    }

    #[test]
    fn a_worker_that_has_just_come_is_asked_for_before_its_reports_are_left_out() {
        let (known, mut waiting) = (Known::default(), Waiting::default());
        let all = ["new", "forged"].map(|who| (7, report(who, "a")));
        assert!(waiting.sort(all.into(), &known).is_empty());
        known.saw(&[worker("new", "a")], 0);
        assert_eq!(waiting.settle(&known), [(7, report("new", "a"))]);
        assert!(waiting.settle(&known).is_empty());
    }

    #[test]
    fn a_flood_of_names_fills_no_memory() {
        let (known, mut waiting) = (Known::default(), Waiting::default());
        let names = |n: usize| format!("w{n}");
        known.saw(&(0..MOST + 9).map(|n| worker(&names(n), "a")).collect::<Vec<_>>(), 0);
        assert_eq!(known.0.lock().unwrap().len(), MOST);
        let flood = (0..MOST_WAITING + 9).map(|n| (0, report(&format!("forged{n}"), "a"))).collect();
        assert!(waiting.sort(flood, &known).is_empty() && waiting.0.len() == MOST_WAITING);
    }
}
