//! When a run ends: everything that takes part in it asks here.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// When a run ends: after a time, or when somebody says so.
#[derive(Debug, Clone)]
pub struct End {
    after: Duration,
    called: Arc<OnceLock<Instant>>,
}

impl End {
    /// After so long, the warm-up not counted.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self { after: duration, called: Arc::default() }
    }

    /// When [`End::call`] is called.
    #[must_use]
    pub fn when_called() -> Self {
        Self::after(Duration::MAX)
    }

    /// Ends the run now. The first call counts.
    pub fn call(&self) {
        let _ = self.called.set(Instant::now());
    }

    /// Whether [`End::call`] was called.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.called.get().is_some()
    }

    /// Whether it is over, for a run that began at `start` with a warm-up.
    #[must_use]
    pub fn is_over(&self, start: Instant, warm_up: Duration) -> bool {
        self.is_called() || start.elapsed() >= self.after.saturating_add(warm_up)
    }

    /// How long it was, the warm-up not counted.
    #[must_use]
    pub fn length(&self, start: Instant, warm_up: Duration) -> Duration {
        self.called.get().map_or(self.after, |at| at.saturating_duration_since(start + warm_up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_after_its_time_or_when_called() {
        let (start, warm_up) = (Instant::now(), Duration::from_secs(1000));
        assert!(
            !End::after(Duration::ZERO).is_over(start, warm_up)
                && End::after(Duration::ZERO).is_over(start, Duration::ZERO)
        );
        let end = End::when_called();
        assert!(!end.is_over(start, warm_up));
        end.clone().call();
        assert!(end.is_over(start, warm_up));
        assert_eq!(end.length(start, warm_up), Duration::ZERO, "it was called in the warm-up");
    }
}
