//! When something happened last, as threads tell each other without a lock.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The time that is told here: since it was asked for first.
pub(crate) fn now() -> Duration {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGIN.elapsed()
}

/// The last time: milliseconds, and one. 0: never.
#[derive(Debug, Default)]
pub(crate) struct Last(AtomicU64);

impl Last {
    pub(crate) const fn never() -> Self {
        Self(AtomicU64::new(0))
    }

    /// It happens now. Gives back how long ago it did before.
    pub(crate) fn note(&self, now: Duration) -> Option<Duration> {
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        ago(self.0.swap(milliseconds, Ordering::Relaxed), now)
    }

    /// Whether it has happened since so long.
    pub(crate) fn is_within(&self, time: Duration, now: Duration) -> bool {
        ago(self.0.load(Ordering::Relaxed), now).is_some_and(|ago| ago < time)
    }
}

/// Clocks of two threads may differ: what is later than now is now.
fn ago(last: u64, now: Duration) -> Option<Duration> {
    last.checked_sub(1).map(|last| now.saturating_sub(Duration::from_millis(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_is_told_how_long_ago_it_was() {
        let last = Last::never();
        assert!(!last.is_within(MS * 100, MS * 1000), "never");
        assert_eq!(last.note(Duration::ZERO), None);
        assert!(last.is_within(MS * 100, Duration::ZERO) && last.is_within(MS * 100, MS * 99));
        assert!(!last.is_within(MS * 100, MS * 100));
        assert_eq!(last.note(MS * 1000), Some(MS * 1000));
        assert!(last.is_within(MS * 100, MS * 900), "clocks of two threads differ");
    }
}
