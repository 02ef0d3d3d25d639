//! A bucket of what may be used in a minute. Pure: time is an argument.

use std::time::Duration;

/// How long a full bucket takes to fill.
const MINUTE: f64 = 60.0;

/// Holds a minute's worth at most, and fills evenly. It may owe something: what had to be paid later than it was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    level: f64,
    /// When the level was so, since the same moment for all.
    at: Duration,
}

/// What may be used in a minute.
pub(crate) type PerMinute = u64;

impl Bucket {
    /// A full one.
    pub(crate) fn full(most: PerMinute, now: Duration) -> Self {
        Self { level: most as f64, at: now }
    }

    /// Takes so much, if it is there; what is more than a minute's worth, from a full bucket. Otherwise: when to come again.
    pub(crate) fn take(&mut self, amount: u64, most: PerMinute, now: Duration) -> Result<(), Duration> {
        match self.wait_for(amount, 0, most, now) {
            Some(pause) => Err(pause),
            None => {
                self.level -= amount as f64;
                Ok(())
            }
        }
    }

    /// How long it takes until so much can be taken and `rest` is left. `None`: it is there.
    pub(crate) fn wait_for(&mut self, amount: u64, rest: u64, most: PerMinute, now: Duration) -> Option<Duration> {
        self.fill(most, now);
        let rest = rest.min(most);
        let missing = (amount.min(most - rest) + rest) as f64 - self.level;
        let seconds = missing * MINUTE / most.max(1) as f64;
        (missing > 0.0).then(|| Duration::from_secs_f64(seconds.clamp(0.001, 3600.0)))
    }

    /// Corrects what was taken by estimate to what it was indeed.
    pub(crate) fn settle(&mut self, taken: u64, used: u64, most: PerMinute) {
        self.level = (self.level + taken as f64 - used as f64).min(most as f64);
    }

    /// What is there, in whole units.
    pub(crate) fn left(&self) -> u64 {
        self.level.max(0.0) as u64
    }

    fn fill(&mut self, most: PerMinute, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.level = (self.level + passed * most as f64 / MINUTE).min(most as f64);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_used_up_comes_back_evenly() {
        let mut bucket = Bucket::full(60, Duration::ZERO);
        assert_eq!(bucket.take(60, 60, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(2, 60, SECOND), Err(SECOND));
        assert_eq!(bucket.take(2, 60, 2 * SECOND), Ok(()));
        assert_eq!(bucket.take(1, 0, 9 * SECOND), Ok(()), "nothing is what a minute is worth");
    }

    #[test]
    fn more_than_a_minutes_worth_is_owed() {
        let mut bucket = Bucket::full(60, Duration::ZERO);
        assert_eq!(bucket.take(90, 60, Duration::ZERO), Ok(()));
        assert_eq!(bucket.take(1, 60, 30 * SECOND), Err(SECOND));
        bucket.settle(90, 30, 60);
        assert_eq!(bucket.take(60, 60, 31 * SECOND), Ok(()), "it was less than was thought");
    }

    #[test]
    fn what_is_to_be_left_is_left() {
        let mut bucket = Bucket::full(60, Duration::ZERO);
        assert_eq!(bucket.wait_for(20, 30, 60, Duration::ZERO), None);
        assert_eq!(bucket.take(20, 60, Duration::ZERO), Ok(()));
        assert_eq!(bucket.wait_for(20, 30, 60, Duration::ZERO), Some(10 * SECOND));
        assert_eq!(bucket.take(40, 60, Duration::ZERO), Ok(()), "it is there for others");
    }

    proptest! {
        #[test]
        fn no_minute_gives_more_than_a_minute_and_a_full_bucket(
            most in 1u64..1000, takes in prop::collection::vec((0u64..2000, 0u64..3000), 1..60),
        ) {
            let mut bucket = Bucket::full(most, Duration::ZERO);
            let (mut now, mut given) = (Duration::ZERO, 0);
            for (amount, pause) in takes {
                now += Duration::from_millis(pause);
                let amount = amount.min(most);
                match bucket.take(amount, most, now) {
                    Ok(()) => given += amount,
                    // Whoever comes again when told to gets it.
                    Err(pause) => {
                        let mut later = bucket;
                        prop_assert!(later.take(amount, most, now + pause + Duration::from_millis(1)).is_ok());
                    }
                }
                prop_assert!(given as f64 <= most as f64 * (1.0 + now.as_secs_f64() / MINUTE) + 1e-6);
            }
        }
    }
}
