//! What a variant did within a window of a few seconds, lane by lane: what the decisions of a rollout are made from.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use embed_engine::runner::RunStats;
use embed_schemas::{
    Earlier, ErrorCode, Lane,
    latency::LatencyRecorder,
    stats::{MAX_EARLIER, WindowCounts},
};
use parking_lot::{Mutex, MutexGuard};

/// The current window of one variant. One short lock for each request and for each run.
#[derive(Debug, Default)]
pub struct Window {
    lanes: [Mutex<Counting>; 3],
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// From its arrival here on.
    pub(super) took: Duration,
    /// From its publication until its arrival.
    pub(super) age: Duration,
    /// What it failed of.
    pub(super) error: Option<ErrorCode>,
    /// Whether that was its caller's doing.
    pub(super) by_caller: bool,
}

/// How windows are taken to be before the first has ended, and said how long they are. That one may have begun long before it counts, while the
/// model was being loaded.
const FIRST_LENGTH: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Counting {
    counts: WindowCounts,
    latency: LatencyRecorder,
    /// When the window began, and how long windows are.
    begun: Instant,
    length: Duration,
    /// What was published before it, by how many windows.
    earlier: BTreeMap<u64, Earlier>,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            counts: WindowCounts::default(),
            latency: LatencyRecorder::default(),
            begun: Instant::now(),
            length: FIRST_LENGTH,
            earlier: BTreeMap::new(),
        }
    }
}

impl Counting {
    /// How many windows before this one it was published.
    fn windows_ago(&self, since_publication: Duration) -> u64 {
        let before = since_publication.saturating_sub(self.begun.elapsed());
        let windows = before.as_nanos().div_ceil(self.length.as_nanos().max(1));
        u64::try_from(windows).unwrap_or(u64::MAX)
    }

    fn published_earlier(&mut self, windows: u64, ended: &Ended) {
        let part = self.earlier.entry(windows).or_default();
        part.requests += 1;
        match ended.error {
            Some(code) => *part.errors.entry(code).or_default() += 1,
            None => part.latency_us.record(micros(ended.took)),
        }
        if let (Some(code), true) = (ended.error, ended.by_caller) {
            *part.by_caller.entry(code).or_default() += 1;
        }
        if self.earlier.len() > MAX_EARLIER {
            // The oldest two: what was before one is before the other.
            let (newer, oldest) = (self.earlier.keys().rev().nth(1).copied(), self.earlier.last_entry());
            if let (Some(newer), Some(mut oldest)) = (newer, oldest) {
                let mut sum = std::mem::take(oldest.get_mut());
                let windows = *oldest.key();
                sum.merge(&self.earlier.remove(&newer).unwrap_or_default());
                self.earlier.insert(windows, sum);
            }
        }
    }
}

