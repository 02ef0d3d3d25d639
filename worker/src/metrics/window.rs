//! What a variant did within a window of a few seconds, lane by lane: what the decisions of a rollout are made from.

use std::time::Duration;

use embed_engine::runner::RunStats;
use embed_schemas::{ErrorCode, Lane, latency::LatencyRecorder, stats::WindowCounts};
use parking_lot::{Mutex, MutexGuard};

/// The current window of one variant. One short lock for each request and for each run.
#[derive(Debug, Default)]
pub struct Window {
    lanes: [Mutex<Counting>; 3],
}

#[derive(Debug, Default)]
struct Counting {
    counts: WindowCounts,
    latency: LatencyRecorder,
}

impl Window {
    fn lane(&self, lane: Lane) -> MutexGuard<'_, Counting> {
        self.lanes[lane.index()].lock()
    }

    /// A request's outcome is out.
    pub(super) fn finished(&self, lane: Lane, took: Duration, error: Option<ErrorCode>) {
        let mut counting = self.lane(lane);
        counting.counts.requests += 1;
        match error {
            Some(code) => *counting.counts.errors.entry(code).or_default() += 1,
            None => counting.latency.record(micros(took)),
        }
    }

    /// A batch was run. Its texts are of one lane.
    pub(super) fn ran(&self, stats: &RunStats) {
        let counts = &mut self.lane(stats.lane).counts;
        counts.texts += stats.texts as u64;
        counts.tokens += stats.tokens as u64;
        counts.batches += 1;
        counts.batch_texts += stats.texts as u64;
        counts.busy_us += micros(stats.took);
    }

    /// What happened in this lane since the last call.
    pub fn take(&self, lane: Lane) -> WindowCounts {
        let mut counting = self.lane(lane);
        let mut counts = std::mem::take(&mut counting.counts);
        counts.latency_us = counting.latency.take();
        counts
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_came_since_the_one_before() {
        let window = Window::default();
        window.finished(Lane::Rpc, Duration::from_millis(3), None);
        window.finished(Lane::Rpc, Duration::from_micros(20), Some(ErrorCode::Overloaded));
        window.finished(Lane::Job, Duration::from_millis(7), None);
        let rpc = window.take(Lane::Rpc);
        assert_eq!((rpc.requests, rpc.failed(), rpc.latency_us.count()), (2, 1, 1));
        assert!(rpc.latency_us.quantile(0.5).unwrap() > 2_900.0, "a refusal's latency does not count");
        assert_eq!(window.take(Lane::Rpc), WindowCounts::default());
        assert_eq!(window.take(Lane::Job).requests, 1);
    }
}
