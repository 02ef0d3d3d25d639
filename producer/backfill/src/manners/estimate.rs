//! What a backfill would take, from a sample of it. Pure.

use std::num::NonZeroU32;

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

/// How much there is, as far as it is known beside a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Extent {
    /// The share of the input that the sample is, which is 1 if it is all.
    pub share: Option<f64>,
    /// Rows, where the files say so.
    pub counted: Option<u64>,
    /// No more rows than this are wanted.
    pub limit: Option<u64>,
    /// No more rows a second than this are wanted.
    pub rate: Option<NonZeroU32>,
}

/// What a backfill would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// What it is estimated from.
    pub sample: Sampled,
    /// Rows. `None` if nothing says how many there are.
    pub rows: Option<u64>,
    /// Whether the rows are counted, and not estimated.
    pub is_counted: bool,
    /// Whether the sample is all there is.
    pub is_exact: bool,
    /// Tokens.
    pub tokens: Option<u64>,
    /// Rows per second: at the speed of the sample, and no faster than they may go.
    pub rows_per_second: f64,
    /// For all rows.
    pub seconds: Option<f64>,
    /// For all rows, in the currency of the price.
    pub cost: Option<f64>,
}

impl Estimate {
    /// From a sample of an input. `price`: for an hour.
    #[must_use]
    pub fn of(sample: Sampled, extent: Extent, price: Option<f64>) -> Self {
        let share = extent.share.filter(|share| *share > 0.0).map(|share| share.min(1.0));
        let is_exact = share == Some(1.0);
        let counted = extent.counted.filter(|_| !is_exact);
        // Precise up to 2^53.
        let estimated = share.map(|share| (sample.rows as f64 / share).round() as u64);
        let rows =
            counted.or(estimated).map(|rows| extent.limit.map_or(rows, |limit| rows.min(limit.max(sample.rows))));
        let each = |of_sample: u64| of_sample as f64 / sample.rows.max(1) as f64;
        let measured =
            Some(sample.timed_rows as f64 / sample.seconds).filter(|_| sample.seconds > 0.0 && sample.timed_rows > 0);
        let most = extent.rate.map(|rate| f64::from(rate.get()));
        let rows_per_second = match (measured, most) {
            (Some(measured), Some(most)) => measured.min(most),
            (measured, most) => measured.or(most).unwrap_or(0.0),
        };
        let seconds = rows.filter(|_| rows_per_second > 0.0).map(|rows| rows as f64 / rows_per_second);
        Self {
            sample,
            rows,
            is_counted: is_exact || counted.is_some(),
            is_exact,
            tokens: rows.map(|rows| (each(sample.tokens) * rows as f64).round() as u64),
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

    fn share(share: Option<f64>) -> Extent {
        Extent { share, ..Extent::default() }
    }

    #[test]
    fn all_is_the_sample_as_often_as_it_fits() {
        let estimate = Estimate::of(SAMPLE, share(Some(0.01)), Some(7.2));
        assert_eq!((estimate.rows, estimate.tokens, estimate.is_exact), (Some(10_000), Some(99_000), false));
        assert_eq!((estimate.rows_per_second, estimate.seconds), (160.0, Some(62.5)));
        assert!((estimate.cost.unwrap() - 0.125).abs() < 1e-9);
        let whole = Estimate::of(SAMPLE, share(Some(1.0)), None);
        assert_eq!((whole.rows, whole.is_exact, whole.cost), (Some(100), true, None));
    }

    #[test]
    fn no_more_rows_and_none_faster_than_is_said() {
        let share = Some(0.01);
        let limited = Estimate::of(SAMPLE, Extent { share, limit: Some(500), ..Extent::default() }, None);
        assert_eq!((limited.rows, limited.tokens, limited.seconds), (Some(500), Some(4_950), Some(3.125)));
        // What files say of their rows holds, whatever their bytes say.
        let counted = Extent { share, counted: Some(1_000), ..Extent::default() };
        let estimate = Estimate::of(SAMPLE, counted, None);
        assert_eq!((estimate.rows, estimate.is_counted, estimate.is_exact), (Some(1_000), true, false));
        assert_eq!(estimate.tokens, Some(9_900));
        let slow = Estimate::of(SAMPLE, Extent { rate: NonZeroU32::new(40), ..counted }, None);
        assert_eq!((slow.rows_per_second, slow.seconds), (40.0, Some(25.0)));
        let fast = Estimate::of(SAMPLE, Extent { rate: NonZeroU32::new(1_000), ..counted }, None);
        assert_eq!(fast.rows_per_second, 160.0);
        let untimed = Sampled { timed_rows: 0, ..SAMPLE };
        assert_eq!(Estimate::of(untimed, Extent { rate: NonZeroU32::new(10), ..counted }, None).seconds, Some(100.0));
    }

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let unknown = Estimate::of(SAMPLE, share(None), Some(1.0));
        assert_eq!((unknown.rows, unknown.tokens, unknown.seconds, unknown.cost), (None, None, None, None));
        let nothing = Sampled { rows: 0, failed: 0, tokens: 0, timed_rows: 0, seconds: 0.0 };
        assert_eq!(Estimate::of(nothing, share(Some(1.0)), Some(1.0)).seconds, None);
    }
}
