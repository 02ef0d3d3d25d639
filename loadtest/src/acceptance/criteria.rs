//! The criteria as a file in TOML: what is measured, where, and within which bounds it has to be.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, ensure};
use embed_report::significant;
use serde::{Deserialize, Serialize};

use super::{BESIDE_BULK, MANY_CALLERS, ONE_CALLER};

/// The user's.
const OURS: &str = include_str!("../../acceptance.toml");

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criteria {
    /// Callers at the same time, at `many-callers`.
    pub callers: usize,
    /// Texts in a call, where candidate and baseline are compared.
    pub batches: Vec<usize>,
    /// Loads, from the lightest to the heaviest.
    #[serde(rename = "pattern")]
    pub patterns: Vec<TrafficPattern>,
    /// What is asked for.
    #[serde(rename = "criterion")]
    pub criteria: Vec<Criterion>,
}

/// So many calls a second.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPattern {
    /// What it is called.
    pub name: String,
    /// Calls a second.
    pub rate: f64,
    /// What is expected of it: shown, and not judged.
    #[serde(default)]
    pub expected: Expected,
}

/// What a document expects of a pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// Texts in a run.
    pub batch_size: Option<f64>,
    /// Utilisation of the GPU.
    pub gpu_percent: Option<f64>,
    /// Latency, milliseconds.
    pub p50: Option<f64>,
    /// The same.
    pub p75: Option<f64>,
    /// The same.
    pub p95: Option<f64>,
    /// The same.
    pub p99: Option<f64>,
    /// The same.
    pub p999: Option<f64>,
}

/// One thing that is asked for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// What it is called.
    pub name: String,
    /// What is measured.
    pub measure: Measure,
    /// Where; empty for what is measured once a repeat.
    #[serde(default)]
    pub at: String,
    /// The value has to be less.
    pub below: Option<f64>,
    /// The value has to be more.
    pub above: Option<f64>,
    /// The value has to be as much, or more.
    pub at_least: Option<f64>,
    /// The value has to be as much, or less.
    pub at_most: Option<f64>,
    /// How much it matters, as the document says.
    #[serde(default)]
    pub priority: String,
}

/// Whether a value is within a bound.
type Holds = fn(f64, f64) -> bool;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Latency of calls that were not refused, milliseconds.
    P50,
    /// The same.
    P75,
    /// The same.
    P95,
    /// The same.
    P99,
    /// The same.
    #[serde(rename = "p99.9")]
    P999,
    /// Calls answered a second.
    Answered,
    /// Calls that were not answered with vectors, refusals included, percent of those that were due.
    ErrorRate,
    /// Texts in a run.
    BatchSize,
    /// Utilisation of the GPUs, their mean over time, percent.
    GpuUtilisation,
    /// What is in use of the devices' memory, or of the processes' where there is no device, for each of the callers: megabytes.
    MemoryPerRequest,
    /// Mean cosine of the candidate's vectors to the baseline's.
    Cosine,
    /// Models that answer.
    Models,
    /// The baseline's P95 latency divided by the candidate's.
    P95SpeedUp,
    /// What a request costs.
    Cost,
    /// What a request costs less than at the baseline, percent.
    CostReduction,
    /// By how much the candidate's error rate differs from the baseline's, percentage points.
    ErrorRateDifference,
}

impl Measure {
    /// The unit, with a space before it where it is written after a figure.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::P50 | Self::P75 | Self::P95 | Self::P99 | Self::P999 => " ms",
            Self::Answered => " calls/s",
            Self::ErrorRate | Self::GpuUtilisation | Self::CostReduction => " %",
            Self::ErrorRateDifference => " percentage points",
            Self::MemoryPerRequest => " MB",
            Self::P95SpeedUp => " x",
            Self::Cost => " $",
            Self::BatchSize | Self::Cosine | Self::Models => "",
        }
    }

    /// Whether it is measured under a load, and not once a repeat.
    const fn has_place(self) -> bool {
        !matches!(self, Self::Cosine | Self::Models)
    }
}

impl Criteria {
    /// Reads a file, or the user's criteria.
    ///
    /// # Errors
    /// If it cannot be read, or says what cannot be measured; names the entry.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let (name, text) = match file {
            Some(file) => {
                let name = format!("--criteria {}", file.display());
                let text = fs::read_to_string(file).with_context(|| name.clone())?;
                (name, text)
            }
            None => ("the criteria".to_owned(), OURS.to_owned()),
        };
        let criteria: Self = toml::from_str(&text).with_context(|| name.clone())?;
        criteria.check().with_context(|| name)?;
        Ok(criteria)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.callers > 0, "callers: must be above 0");
        ensure!(self.batches.first() == Some(&1), "batches: begin with 1, which is one caller with one text");
        ensure!(
            self.batches.iter().all(|texts| (1..=embed_schemas::MAX_TEXTS).contains(texts)),
            "batches: 1 to 256 texts"
        );
        ensure!(!self.patterns.is_empty(), "pattern: there is none");
        let mut places = BTreeSet::from([ONE_CALLER, MANY_CALLERS, BESIDE_BULK]);
        for TrafficPattern { name, rate, .. } in &self.patterns {
            ensure!(places.insert(name), "pattern {name}: there is another of that name");
            ensure!(*rate > 0.0 && rate.is_finite(), "pattern {name}: rate must be above 0");
        }
        for criterion in &self.criteria {
            let Criterion { name, measure, at, .. } = criterion;
            ensure!(!criterion.bounds().is_empty(), "{name}: it has no bound; give below, above, at_least or at_most");
            match measure.has_place() {
                true => ensure!(
                    places.contains(at.as_str()),
                    "{name}: at = {at:?} is none of {}",
                    places.iter().copied().collect::<Vec<_>>().join(", ")
                ),
                false => ensure!(at.is_empty(), "{name}: leave `at` out, it is measured once a repeat"),
            }
        }
        Ok(())
    }
}

