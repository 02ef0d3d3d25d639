//! Gathers what workers publish into evidence. Reports may come in any order, late, or twice.

use std::collections::BTreeMap;

use embed_schemas::{Lane, Slug, VariantStats, WindowCounts};

use super::{Arm, Evidence};

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
        Self { model, baseline, candidate, window_ms: window_ms.max(1), lanes, windows: BTreeMap::new() }
    }

    /// Takes a report. The same window again replaces what was there only if it holds more, so that neither the order nor
    /// a repetition matters.
    ///
    /// # Errors
    /// If it cannot be counted; nothing has changed then.
    pub fn add(&mut self, report: VariantStats) -> Result<(), Rejected> {
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
        let window = self.windows.entry((report.start_ms, candidate, report.lane, report.worker)).or_default();
        let size = |w: &WindowCounts| (w.requests, w.texts, w.busy_us, w.failed(), w.tokens, w.batches, w.batch_texts);
        if size(&report.counts) > size(window) {
            *window = report.counts;
        }
        Ok(())
    }

    /// Forgets windows that begin before this time.
    pub fn forget_before(&mut self, ms: u64) {
        self.windows.retain(|key, _| key.0 >= ms);
    }

    /// The evidence of the windows that lie wholly within `from_ms..until_ms`. To give late reports their time, pass an
    /// `until_ms` that lies a little back; a report that is later still counts from the next look on.
    #[must_use]
    pub fn evidence(&self, candidate_percent: f64, from_ms: u64, until_ms: u64) -> Evidence {
        let length = u64::from(self.window_ms);
        let from_ms = from_ms.div_ceil(length) * length;
        let count = usize::try_from(until_ms.saturating_sub(from_ms) / length).unwrap_or(0);
        let mut arms = [&self.baseline, &self.candidate]
            .map(|variant| Arm { variant: variant.clone(), windows: vec![WindowCounts::default(); count] });
        for ((start, candidate, ..), counts) in &self.windows {
            let Some(at) = start.checked_sub(from_ms).and_then(|ms| usize::try_from(ms / length).ok()) else {
                continue;
            };
            if let Some(window) = arms[usize::from(*candidate)].windows.get_mut(at) {
                window.merge(counts);
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
