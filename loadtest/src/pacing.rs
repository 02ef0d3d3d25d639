//! When requests are meant to leave. Open loop: the schedule does not wait for answers.

use std::time::Duration;

use clap::ValueEnum;

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// Independent of each other, as many callers are.
    Poisson,
    /// Evenly spaced.
    Constant,
}

/// The intended moments, from the start of the run on.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    gap: f64,
    end: f64,
    next: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// `rate` requests a second for `duration`. The same seed gives the same schedule.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, duration: Duration, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { arrivals, gap: 1.0 / rate, end: duration.as_secs_f64(), next: 0.0, random }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.next >= self.end {
            return None;
        }
        let moment = Duration::from_secs_f64(self.next);
        self.next += match self.arrivals {
            Arrivals::Constant => self.gap,
            // 1 - u is never 0, so the logarithm is finite.
            Arrivals::Poisson => -(1.0 - self.random.f64()).ln() * self.gap,
        };
        Some(moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let moments: Vec<_> = Schedule::new(Arrivals::Constant, 4.0, Duration::from_secs(1), 0).collect();
        assert_eq!(moments, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let moments: Vec<f64> =
            Schedule::new(Arrivals::Poisson, 100.0, Duration::from_secs(1000), 7).map(|d| d.as_secs_f64()).collect();
        let rate = moments.len() as f64 / 1000.0;
        assert!((rate - 100.0).abs() < 2.0, "{rate}");
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "an exponential's deviation is its mean");
    }
}
