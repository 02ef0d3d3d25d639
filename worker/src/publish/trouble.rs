//! What cannot be stored at the moment, for whoever asks why the worker is not ready.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use embed_schemas::Slug;
use parking_lot::Mutex;

/// What is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Outcomes of jobs.
    Results,
    /// Jobs that cannot be served.
    DeadLetters,
}

impl Kind {
    /// As a metric's label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::DeadLetters => "dead",
        }
    }

    /// For people.
    const fn describe(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::DeadLetters => "dead letters",
        }
    }

    /// Trouble is forgotten when nothing has met it for so long. Jobs that go back come again after seconds; those that cannot be served are
    /// few, and each is given up after a while.
    const fn memory(self) -> Duration {
        match self {
            Self::Results => Duration::from_secs(10),
            Self::DeadLetters => Duration::from_secs(60),
        }
    }
}

/// What cannot be stored, by kind and model. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct StoreTrouble(Arc<Mutex<BTreeMap<(Kind, Slug), Trouble>>>);

#[derive(Debug)]
struct Trouble {
    reason: String,
    first: Instant,
    last: Instant,
    /// Dead letters that were given up.
    given_up: u64,
}

impl StoreTrouble {
    /// It was met now. Gives back how long it has lasted.
    pub(super) fn met(&self, kind: Kind, model: &Slug, reason: String, now: Instant) -> Duration {
        let mut all = self.0.lock();
        let trouble = all.entry((kind, model.clone())).or_insert_with(|| Trouble::new(now));
        if trouble.is_over(kind, now) {
            *trouble = Trouble::new(now);
        }
        (trouble.reason, trouble.last) = (reason, now);
        now.saturating_duration_since(trouble.first)
    }

    /// A job ends without what could not be stored.
    pub(super) fn gave_up(&self, kind: Kind, model: &Slug) {
        if let Some(trouble) = self.0.lock().get_mut(&(kind, model.clone())) {
            trouble.given_up += 1;
        }
    }

    /// Something was stored.
    pub(super) fn over(&self, kind: Kind, model: &Slug) {
        let mut all = self.0.lock();
        // Nearly always there is none.
        if !all.is_empty() {
            all.remove(&(kind, model.clone()));
        }
    }

    /// What it is, if there is any.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.reasons_at(Instant::now())
    }

    fn reasons_at(&self, now: Instant) -> Vec<String> {
        let all = self.0.lock();
        let describe = |((kind, model), trouble): (&(Kind, Slug), &Trouble)| {
            let reason = format!("the stream of {} of {model}: {}", kind.describe(), trouble.reason);
            match trouble.given_up {
                0 => reason,
                jobs => {
                    format!("{reason}; {jobs} jobs have ended without one, their failures are stored as their outcomes")
                }
            }
        };
        all.iter().filter(|((kind, _), trouble)| !trouble.is_over(*kind, now)).map(describe).collect()
    }
}

impl Trouble {
    const fn new(now: Instant) -> Self {
        Self { reason: String::new(), first: now, last: now, given_up: 0 }
    }

    fn is_over(&self, kind: Kind, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= kind.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_until_it_is_over_or_forgotten() {
        let (trouble, model, start): (_, Slug, _) = (StoreTrouble::default(), "m".parse().unwrap(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let met = |seconds| trouble.met(Kind::DeadLetters, &model, "full".to_owned(), at(seconds)).as_secs();
        assert_eq!([met(0), met(7), met(50)], [0, 7, 50]);
        assert_eq!(trouble.reasons_at(at(50)), ["the stream of dead letters of m: full"]);
        trouble.gave_up(Kind::DeadLetters, &model);
        assert!(trouble.reasons_at(at(109))[0].contains("1 jobs have ended without one"));
        assert!(trouble.reasons_at(at(110)).is_empty());
        assert_eq!(met(200), 0, "it is another one");
        assert_eq!(trouble.reasons_at(at(200)), ["the stream of dead letters of m: full"]);
        trouble.over(Kind::Results, &model);
        assert_eq!(met(201), 1);
        trouble.over(Kind::DeadLetters, &model);
        assert_eq!((trouble.reasons_at(at(201)).len(), met(202)), (0, 0));
    }
}
