//! Met, missed, or not measured.

use embed_report::{Verdict, significant};
use serde::Serialize;

use super::{Criterion, Measured};
use crate::repeats::{self, Repeats};

/// One criterion, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// What it is called, with where it is measured.
    pub name: String,
    /// What is wanted, for a person.
    pub wanted: String,
    /// The unit of the values.
    pub unit: String,
    /// How much it matters.
    pub priority: String,
    /// The values, repeat by repeat; empty if it was not measured.
    pub values: Repeats,
    /// Whether the median is as wanted; `None` if it was not measured.
    pub met: Option<bool>,
    /// Repeats that are as wanted.
    pub repeats_met: usize,
    /// Why it was not measured.
    pub reason: Option<String>,
}

/// Judges each criterion by the median of its repeats. Fewer than three are no measurement.
#[must_use]
pub fn judge(criteria: &[Criterion], measured: &Measured) -> Vec<Judged> {
    let one = |criterion: &Criterion| {
        let values = measured.get(criterion.measure, &criterion.at).cloned().unwrap_or_default();
        let enough = values.values().len() >= repeats::LEAST;
        let reason = match values.values().len() {
            0 => Some(measured.reason(criterion.measure).to_owned()),
            n if !enough => Some(format!("{n} of {} repeats gave a value", repeats::LEAST)),
            _ => None,
        };
        Judged {
            name: criterion.title(),
            wanted: criterion.wanted(),
            unit: criterion.measure.unit().trim().to_owned(),
            priority: criterion.priority.clone(),
            met: enough.then(|| criterion.is_met_by(values.median())),
            repeats_met: values.values().iter().filter(|value| criterion.is_met_by(**value)).count(),
            values,
            reason,
        }
    };
    criteria.iter().map(one).collect()
}

impl Judged {
    /// As it is shown among others.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let unit = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        let all = self.values.values().len();
        // Where the repeats do not agree, the median alone would hide it.
        let split = (self.met.is_some() && self.repeats_met != 0 && self.repeats_met != all)
            .then(|| format!("; {} of {all} repeats are", self.repeats_met));
        let value = match &self.reason {
            Some(reason) => format!("not measured: {reason}"),
            None => {
                let show = |value| significant(value, 4);
                let Self { values, .. } = self;
                format!("{}{unit} ({} to {})", show(values.median()), show(values.least()), show(values.most()))
            }
        };
        Verdict {
            name: self.name.clone(),
            value,
            target: self.wanted.clone() + &split.unwrap_or_default(),
            passed: self.met,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acceptance::{Criteria, Measure};

    fn judged(measured: &Measured) -> Vec<Judged> {
        judge(&Criteria::load(None).unwrap().criteria, measured)
    }

    fn verdict(measured: &Measured, name: &str) -> Verdict {
        judged(measured).iter().find(|one| one.name == name).unwrap().verdict()
    }

    #[test]
    fn the_median_decides_and_repeats_that_disagree_are_told() {
        let mut measured = Measured::new();
        [9.0, 12.0, 8.0].into_iter().for_each(|ms| measured.add(Measure::P95, "peak", ms));
        let met = verdict(&measured, "P95 latency (peak)");
        assert_eq!((met.value.as_str(), met.passed), ("9 ms (8 to 12)", Some(true)));
        assert_eq!(met.target, "below 10 ms; 2 of 3 repeats are");
        [0.0, 0.2, 0.3].into_iter().for_each(|share| measured.add(Measure::ErrorRate, "peak", share));
        assert_eq!(verdict(&measured, "Error rate (peak)").passed, Some(false));
    }

    #[test]
    fn nothing_stands_for_what_was_not_measured() {
        let mut measured = Measured::new();
        measured.cannot(Measure::Cost, "no price was given");
        measured.cannot(Measure::Cost, "later");
        assert!(judged(&measured).iter().all(|one| one.met.is_none()));
        let cost = verdict(&measured, "Cost of a request (many-callers)");
        assert_eq!((cost.value.as_str(), cost.passed), ("not measured: no price was given", None));
        // The same measure elsewhere, or too seldom, is no answer either.
        [9.0; 3].into_iter().for_each(|ms| measured.add(Measure::P95, "low", ms));
        assert_eq!(verdict(&measured, "P95 latency (peak)").passed, None);
        [9.0; 2].into_iter().for_each(|ms| measured.add(Measure::P95, "peak", ms));
        let seldom = verdict(&measured, "P95 latency (peak)");
        assert_eq!((seldom.value.as_str(), seldom.passed), ("not measured: 2 of 3 repeats gave a value", None));
    }
}
