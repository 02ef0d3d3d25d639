//! Statistics of durations.

use std::time::Duration;

/// The `q`-quantile by nearest rank, in milliseconds, of durations in ascending order. 0 if there are none.
pub(super) fn quantile_ms(sorted: &[Duration], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).map_or(0.0, |duration| duration.as_secs_f64() * 1000.0)
}

/// The median by nearest rank. 0 if there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let of = |n: u64| -> Vec<Duration> { (1..=n).map(Duration::from_millis).collect() };
        assert_eq!((quantile_ms(&of(100), 0.5), quantile_ms(&of(100), 0.95)), (50.0, 95.0));
        assert_eq!((quantile_ms(&of(3), 0.5), quantile_ms(&of(3), 0.95)), (2.0, 3.0));
        assert_eq!((quantile_ms(&of(1), 0.0), quantile_ms(&of(1), 1.0)), (1.0, 1.0));
        assert_eq!(quantile_ms(&[], 0.5), 0.0);
    }

    #[test]
    fn the_median_needs_no_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 1.0);
        assert_eq!(median(&[]), 0.0);
    }
}
