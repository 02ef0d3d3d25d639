//! What was measured, repeat by repeat, and why something was not.

use std::collections::BTreeMap;

use super::Measure;
use crate::repeats::Repeats;

/// What was measured, by measure and place.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    values: BTreeMap<(Measure, String), Repeats>,
    reasons: BTreeMap<Measure, String>,
}

impl Measured {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a repeat's value.
    pub fn add(&mut self, measure: Measure, at: &str, value: f64) {
        self.values.entry((measure, at.to_owned())).or_default().push(value);
    }

    /// Says why a measure cannot be taken here; the first reason stays.
    pub fn cannot(&mut self, measure: Measure, reason: &str) {
        self.reasons.entry(measure).or_insert_with(|| reason.to_owned());
    }

    /// What was measured; `None` if it was not.
    #[must_use]
    pub fn get(&self, measure: Measure, at: &str) -> Option<&Repeats> {
        self.values.get(&(measure, at.to_owned())).filter(|repeats| !repeats.values().is_empty())
    }

    /// Its median; NaN if it was not measured.
    #[must_use]
    pub fn median(&self, measure: Measure, at: &str) -> f64 {
        self.get(measure, at).map_or(f64::NAN, Repeats::median)
    }

    /// Why it was not measured.
    #[must_use]
    pub fn reason(&self, measure: Measure) -> &str {
        self.reasons.get(&measure).map_or("nothing told it", String::as_str)
    }
}
