//! The 95th percentile of what was observed lately.

use std::time::{Duration, Instant};

/// Samples that are remembered.
const SAMPLES: usize = 128;
/// Fewer than this say nothing about a percentile.
const ENOUGH: usize = 20;
/// Samples older than this say nothing about now.
const FORGET: Duration = Duration::from_secs(10);

/// A window over the last observations.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    samples: [(Option<Instant>, Duration); SAMPLES],
    next: usize,
}

impl Recent {
    pub(super) const fn new() -> Self {
        Self { samples: [(None, Duration::ZERO); SAMPLES], next: 0 }
    }

    pub(super) fn record(&mut self, now: Instant, value: Duration) {
        self.samples[self.next] = (Some(now), value);
        self.next = (self.next + 1) % SAMPLES;
    }

    /// The 95th percentile, if enough is known.
    pub(super) fn p95(&self, now: Instant) -> Option<Duration> {
        let mut values = [Duration::ZERO; SAMPLES];
        let mut count = 0;
        for (when, value) in &self.samples {
            if when.is_some_and(|when| now.saturating_duration_since(when) < FORGET) {
                values[count] = *value;
                count += 1;
            }
        }
        if count < ENOUGH {
            return None;
        }
        let rank = (count * 95).div_ceil(100) - 1;
        Some(*values[..count].select_nth_unstable(rank).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_of_the_last_samples() {
        let now = Instant::now();
        let mut recent = Recent::new();
        for i in 0..19 {
            recent.record(now, Duration::from_millis(i));
        }
        assert_eq!(recent.p95(now), None);
        for i in 0..100 {
            recent.record(now, Duration::from_millis(i + 1));
        }
        for _ in 0..28 {
            recent.record(now, Duration::ZERO);
        }
        // 100 samples of 1 to 100 ms and 28 of zero: the 122nd of 128.
        assert_eq!(recent.p95(now), Some(Duration::from_millis(94)));
        assert_eq!(recent.p95(now + FORGET), None);
    }
}
