//! Gathers what workers publish into evidence. Reports may come in any order, late, or twice, and from workers whose clocks are off.

use std::collections::{BTreeMap, VecDeque};

use embed_schemas::{Lane, Slug, VariantStats, WindowCounts};

use super::{Arm, Backlog, Evidence, since};

/// Which window of which worker.
type Key = (u64, bool, Lane, String);

/// Gathers the windows of both arms.
#[derive(Debug, Clone)]
pub struct Collector {
    model: Slug,
    baseline: Slug,
    candidate: Slug,
    window_ms: u32,
    lanes: Vec<Lane>,
    windows: BTreeMap<Key, WindowCounts>,
    workers: BTreeMap<String, Clock>,
    /// What begins before it is forgotten.
    forgotten_ms: u64,
}

/// Reports of a worker by which its clock is known.
const CLOCK_REPORTS: usize = 16;
/// A report may be under way for so long. Only beyond it is it the worker's clock that is wrong.
const UNDER_WAY_MS: i64 = 2_000;
/// A worker of which nothing was heard for so many windows is not waited for.
const SILENT: u64 = 4;

/// Workers, and windows of all of them, that are gathered at most: whoever reports under more and more names fills no memory.
const MOST_WORKERS: usize = 4_096;
const MOST_WINDOWS: usize = 1 << 18;

/// What is known of a worker's clock: how long after the end of its windows, by that clock, the server had its reports.
#[derive(Debug, Clone, Default)]
struct Clock {
    delays_ms: VecDeque<i64>,
    /// The end of its last window, by its clock.
    last_end_ms: u64,
}

impl Clock {
    fn saw(&mut self, end_ms: u64, stored_ms: Option<u64>) {
        if let Some(stored_ms) = stored_ms {
            // Its lanes and variants have one window each.
            if end_ms != self.last_end_ms || self.delays_ms.is_empty() {
                self.delays_ms.push_back(stored_ms.cast_signed().saturating_sub(end_ms.cast_signed()));
            }
            if self.delays_ms.len() > CLOCK_REPORTS {
                self.delays_ms.pop_front();
            }
        }
        self.last_end_ms = self.last_end_ms.max(end_ms);
    }

    /// What is to be added to its times, whole windows. The report that was quickest tells: others may have been held up.
    fn shift_ms(&self, window_ms: u32) -> i64 {
        let length = i64::from(window_ms);
        let Some(delay) = self.delays_ms.iter().min() else { return 0 };
        if (-length / 2..=UNDER_WAY_MS.max(length / 2)).contains(delay) {
            return 0;
        }
        (delay + delay.signum() * length / 2) / length * length
    }
}

/// Why a report is not counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Its windows cannot be laid beside the others.
    #[error(
        "worker {worker} reports windows of {found_ms} ms, the rollout's have {wanted_ms} ms: set the same length everywhere"
    )]
    Length {
        /// The worker.
        worker: String,
        /// Its windows.
        found_ms: u32,
        /// The rollout's.
        wanted_ms: u32,
    },
    /// It is of another model, variant or lane.
    #[error("{model}/{variant}, lane {lane}, is no part of this rollout")]
    Foreign {
        /// The model.
        model: Slug,
        /// The variant.
        variant: Slug,
        /// The lane.
        lane: Lane,
    },
    /// There are more workers, or more of their windows, than can be.
    #[error("worker {worker}: {MOST_WORKERS} workers and {MOST_WINDOWS} of their windows are gathered at most")]
    TooMany {
        /// The worker.
        worker: String,
    },
    /// The report contradicts itself.
    #[error("worker {worker}: {message}")]
    Invalid {
        /// The worker.
        worker: String,
        /// What is wrong.
        message: String,
    },
}

impl Collector {
    /// Gathers two variants of a model. `lanes` are the lanes that are judged; empty means all.
    #[must_use]
    pub fn new(model: Slug, baseline: Slug, candidate: Slug, window_ms: u32, lanes: &[Lane]) -> Self {
        let lanes = if lanes.is_empty() { Lane::ALL.to_vec() } else { lanes.to_vec() };
        Self {
            model,
            baseline,
            candidate,
            window_ms: window_ms.max(1),
            lanes,
            windows: BTreeMap::new(),
            workers: BTreeMap::new(),
            forgotten_ms: 0,
        }
    }

