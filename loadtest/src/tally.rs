//! Calls, counted: over the whole run and by the second in which they were due.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// Latencies are recorded in microseconds, up to this.
const LONGEST: Duration = Duration::from_secs(600);

/// A call that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// When it was meant to leave, from the start of the run.
    pub due: Duration,
    /// How late it left.
    pub late: Duration,
    /// From the intended moment to the end.
    pub latency: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Vectors.
    Answered {
        /// Tokens of each text.
        tokens: Vec<u32>,
        /// Texts in the run that it was part of.
        batch_size: u32,
    },
    /// The worker said that it has too much to do.
    Refused,
    /// Anything else, by error code, `timeout`, `no_responders` or `not_sent`.
    Failed(String),
}

/// What came of all calls.
#[derive(Debug)]
pub struct Tally {
    warm_up: Duration,
    slo: Duration,
    /// Latencies of calls that were not refused. One that failed was slow, not fast: leaving it out would make the rest
    /// look better.
    pub latency: Histogram<u64>,
    /// Latencies of refusals.
    pub refusal: Histogram<u64>,
    /// How late the generator itself was.
    pub lateness: Histogram<u64>,
    /// Tokens of each text.
    pub tokens: Histogram<u64>,
    /// Texts that were answered, each divided by the texts in its run: so many runs, if nobody else's texts were in them.
    runs: f64,
    /// Calls that were not answered with vectors, by reason.
    pub errors: BTreeMap<String, u64>,
    /// By the second in which calls were due; the warm-up is left out.
    pub seconds: Vec<Second>,
}

/// The calls that were due in one second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Second {
    /// All.
    pub offered: u64,
    /// Those answered with vectors.
    pub answered: u64,
    /// Those answered so within the objective.
    pub good: u64,
    /// Those refused.
    pub refused: u64,
    /// Those that failed otherwise.
    pub failed: u64,
    /// Microseconds, of all but those refused.
    latencies: Vec<u32>,
}

impl Tally {
    /// Counts calls that are due after `warm_up`; good are those answered within `slo`.
    #[must_use]
    pub fn new(warm_up: Duration, slo: Duration) -> Self {
        Self {
            warm_up,
            slo,
            latency: latencies(),
            refusal: latencies(),
            lateness: latencies(),
            tokens: histogram(1 << 20),
            runs: 0.0,
            errors: BTreeMap::new(),
            seconds: Vec::new(),
        }
    }

    /// Counts a call.
    pub fn count(&mut self, done: &Done) {
        let Some(due) = done.due.checked_sub(self.warm_up) else { return };
        let index = due.as_secs() as usize;
        if self.seconds.len() <= index {
            self.seconds.resize_with(index + 1, Second::default);
        }
        let second = &mut self.seconds[index];
        second.offered += 1;
        self.lateness.saturating_record(micros(done.late));
        match &done.outcome {
            Outcome::Answered { tokens, batch_size } => {
                second.answered += 1;
                second.good += u64::from(done.latency <= self.slo);
                tokens.iter().for_each(|tokens| self.tokens.saturating_record(u64::from(*tokens)));
                self.runs += tokens.len() as f64 / f64::from((*batch_size).max(1));
            }
            Outcome::Refused => {
                second.refused += 1;
                self.refusal.saturating_record(micros(done.latency));
                *self.errors.entry("overloaded".to_owned()).or_default() += 1;
                return;
            }
            Outcome::Failed(reason) => {
                second.failed += 1;
                *self.errors.entry(reason.clone()).or_default() += 1;
            }
        }
        second.latencies.push(u32::try_from(micros(done.latency)).unwrap_or(u32::MAX));
        self.latency.saturating_record(micros(done.latency));
    }

    /// Texts in a run, on average over the runs: a mean over the calls would count a run as often as it had calls. NaN if none was answered.
    #[must_use]
    pub fn texts_per_run(&self) -> f64 {
        self.tokens.len() as f64 / self.runs
    }

    /// Calls that were not answered with vectors, refusals included, percent of those that were due. NaN if none was.
    #[must_use]
    pub fn error_percent(&self) -> f64 {
        let due = self.total(|second| second.offered) as f64;
        self.total(|second| second.refused + second.failed) as f64 / due * 100.0
    }

