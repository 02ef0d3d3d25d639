//! A stage's windows as they become due: when one is complete enough to be judged, what is in it, and what reports that came later have
//! made of those before it. All times are the server's.

use std::collections::VecDeque;

use embed_schemas::VariantStats;

use crate::{
    Collector, Evidence, PAUSED_WINDOWS, Rollout,
    evidence::Rejected,
    record::{Late, PausedWindows, StageRecord, Window, window_ms},
};

/// How long after its end a window is waited for at least: a report has to come from the worker, through the stream.
pub const LATE_MS: u64 = 2_000;
/// How long it is waited for if a worker that was there has not reported.
pub const VERY_LATE_MS: u64 = 10_000;
/// Windows that are still looked at after they were judged. What reports on older ones say is left out.
const LOOKED_BACK: u32 = 24;
/// Windows before those that have to be read, so that workers' clocks are known.
const READ_BEFORE: u32 = 4;

/// Follows a stage.
#[derive(Debug, Clone)]
pub struct Follower {
    collector: Collector,
    record: StageRecord,
    percent: f64,
    length: u64,
}

/// What there is to be kept before the next verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// The next window, unless it is on record.
    pub window: Option<Window>,
    /// What late reports have changed of those before, unless that is.
    pub late: Option<Late>,
}

impl Follower {
    /// Takes a stage up where its record stands.
    #[must_use]
    pub fn new(rollout: &Rollout, record: StageRecord) -> Self {
        Self {
            collector: collector(rollout),
            percent: rollout.percent_of(record.stage.step),
            length: u64::from(window_ms(rollout)).max(1),
            record,
        }
    }

    /// The record so far.
    #[must_use]
    pub const fn record(&self) -> &StageRecord {
        &self.record
    }

    /// The record, to be added to: what was kept, or what another had kept before.
    pub const fn record_mut(&mut self) -> &mut StageRecord {
        &mut self.record
    }

    /// From when on reports have to be read: those before do not matter any more. `judged` windows have been judged.
    #[must_use]
    pub fn read_from_ms(&self, judged: u32) -> u64 {
        self.begin(judged.saturating_sub(LOOKED_BACK + READ_BEFORE))
    }

    /// Takes a report, see [`Collector::add`].
    ///
    /// # Errors
    /// If it cannot be counted.
    pub fn add(&mut self, report: VariantStats, stored_ms: u64) -> Result<(), Rejected> {
        self.collector.add(report, Some(stored_ms))
    }

    /// Whether the next window can be judged, when so many have been and all reports until `now_ms` are here.
    #[must_use]
    pub fn is_due(&self, judged: u32, now_ms: u64) -> bool {
        is_complete(&self.collector, self.begin(judged + 1), now_ms)
    }

    /// The next window, and what has become of those before.
    pub fn due(&mut self, judged: u32) -> Due {
        let first = judged.saturating_sub(LOOKED_BACK);
        self.collector.forget_before(self.begin(first));
        let (from, until) = (self.begin(first), self.begin(judged + 1));
        let evidence = self.collector.evidence(self.percent, self.record.stage.from_ms, from, until);
        let mut found = Window::all(evidence);
        let next = found.pop().filter(|_| self.record.windows.len() <= judged as usize);
        let windows = judged + 1;
        let known = self.record.late.iter().any(|late| late.windows == windows);
        let before = self.record.effective(windows);
        let changed = (first..judged).zip(found);
        // Reports add to windows, and take nothing away.
        let more = |at: u32, now: &Window| before.get(at as usize).is_some_and(|then| now.reported() > then.reported());
        let changed: Vec<_> = changed.filter(|(at, now)| !known && next.is_some() && more(*at, now)).collect();
        Due { window: next, late: (!changed.is_empty()).then_some(Late { windows, changed }) }
    }

    /// The evidence of the first windows.
    #[must_use]
    pub fn evidence(&self, rollout: &Rollout, windows: u32, probes: Option<&[f64]>) -> Evidence {
        self.record.evidence(rollout, windows, probes)
    }

    fn begin(&self, window: u32) -> u64 {
        self.record.stage.from_ms + u64::from(window) * self.length
    }
}

/// Follows a paused rollout: its last windows, and no more, however long the pause.
#[derive(Debug, Clone)]
pub struct PausedFollower {
    collector: Collector,
    percent: f64,
    /// When the stage began.
    since_ms: u64,
    length: u64,
    /// Beginning of the next window.
    next_ms: u64,
    windows: VecDeque<Window>,
}

impl PausedFollower {
    /// Follows from now on. `None` if nothing was being gathered when it was paused.
    #[must_use]
    pub fn new(rollout: &Rollout, now_ms: u64) -> Option<Self> {
        let stage = rollout.stage()?;
        let length = u64::from(window_ms(rollout)).max(1);
        Some(Self {
            collector: collector(rollout),
            percent: rollout.percent_of(stage.step),
            since_ms: stage.from_ms,
            length,
            next_ms: now_ms.div_ceil(length) * length,
            windows: VecDeque::new(),
        })
    }

    /// Takes a report, see [`Collector::add`].
    ///
    /// # Errors
    /// If it cannot be counted.
    pub fn add(&mut self, report: VariantStats, stored_ms: u64) -> Result<(), Rejected> {
        self.collector.add(report, Some(stored_ms))
    }

    /// The last windows, if another one is over and all reports until `now_ms` are here.
    pub fn next(&mut self, now_ms: u64) -> Option<PausedWindows> {
        let until = self.next_ms + self.length;
        if !is_complete(&self.collector, until, now_ms) {
            return None;
        }
        let evidence = self.collector.evidence(self.percent, self.since_ms, self.next_ms, until);
        self.collector.forget_before(self.next_ms);
        self.windows.extend(Window::all(evidence));
        if self.windows.len() > PAUSED_WINDOWS {
            self.windows.pop_front();
        }
        self.next_ms = until;
        let from_ms = until - self.windows.len() as u64 * self.length;
        Some(PausedWindows { from_ms, windows: self.windows.iter().cloned().collect() })
    }
}

fn collector(rollout: &Rollout) -> Collector {
    let (model, from, to) = (rollout.model.clone(), rollout.from.clone(), rollout.to.clone());
    Collector::new(model, from, to, window_ms(rollout), &rollout.lanes)
}

fn is_complete(collector: &Collector, until_ms: u64, now_ms: u64) -> bool {
    now_ms >= until_ms + LATE_MS && (!collector.waits_for(until_ms) || now_ms >= until_ms + VERY_LATE_MS)
}
