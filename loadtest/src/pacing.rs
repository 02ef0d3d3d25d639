//! When requests are meant to leave. Open loop: the schedule does not wait for answers.

use std::time::Duration;

use clap::ValueEnum;

use crate::pattern::Profile;

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
    profile: Profile,
    /// Calls that the profile has by the next moment. A Poisson process whose rate changes is one of rate 1 on this axis.
    calls: f64,
    random: fastrand::Rng,
}

impl Schedule {
    /// Calls at the rates of the profile. The same seed gives the same schedule.
    #[must_use]
    pub fn new(arrivals: Arrivals, profile: Profile, seed: u64) -> Self {
        Self { arrivals, profile, calls: 0.0, random: fastrand::Rng::with_seed(seed) }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let moment = self.profile.moment_of(self.calls)?;
        self.calls += match self.arrivals {
            Arrivals::Constant => 1.0,
            // 1 - u is never 0, so the logarithm is finite.
            Arrivals::Poisson => -(1.0 - self.random.f64()).ln(),
        };
        Some(Duration::from_secs_f64(moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(rate: f64, seconds: u64) -> Profile {
        Profile::constant(rate, Duration::from_secs(seconds))
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let moments: Vec<_> = Schedule::new(Arrivals::Constant, constant(4.0, 1), 0).collect();
        assert_eq!(moments, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread() {
        let schedule = Schedule::new(Arrivals::Poisson, constant(100.0, 1000), 7);
        let moments: Vec<f64> = schedule.map(|d| d.as_secs_f64()).collect();
        let rate = moments.len() as f64 / 1000.0;
        assert!((rate - 100.0).abs() < 2.0, "{rate}");
        let gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "an exponential's deviation is its mean");
    }

    #[test]
    fn a_ramp_has_the_rate_of_each_step() {
        let profile = Profile::ramp(1.0, 100.0, 10, Duration::from_secs(1000));
        let mut counts = [0.0; 10];
        for moment in Schedule::new(Arrivals::Poisson, profile.clone(), 3) {
            counts[moment.as_secs() as usize / 100] += 0.01;
        }
        for (step, count) in counts.iter().enumerate() {
            let rate = profile.rate_at(Duration::from_secs(step as u64 * 100));
            assert!((count - rate).abs() < 4.0 * (rate / 100.0).sqrt(), "step {step}: {count} for {rate}");
        }
    }
}
