//! Whether memory grows: a line through what was measured after things had settled. Pure.

use std::time::Duration;

/// Caches and pools fill in this time; in a run shorter than twice as long, in its first half.
pub const SETTLING: Duration = Duration::from_secs(60);

/// What memory did after it had settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Where the line begins, megabytes.
    pub settled: f64,
    /// By how much of that the line grows until the end; 0.05 is 5 %.
    pub share: f64,
    /// By how much of it the highest sample is above it.
    pub peak_share: f64,
    /// The line's slope.
    pub megabytes_per_hour: f64,
}

/// The growth over samples (seconds, megabytes), ordered by time. `None` if there are not two after the settling.
#[must_use]
pub fn growth(samples: &[(f64, f64)], whole: Duration) -> Option<Growth> {
    let settling = SETTLING.min(whole / 2).as_secs_f64();
    let rest: Vec<(f64, f64)> = samples.iter().copied().filter(|(time, _)| *time >= settling).collect();
    let (first, last) = (rest.first()?.0, rest.last()?.0);
    let count = rest.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| rest.iter().map(of).sum::<f64>() / count;
    let (time, level) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread = rest.iter().map(|(t, _)| (t - time).powi(2)).sum::<f64>();
    if spread <= 0.0 {
        return None;
    }
    let slope = rest.iter().map(|(t, m)| (t - time) * (m - level)).sum::<f64>() / spread;
    let settled = level + slope * (first - time);
    let peak = rest.iter().map(|(_, megabytes)| *megabytes).fold(0.0, f64::max);
    Some(Growth {
        settled,
        share: slope * (last - first) / settled,
        peak_share: peak / settled - 1.0,
        megabytes_per_hour: slope * 3600.0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn the_first_minute_does_not_count() {
        let samples: Vec<_> = (0..600).map(|s| (f64::from(s), if s < 60 { f64::from(s) } else { 300.0 })).collect();
        let growth = growth(&samples, LONG).unwrap();
        assert!(growth.share.abs() < 1e-9 && (growth.settled - 300.0).abs() < 1e-9, "{growth:?}");
    }

    #[test]
    fn a_short_run_settles_in_its_first_half() {
        let samples: Vec<_> = (0..10).map(|s| (f64::from(s), if s < 5 { 1.0 } else { 2.0 })).collect();
        assert_eq!(growth(&samples, Duration::from_secs(10)).unwrap().share, 0.0);
        assert_eq!(growth(&samples[..6], Duration::from_secs(10)), None);
    }

    proptest! {
        #[test]
        fn a_line_is_found_again(level in 10.0f64..1000.0, share in -0.5f64..2.0, noise in 0.0f64..0.001) {
            let line = |s: u32| level * (1.0 + share * f64::from(s - 60) / 539.0);
            let samples: Vec<_> = (60..600).map(|s| (f64::from(s), line(s) + noise * f64::from(s % 3))).collect();
            let growth = growth(&samples, LONG).unwrap();
            prop_assert!((growth.share - share).abs() < 0.01, "{growth:?}");
            prop_assert!((growth.settled - level).abs() < level * 0.01, "{growth:?}");
            prop_assert!((growth.peak_share - share.max(0.0)).abs() < 0.02, "{growth:?}");
        }
    }
}
