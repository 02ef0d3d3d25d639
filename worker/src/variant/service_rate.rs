//! How fast online calls are being served: what the next one has to wait for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Share of a new observation in the average: one in this many.
const MEMORY: u64 = 16;

/// The average time that a token of an online call takes in an engine, over all engines side by side.
#[derive(Debug)]
pub(super) struct ServiceRate {
    engines: AtomicU64,
    /// Nanoseconds a token, in one engine; 0 until something was observed.
    per_token: AtomicU64,
}

impl ServiceRate {
    pub(super) fn new(engines: usize) -> Self {
        Self { engines: AtomicU64::new(engines.max(1) as u64), per_token: AtomicU64::new(0) }
    }

    /// From now on, so many engines. What was observed holds only if it is the same kind of engine.
    pub(super) fn resize(&self, engines: usize) {
        self.engines.store(engines.max(1) as u64, Ordering::Relaxed);
    }

    /// Notes a run. Two at the same moment may count as one: it is an average.
    pub(super) fn record(&self, tokens: usize, took: Duration) {
        let new = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / (tokens.max(1) as u64);
        let old = self.per_token.load(Ordering::Relaxed);
        let average = if old == 0 { new } else { old - old / MEMORY + new / MEMORY };
        self.per_token.store(average, Ordering::Relaxed);
    }

    /// Whether anything was observed.
    pub(super) fn is_known(&self) -> bool {
        self.per_token.load(Ordering::Relaxed) > 0
    }

    /// How long the engines have to do with so many tokens. Zero while nothing is known.
    pub(super) fn time_for(&self, tokens: usize) -> Duration {
        Duration::from_nanos(
            self.per_token.load(Ordering::Relaxed).saturating_mul(tokens as u64) / self.engines.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_what_is_before_and_follows_the_rate() {
        let rate = ServiceRate::new(2);
        assert_eq!(rate.time_for(1000), Duration::ZERO);
        for _ in 0..200 {
            rate.record(4, Duration::from_millis(8));
        }
        let wait = rate.time_for(10);
        assert!(wait.abs_diff(Duration::from_millis(10)) < Duration::from_micros(10), "{wait:?}");
        for _ in 0..200 {
            rate.record(1, Duration::from_millis(6));
        }
        assert!(rate.time_for(10).abs_diff(Duration::from_millis(30)) < Duration::from_micros(30));
    }
}
