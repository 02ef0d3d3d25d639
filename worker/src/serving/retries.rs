//! When what failed is tried again. Pure.

use std::time::{Duration, Instant};

/// After a version could not go live it is tried again after this, then after twice as long, and so on.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// What failed lately.
#[derive(Debug, Default)]
pub(super) struct Retries(Option<Failure>);

#[derive(Debug)]
struct Failure {
    /// Version and graph: another one is tried at once.
    what: (String, String),
    times: u32,
    again: Instant,
}

impl Retries {
    /// When what failed is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.as_ref().map(|failure| failure.again)
    }

    /// Whether this has failed lately and is not to be tried yet.
    pub(super) fn too_early(&self, now: Instant, what: &(String, String)) -> bool {
        self.0.as_ref().is_some_and(|failure| failure.what == *what && now < failure.again)
    }

    /// It failed. The pauses grow as long as the same thing does, whoever asked for it meanwhile.
    pub(super) fn failed(&mut self, now: Instant, what: (String, String)) {
        let times = self.0.take().filter(|failure| failure.what == what).map_or(0, |failure| failure.times);
        let delay = (FIRST * 2u32.saturating_pow(times.min(16))).min(LONGEST);
        self.0 = Some(Failure { what, times: times + 1, again: now + delay });
    }

    /// It succeeded, or is not wanted any more.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_something_else_is_tried() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        let what = |version: &str| (version.to_owned(), "sha".to_owned());
        let mut before = Duration::ZERO;
        for _ in 0..12 {
            retries.failed(now, what("v1"));
            let pause = retries.due().unwrap() - now;
            assert!(pause > before || pause == LONGEST, "{pause:?} after {before:?}");
            assert!(retries.too_early(now, &what("v1")) && !retries.too_early(now, &what("v2")));
            (before, now) = (pause, retries.due().unwrap());
            assert!(!retries.too_early(now, &what("v1")));
        }
        retries.failed(now, what("v2"));
        assert_eq!(retries.due().unwrap() - now, FIRST);
        retries.forget();
        assert_eq!(retries.due(), None);
    }
}