    /// The sum over all seconds.
    #[must_use]
    pub fn total(&self, of: impl Fn(&Second) -> u64) -> u64 {
        self.seconds.iter().map(of).sum()
    }
}

impl Second {
    /// A quantile of the latencies in milliseconds; `None` if there are none.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        Some(f64::from(*sorted.get(rank.min(sorted.len()).checked_sub(1)?)?) / 1000.0)
    }
}

/// For latencies in microseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    histogram(LONGEST.as_micros() as u64)
}

fn histogram(most: u64) -> Histogram<u64> {
    Histogram::new_with_max(most, 3).expect("these bounds are valid")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn done(due: u32, latency: u32, outcome: Outcome) -> Done {
        Done { due: due * MS, late: Duration::ZERO, latency: latency * MS, outcome }
    }

    fn answered(tokens: Vec<u32>) -> Outcome {
        Outcome::Answered { tokens, batch_size: 1 }
    }

    #[test]
    fn a_run_counts_once_however_many_calls_were_in_it() {
        let mut tally = Tally::new(Duration::ZERO, 50 * MS);
        assert!(tally.texts_per_run().is_nan() && tally.error_percent().is_nan());
        // Three calls in one run, one by itself: two runs.
        for batch_size in [3, 3, 3, 1] {
            tally.count(&done(0, 1, Outcome::Answered { tokens: vec![7], batch_size }));
        }
        assert_eq!((tally.texts_per_run(), tally.error_percent()), (2.0, 0.0));
        tally.count(&done(0, 1, Outcome::Refused));
        assert_eq!(tally.error_percent(), 20.0);
    }

    #[test]
    fn goodput_is_what_was_answered_in_time() {
        let mut tally = Tally::new(1000 * MS, 50 * MS);
        tally.count(&done(999, 1, answered(vec![3])));
        tally.count(&done(1000, 50, answered(vec![3, 5])));
        tally.count(&done(1500, 51, answered(vec![3])));
        tally.count(&done(2000, 1, Outcome::Refused));
        tally.count(&done(2000, 10_000, Outcome::Failed("timeout".into())));
        assert_eq!((tally.total(|s| s.offered), tally.total(|s| s.answered), tally.total(|s| s.good)), (4, 2, 1));
        assert_eq!(tally.seconds.iter().map(|s| s.offered).collect::<Vec<_>>(), [2, 2]);
        assert_eq!((tally.seconds[1].refused, tally.seconds[1].failed), (1, 1));
        assert_eq!((tally.latency.len(), tally.refusal.len(), tally.tokens.len()), (3, 1, 3));
        assert_eq!((tally.errors["timeout"], tally.errors["overloaded"]), (1, 1));
        assert!(tally.latency.max() >= 10_000_000 && tally.refusal.max() <= 1001);
    }

    #[test]
    fn quantiles_of_a_second() {
        assert_eq!(Second::default().quantile_ms(0.5), None);
        let second = Second { latencies: vec![4000, 1000, 3000, 2000], ..Second::default() };
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| second.quantile_ms(q).unwrap()), [1.0, 2.0, 4.0, 4.0]);
    }

    proptest! {
        #[test]
        fn every_call_is_counted_once(calls in prop::collection::vec((0u32..5000, 0u32..200, 0u8..3), 0..200)) {
            let mut tally = Tally::new(1000 * MS, 50 * MS);
            for (due, latency, kind) in &calls {
                let outcome = match kind {
                    0 => answered(vec![7]),
                    1 => Outcome::Refused,
                    _ => Outcome::Failed("x".into()),
                };
                tally.count(&done(*due, *latency, outcome));
            }
            let due = calls.iter().filter(|(due, ..)| *due >= 1000).count() as u64;
            prop_assert_eq!(tally.total(|s| s.offered), due);
            prop_assert_eq!(tally.total(|s| s.answered + s.refused + s.failed), due);
            prop_assert_eq!(tally.latency.len() + tally.refusal.len(), due);
            prop_assert!(tally.total(|s| s.good) <= tally.total(|s| s.answered));
        }
    }
}