    /// Takes a report. The same window again replaces what was there only if it holds more, so that neither the order nor
    /// a repetition matters. `stored_ms` is when the server had it, by the server's clock: that shows whose clock is wrong.
    ///
    /// # Errors
    /// If it cannot be counted; nothing has changed then.
    pub fn add(&mut self, report: VariantStats, stored_ms: Option<u64>) -> Result<(), Rejected> {
        let VariantStats { model, variant, lane, worker, length_ms, .. } = &report;
        let candidate = *variant == self.candidate;
        if *model != self.model || !self.lanes.contains(lane) || !(candidate || *variant == self.baseline) {
            return Err(Rejected::Foreign { model: model.clone(), variant: variant.clone(), lane: *lane });
        }
        if *length_ms != self.window_ms {
            return Err(Rejected::Length { worker: worker.clone(), found_ms: *length_ms, wanted_ms: self.window_ms });
        }
        if let Err(error) = report.validate() {
            return Err(Rejected::Invalid { worker: report.worker, message: error.message });
        }
        let full = |there: bool, count: usize, most: usize| !there && count >= most;
        let key = (report.start_ms, candidate, report.lane, report.worker.clone());
        if full(self.workers.contains_key(&report.worker), self.workers.len(), MOST_WORKERS)
            || full(self.windows.contains_key(&key), self.windows.len(), MOST_WINDOWS)
        {
            return Err(Rejected::TooMany { worker: report.worker });
        }
        let clock = self.workers.entry(report.worker.clone()).or_default();
        clock.saw(report.end_ms(), stored_ms);
        if report.start_ms.saturating_add_signed(clock.shift_ms(self.window_ms)) < self.forgotten_ms {
            return Ok(());
        }
        let window = self.windows.entry(key).or_default();
        let size = |w: &WindowCounts| (w.requests, w.texts, w.busy_us, w.failed(), w.tokens, w.batches, w.batch_texts);
        if size(&report.counts) > size(window) {
            *window = report.counts;
        }
        Ok(())
    }

    /// Forgets windows that begin before this time, also those that are still to come.
    pub fn forget_before(&mut self, ms: u64) {
        self.forgotten_ms = self.forgotten_ms.max(ms);
        let (workers, window_ms) = (&self.workers, self.window_ms);
        let shift = |worker: &str| workers.get(worker).map_or(0, |clock| clock.shift_ms(window_ms));
        self.windows.retain(|key, _| key.0.saturating_add_signed(shift(&key.3)) >= ms);
        // Whoever has been silent for an hour comes back as somebody new.
        self.workers.retain(|_, clock| clock.last_end_ms.saturating_add(3_600_000) >= ms);
    }

    /// Whether the windows until this time are incomplete: a worker that was there lately has not reported that far.
    #[must_use]
    pub fn waits_for(&self, until_ms: u64) -> bool {
        let long_ago = until_ms.saturating_sub(SILENT * u64::from(self.window_ms));
        self.workers.values().any(|clock| {
            let last = clock.last_end_ms.saturating_add_signed(clock.shift_ms(self.window_ms));
            last < until_ms && last >= long_ago
        })
    }

    /// The evidence of the windows that lie wholly within `from_ms..until_ms`, without what was published before `since_ms`. To give late
    /// reports their time, pass an `until_ms` that lies a little back.
    #[must_use]
    pub fn evidence(&self, candidate_percent: f64, since_ms: u64, from_ms: u64, until_ms: u64) -> Evidence {
        let length = u64::from(self.window_ms);
        let from_ms = from_ms.div_ceil(length) * length;
        let count = usize::try_from(until_ms.saturating_sub(from_ms) / length).unwrap_or(0);
        let mut arms = [&self.baseline, &self.candidate].map(|variant| Arm {
            variant: variant.clone(),
            windows: vec![WindowCounts::default(); count],
            backlog: vec![Backlog::default(); count],
        });
        let shifts: BTreeMap<&str, i64> =
            self.workers.iter().map(|(name, clock)| (name.as_str(), clock.shift_ms(self.window_ms))).collect();
        for ((start, candidate, _, worker), counts) in &self.windows {
            let start = start.saturating_add_signed(shifts.get(worker.as_str()).copied().unwrap_or_default());
            let Some(at) = start.checked_sub(from_ms).and_then(|ms| usize::try_from(ms / length).ok()) else {
                continue;
            };
            let arm = &mut arms[usize::from(*candidate)];
            if let Some(window) = arm.windows.get_mut(at) {
                let (counts, backlog) = since(counts, start, self.window_ms, since_ms);
                window.merge(&counts);
                arm.backlog[at].left_out += backlog.left_out;
                arm.backlog[at].waited += backlog.waited;
            }
        }
        let [baseline, candidate] = arms;
        Evidence {
            candidate_percent,
            from_ms,
            window_ms: self.window_ms,
            baseline,
            candidate,
            probes: None,
            reference: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_names_or_of_windows_fills_no_memory() {
        let slug = |name: &str| name.parse::<Slug>().unwrap();
        let empty = || Collector::new(slug("m"), slug("a"), slug("b"), 1, &[]);
        let report = |worker: String, start_ms: u64| VariantStats {
            model: slug("m"),
            variant: slug("b"),
            version: "v1".to_owned(),
            lane: Lane::Rpc,
            worker,
            start_ms,
            length_ms: 1,
            counts: WindowCounts { requests: 1, ..WindowCounts::default() },
        };
        let mut collector = empty();
        let refused = (0..MOST_WORKERS + 5).filter(|n| collector.add(report(format!("w{n}"), 7), None).is_err());
        assert_eq!(refused.count(), 5);
        // Those that are there go on.
        assert!(collector.add(report("w0".to_owned(), 8), None).is_ok());
        let mut collector = empty();
        let refused = (0..MOST_WINDOWS as u64 + 5).filter(|n| collector.add(report("w".to_owned(), *n), None).is_err());
        assert_eq!(refused.count(), 5);
    }
}
