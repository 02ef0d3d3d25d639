//! A figure that was measured several times: its median, its range, and how sure its mean is.

use embed_report::significant;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Fewer repeats say nothing about how far a figure varies.
pub const LEAST: usize = 3;

/// The values of the repeats, in the order in which they were measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Repeats(Vec<f64>);

impl Repeats {
    /// The values; those that are not finite are none.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        Self(values.into_iter().filter(|value| value.is_finite()).collect())
    }

    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.extend(Some(value).filter(|value| value.is_finite()));
    }

    /// All.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The median; the mean of the two in the middle where their number is even. NaN without a value, as all that follow.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// The least.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(f64::NAN)
    }

    /// The most.
    #[must_use]
    pub fn most(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or(f64::NAN)
    }

    /// Where the mean of many repeats is with a confidence of 95 %, if they vary as these do (Student's t). NaN for fewer than two.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        let n = self.0.len() as f64;
        let mean = self.0.iter().sum::<f64>() / n;
        let variance = self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let quantile = StudentsT::new(0.0, 1.0, n - 1.0).map_or(f64::NAN, |student| student.inverse_cdf(0.975));
        let half = quantile * (variance / n).sqrt();
        (mean - half, mean + half)
    }

    /// Median and range: `12.3 (11.9 to 13)`.
    #[must_use]
    pub fn describe(&self, digits: i32) -> String {
        let show = |value| significant(value, digits);
        format!("{} ({} to {})", show(self.median()), show(self.least()), show(self.most()))
    }

    /// Whether the last two are within this share of each other: what is measured no longer changes.
    #[must_use]
    pub fn is_steady(&self, share: f64) -> bool {
        match self.0.as_slice() {
            [.., before, last] => (before - last).abs() <= share * before.max(*last),
            _ => false,
        }
    }

    /// The quotients, repeat by repeat: both were measured side by side.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self::new(self.0.iter().zip(&other.0).map(|(a, b)| a / b))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_repeats_have_a_median_a_range_and_an_interval() {
        let three = Repeats::new([12.0, 10.0, 14.0]);
        assert_eq!((three.median(), three.least(), three.most()), (12.0, 10.0, 14.0));
        assert_eq!(three.describe(3), "12 (10 to 14)");
        // t(0.975, 2) is 4.3027.
        let (from, to) = three.interval();
        let half = 4.3027 * 2.0 / 3f64.sqrt();
        assert!((from - (12.0 - half)).abs() < 1e-3 && (to - (12.0 + half)).abs() < 1e-3, "{from} {to}");
        assert_eq!(Repeats::new([1.0, 4.0]).median(), 2.5);
        assert_eq!(three.over(&Repeats::new([6.0, 5.0, 0.0])).values(), [2.0, 2.0], "nothing is a multiple of nothing");
        assert!(Repeats::new([50.0, 98.0, 100.0]).is_steady(0.03) && !Repeats::new([50.0, 98.0]).is_steady(0.03));
    }

    #[test]
    fn what_was_not_measured_has_no_value() {
        let none = Repeats::new([f64::NAN]);
        assert!(
            none.values().is_empty() && none.median().is_nan() && none.interval().0.is_nan() && !none.is_steady(1.0)
        );
        assert!(Repeats::new([1.0]).interval().0.is_nan());
    }

    proptest! {
        #[test]
        fn the_median_is_within_the_range(values in prop::collection::vec(-1e6f64..1e6, 1..9)) {
            let repeats = Repeats::new(values);
            prop_assert!(repeats.least() <= repeats.median() && repeats.median() <= repeats.most());
            prop_assert!(repeats.values().len() < 2 || repeats.interval().0 <= repeats.most());
        }
    }
}
