//! Rows a second, at most. Pure: the time is an argument.

use std::{num::NonZeroU32, time::Duration};

/// Lets a group of rows go, and the next one only after the time that it stands for. Time that nobody uses is gone: there is no burst
/// after a pause.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: NonZeroU32,
    ready: Duration,
}

impl Rate {
    /// The first may go at once.
    pub(crate) const fn new(per_second: NonZeroU32) -> Self {
        Self { per_second, ready: Duration::ZERO }
    }

    /// From when on rows may go; the time begins with the run.
    pub(crate) const fn ready(&self) -> Duration {
        self.ready
    }

    /// So many rows go.
    pub(crate) fn take(&mut self, rows: usize, now: Duration) {
        // Rows in a group are few, so that this is precise.
        let time = Duration::from_secs_f64(rows as f64 / f64::from(self.per_second.get()));
        self.ready = self.ready.max(now) + time;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In any time, no more rows go than it has room for, and one group; and it is never idle for nothing.
        #[test]
        fn no_time_has_more_rows_than_it_may(
            per_second in 1u32..5_000,
            groups in prop::collection::vec((1usize..256, 0u64..400), 1..60),
        ) {
            let mut rate = Rate::new(NonZeroU32::new(per_second).unwrap());
            let mut now = Duration::ZERO;
            let mut gone: Vec<(Duration, usize)> = Vec::new();
            for (rows, idle) in groups {
                let asked = now + Duration::from_millis(idle);
                let ready = rate.ready();
                now = asked.max(ready);
                if let Some((last, rows)) = gone.last() {
                    let earliest = *last + Duration::from_secs_f64(*rows as f64 / f64::from(per_second));
                    prop_assert!(ready <= earliest.max(asked) + Duration::from_micros(1));
                }
                rate.take(rows, now);
                gone.push((now, rows));
            }
            for from in 0..gone.len() {
                for to in from + 1..gone.len() {
                    let rows: usize = gone[from..to].iter().map(|(_, rows)| rows).sum();
                    let time = (gone[to].0 - gone[from].0).as_secs_f64();
                    prop_assert!(rows as f64 <= time * f64::from(per_second) + 0.01, "{} rows in {} s", rows, time);
                }
            }
        }
    }
}