impl Criterion {
    /// The bounds, in words, and whether a value is within each.
    fn bounds(&self) -> Vec<(&'static str, Holds, f64)> {
        let bounds: [(_, _, Holds); 4] = [
            ("below", self.below, |value, bound| value < bound),
            ("above", self.above, |value, bound| value > bound),
            ("at least", self.at_least, |value, bound| value >= bound),
            ("at most", self.at_most, |value, bound| value <= bound),
        ];
        bounds.into_iter().filter_map(|(word, bound, holds)| Some((word, holds, bound?))).collect()
    }

    /// Whether a value is within all bounds.
    #[must_use]
    pub fn is_met_by(&self, value: f64) -> bool {
        self.bounds().iter().all(|(_, holds, bound)| holds(value, *bound))
    }

    /// The bounds, for a person.
    #[must_use]
    pub fn wanted(&self) -> String {
        let words = self.bounds().into_iter().map(|(word, _, bound)| format!("{word} {}", significant(bound, 4)));
        words.collect::<Vec<_>>().join(", ") + self.measure.unit()
    }

    /// What it is called, with where it is measured.
    #[must_use]
    pub fn title(&self) -> String {
        if self.at.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, self.at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Criteria {
        Criteria::load(None).unwrap()
    }

    #[test]
    fn the_users_criteria_are_all_there() {
        let criteria = ours();
        let names: Vec<_> = criteria.patterns.iter().map(|pattern| pattern.name.as_str()).collect();
        assert_eq!(names, ["low", "moderate", "high", "peak"]);
        let wanted = |measure, at: &str| {
            let found = criteria.criteria.iter().find(|one| one.measure == measure && one.at == at);
            found.unwrap_or_else(|| panic!("{measure:?} at {at}")).wanted()
        };
        assert_eq!(wanted(Measure::P95, "peak"), "below 10 ms");
        assert_eq!(wanted(Measure::P99, "peak"), "below 15 ms");
        assert_eq!(wanted(Measure::Answered, "peak"), "above 250 calls/s");
        assert_eq!(wanted(Measure::ErrorRate, "peak"), "below 0.1 %");
        assert_eq!(wanted(Measure::Cosine, ""), "above 0.99");
        assert_eq!(wanted(Measure::Models, ""), "at least 5");
        assert_eq!(wanted(Measure::GpuUtilisation, BESIDE_BULK), "at least 80, at most 90 %");
        assert_eq!(wanted(Measure::MemoryPerRequest, MANY_CALLERS), "at most 150 MB");
        assert_eq!(wanted(Measure::CostReduction, MANY_CALLERS), "at least 50 %");
    }

    #[test]
    fn bounds_are_open_or_closed_as_they_say() {
        let criteria = ours();
        let of = |measure| criteria.criteria.iter().find(|one| one.measure == measure).unwrap();
        assert!(of(Measure::P95).is_met_by(9.999) && !of(Measure::P95).is_met_by(10.0));
        assert!(of(Measure::Models).is_met_by(5.0) && !of(Measure::Models).is_met_by(4.0));
        assert!(of(Measure::GpuUtilisation).is_met_by(90.0) && !of(Measure::GpuUtilisation).is_met_by(97.0));
        assert!(!of(Measure::Answered).is_met_by(f64::NAN));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        let refused = |from: &str, to: &str| {
            assert!(OURS.contains(from), "{from}");
            let criteria: Result<Criteria, _> = toml::from_str(&OURS.replacen(from, to, 1));
            match criteria {
                Ok(criteria) => format!("{:#}", criteria.check().unwrap_err()),
                Err(error) => error.to_string(),
            }
        };
        assert!(refused("at = \"peak\"", "at = \"peek\"").contains("none of beside-bulk, high, low"));
        assert!(refused("below = 10", "").contains("P95 latency: it has no bound"));
        assert!(refused("measure = \"p95\"", "measure = \"p59\"").contains("p59"));
        assert!(refused("rate = 18", "rate = 0").contains("pattern moderate: rate"));
        assert!(refused("name = \"high\"", "name = \"low\"").contains("another of that name"));
        assert!(refused("measure = \"models\"", "measure = \"models\"\nat = \"peak\"").contains("leave `at` out"));
    }
}
