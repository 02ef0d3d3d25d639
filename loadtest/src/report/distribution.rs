//! Quantiles of a histogram of microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Better, Figure, Group};

/// Points of a curve for each power of ten.
const POINTS_PER_DECADE: i32 = 12;

/// Quantiles, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 75 %.
    pub p75: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// The quantiles of a histogram; all 0 if it is empty.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p75: at(0.75),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }

    /// The quantiles as figures.
    #[must_use]
    pub fn group(&self, name: String, better: Better) -> Group {
        let figure = |(name, value)| Figure::new(name, "ms", value, better);
        let Self { p50, p75, p95, p99, p999, max } = *self;
        let all = [("p50", p50), ("p75", p75), ("p95", p95), ("p99", p99), ("p99.9", p999), ("max", max)];
        Group { name, figures: all.map(figure).into() }
    }
}

/// How slow the slowest are: for `n` from 1 on, the milliseconds that one value in `n` exceeds. The curve ends where one
/// value stands alone.
#[must_use]
pub fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let one_in = |step: i32| 10f64.powf(f64::from(step) / f64::from(POINTS_PER_DECADE));
    let at = |n: f64| (n, histogram.value_at_quantile(1.0 - 1.0 / n) as f64 / 1000.0);
    let count = histogram.len() as f64;
    let inner = (0..).map(one_in).take_while(|n| *n < count).map(at);
    let last = (!histogram.is_empty()).then(|| (count, histogram.max() as f64 / 1000.0));
    inner.chain(last).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    #[test]
    fn quantiles_of_a_hundred() {
        let quantiles = Quantiles::of(&histogram((1..=1000).map(|ms| ms * 1000)));
        for (found, expected) in
            [(quantiles.p50, 500.0), (quantiles.p75, 750.0), (quantiles.p99, 990.0), (quantiles.max, 1000.0)]
        {
            assert!((found - expected).abs() <= expected * 0.002, "{found} for {expected}");
        }
        assert!(curve(&histogram([])).is_empty());
    }

    proptest! {
        #[test]
        fn a_curve_climbs_to_the_largest(values in prop::collection::vec(0u64..10_000_000, 1..300)) {
            let curve = curve(&histogram(values.iter().copied()));
            prop_assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
            let largest = *values.iter().max().unwrap() as f64 / 1000.0;
            prop_assert!((curve.last().unwrap().1 - largest).abs() <= largest * 0.002);
        }
    }
}
