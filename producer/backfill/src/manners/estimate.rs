//! What a backfill would take, from a sample of it. Pure.

use serde::Serialize;

/// What was embedded to see how it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Sampled {
    /// Rows.
    pub rows: u64,
    /// Of these, rows that have no vector.
    pub failed: u64,
    /// Tokens of the others.
    pub tokens: u64,
    /// Rows of it whose time was taken: without the first, for which a worker may have had to get ready.
    pub timed_rows: u64,
    /// The time that they took.
    pub seconds: f64,
}

/// What a backfill would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// What it is estimated from.
    pub sample: Sampled,
    /// Rows. `None` if nothing says how many there are.
    pub rows: Option<u64>,
    /// Whether these are all rows, and not an estimate.
    pub is_exact: bool,
    /// Tokens.
    pub tokens: Option<u64>,
    /// Rows per second, at the speed of the sample.
    pub rows_per_second: f64,
    /// For all rows.
    pub seconds: Option<f64>,
    /// For all rows, in the currency of the price.
    pub cost: Option<f64>,
}

impl Estimate {
    /// From a sample of `share` of the input, or of all of it, which is 1. `price`: for an hour.
    #[must_use]
    pub fn of(sample: Sampled, share: Option<f64>, price: Option<f64>) -> Self {
        let share = share.filter(|share| *share > 0.0).map(|share| share.min(1.0));
        let is_exact = share == Some(1.0);
        // Precise up to 2^53.
        let all = |of_sample: u64| share.map(|share| (of_sample as f64 / share).round() as u64);
        let rows_per_second = if sample.seconds > 0.0 { sample.timed_rows as f64 / sample.seconds } else { 0.0 };
        let rows = all(sample.rows);
        let seconds = rows.filter(|_| rows_per_second > 0.0).map(|rows| rows as f64 / rows_per_second);
        Self {
            sample,
            rows,
            is_exact,
            tokens: all(sample.tokens),
            rows_per_second,
            seconds,
            cost: seconds.zip(price).map(|(seconds, price)| seconds / 3600.0 * price),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sampled = Sampled { rows: 100, failed: 1, tokens: 990, timed_rows: 80, seconds: 0.5 };

    #[test]
    fn all_is_the_sample_as_often_as_it_fits() {
        let estimate = Estimate::of(SAMPLE, Some(0.01), Some(7.2));
        assert_eq!((estimate.rows, estimate.tokens, estimate.is_exact), (Some(10_000), Some(99_000), false));
        assert_eq!((estimate.rows_per_second, estimate.seconds), (160.0, Some(62.5)));
        assert!((estimate.cost.unwrap() - 0.125).abs() < 1e-9);
        let whole = Estimate::of(SAMPLE, Some(1.0), None);
        assert_eq!((whole.rows, whole.is_exact, whole.cost), (Some(100), true, None));
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let unknown = Estimate::of(SAMPLE, None, Some(1.0));
        assert_eq!((unknown.rows, unknown.tokens, unknown.seconds, unknown.cost), (None, None, None, None));
        let nothing = Sampled { rows: 0, failed: 0, tokens: 0, timed_rows: 0, seconds: 0.0 };
        assert_eq!(Estimate::of(nothing, Some(1.0), Some(1.0)).seconds, None);
    }
}