impl Window {
    fn lane(&self, lane: Lane) -> MutexGuard<'_, Counting> {
        self.lanes[lane.index()].lock()
    }

    /// A request's outcome is out.
    pub(super) fn finished(&self, lane: Lane, ended: &Ended) {
        let mut counting = self.lane(lane);
        counting.counts.requests += 1;
        match ended.error {
            Some(code) => *counting.counts.errors.entry(code).or_default() += 1,
            None => counting.latency.record(micros(ended.took)),
        }
        if let (Some(code), true) = (ended.error, ended.by_caller) {
            *counting.counts.by_caller.entry(code).or_default() += 1;
        }
        let windows = counting.windows_ago(ended.age.saturating_add(ended.took));
        if windows > 0 {
            counting.published_earlier(windows, ended);
        }
    }

    /// A batch was run. Its texts are of one lane.
    pub(super) fn ran(&self, stats: &RunStats) {
        let counts = &mut self.lane(stats.lane).counts;
        counts.texts += stats.texts as u64;
        counts.tokens += stats.tokens as u64;
        counts.batches += 1;
        counts.batch_texts += stats.texts as u64;
        counts.busy_us += micros(stats.busy);
    }

    /// What happened in this lane since the last call, which was the window that began at `start_ms`; the next one begins now.
    pub fn take(&self, lane: Lane, start_ms: u64, length_ms: u32) -> WindowCounts {
        let mut counting = self.lane(lane);
        let mut counts = std::mem::take(&mut counting.counts);
        counts.latency_us = counting.latency.take();
        let earlier = std::mem::take(&mut counting.earlier).into_iter().rev();
        let length = u64::from(length_ms).max(1);
        let since = |moment: Instant| u64::try_from(moment.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Whole windows: what it takes to wake up at the end of one counts for nothing.
        let begun_before = since(counting.begun).saturating_sub(length) / length;
        let unit = u64::try_from(counting.length.as_millis()).unwrap_or(u64::MAX);
        let dated = earlier.map(|(units, part)| Earlier {
            published_ms: {
                let windows = units.saturating_mul(unit).div_ceil(length).saturating_add(begun_before);
                start_ms.saturating_sub(windows.saturating_mul(length))
            },
            ..part
        });
        counts.earlier = dated.collect();
        // What is older than time itself was published at its beginning.
        counts.earlier.dedup_by(|newer, older| {
            let same = newer.published_ms == older.published_ms;
            if same {
                older.merge(newer);
            }
            same
        });
        (counting.begun, counting.length) = (Instant::now(), Duration::from_millis(u64::from(length_ms)));
        counts
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(took: Duration, age: Duration, error: Option<ErrorCode>) -> Ended {
        Ended { took, age, error, by_caller: error == Some(ErrorCode::InvalidRequest) }
    }

    #[test]
    fn a_window_holds_what_came_since_the_one_before() {
        let window = Window::default();
        window.finished(Lane::Rpc, &ended(Duration::from_millis(3), Duration::ZERO, None));
        window.finished(Lane::Rpc, &ended(Duration::from_micros(20), Duration::ZERO, Some(ErrorCode::Overloaded)));
        window.finished(Lane::Rpc, &ended(Duration::from_micros(20), Duration::ZERO, Some(ErrorCode::InvalidRequest)));
        window.finished(Lane::Job, &ended(Duration::from_millis(7), Duration::ZERO, None));
        let rpc = window.take(Lane::Rpc, 0, 5_000);
        assert_eq!((rpc.requests, rpc.failed(), rpc.latency_us.count()), (3, 2, 1));
        assert_eq!(rpc.by_caller, [(ErrorCode::InvalidRequest, 1)].into());
        assert!(rpc.latency_us.quantile(0.5).unwrap() > 2_900.0, "a refusal's latency does not count");
        assert_eq!(window.take(Lane::Rpc, 5_000, 5_000), WindowCounts::default());
        assert_eq!(window.take(Lane::Job, 0, 5_000).requests, 1);
    }

    #[test]
    fn in_the_first_window_too() {
        let window = Window::default();
        window.finished(Lane::Job, &ended(Duration::ZERO, Duration::from_secs(60), None));
        let counts = window.take(Lane::Job, 600_000, 10_000);
        assert_eq!(counts.earlier.iter().map(|part| part.published_ms).collect::<Vec<_>>(), [540_000]);
        // It had begun long before it counts, while the model was being loaded.
        let window = Window::default();
        window.lane(Lane::Job).begun = Instant::now().checked_sub(Duration::from_secs(25)).unwrap();
        window.finished(Lane::Job, &ended(Duration::ZERO, Duration::from_secs(60), None));
        let counts = window.take(Lane::Job, 600_000, 10_000);
        // 35 s before it began, which was a window and a half before the one that counts.
        assert_eq!(counts.earlier.iter().map(|part| part.published_ms).collect::<Vec<_>>(), [550_000]);
    }

    #[test]
    fn what_was_published_earlier_is_told_apart() {
        let window = Window::default();
        let minutes = |n: u64| Duration::from_secs(60 * n);
        window.take(Lane::Job, 600_000, 60_000);
        // In the window before, in the one before that, and in this one.
        for age in [minutes(0), minutes(1), minutes(2), minutes(2)] {
            window.finished(Lane::Job, &ended(Duration::ZERO, age, None));
        }
        let counts = window.take(Lane::Job, 660_000, 60_000);
        let published: Vec<_> = counts.earlier.iter().map(|part| (part.published_ms, part.requests)).collect();
        assert_eq!((counts.requests, published), (4, vec![(540_000, 2), (600_000, 1)]));
        assert!(counts.earlier.iter().all(|part| part.latency_us.count() == part.requests));
        // However many there are, there are no more entries than this, and none is taken for newer than it is.
        (1..=100).for_each(|n| window.finished(Lane::Job, &ended(Duration::ZERO, minutes(n), None)));
        let counts = window.take(Lane::Job, 720_000_000, 60_000);
        assert_eq!((counts.requests, counts.earlier.len()), (100, MAX_EARLIER));
        assert_eq!((counts.earlier[0].published_ms, counts.earlier[0].requests), (720_000_000 - 6_000_000, 85));
        assert!(counts.earlier.is_sorted_by_key(|part| part.published_ms));
    }
}
