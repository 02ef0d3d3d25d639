//! What clients did and saw: jobs that were published, calls that were made.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;

use super::judge::Job;

/// Everything that clients know.
#[derive(Debug)]
pub struct Ledger {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    jobs: Vec<Job>,
    seen: Seen,
}

/// What clients saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Calls by what came of them: `answered`, `wrong`, the code of a refusal, `timeout`, `no_responders`.
    pub calls: BTreeMap<String, u64>,
    /// Attempts to publish: `accepted`, what the server said, `timeout`.
    pub publishes: BTreeMap<String, u64>,
    /// Calls that ended in each second: answered, and not.
    pub seconds: Vec<(u64, u64)>,
}

/// A call that was answered with the right vector.
pub const ANSWERED: &str = "answered";
/// A call that was answered with another vector.
pub const WRONG: &str = "wrong";
/// A job that the server has acknowledged.
pub const ACCEPTED: &str = "accepted";

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds from the start of the run.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A number that no other job has.
    pub fn number(&self) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        inner.next - 1
    }

    /// A job was accepted or given up.
    pub fn add(&self, job: Job) {
        self.inner().jobs.push(job);
    }

    /// An attempt to publish ended like this.
    pub fn published(&self, how: &str) {
        *self.inner().seen.publishes.entry(how.to_owned()).or_default() += 1;
    }

    /// A call ended like this.
    pub fn called(&self, how: &str) {
        let second = self.now() as usize;
        let seen = &mut self.inner().seen;
        *seen.calls.entry(how.to_owned()).or_default() += 1;
        if seen.seconds.len() <= second {
            seen.seconds.resize(second + 1, (0, 0));
        }
        let (answered, not) = &mut seen.seconds[second];
        *(if how == ANSWERED { answered } else { not }) += 1;
    }

    /// All jobs.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        self.inner().jobs.clone()
    }

    /// What clients saw.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.inner().seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_what_came_of_them() {
        let ledger = Ledger::new(Instant::now());
        [ANSWERED, "overloaded", ANSWERED].iter().for_each(|how| ledger.called(how));
        let seen = ledger.seen();
        assert_eq!((seen.calls[ANSWERED], seen.calls["overloaded"]), (2, 1));
        assert_eq!(seen.seconds.iter().fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1)), (2, 1));
        assert_eq!((ledger.number(), ledger.number()), (0, 1));
    }
}
