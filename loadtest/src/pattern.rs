//! Patterns of load: how many calls a second, and how that changes over a run.

use std::time::Duration;

use clap::ValueEnum;

/// Steps of a ramp.
const STEPS: u32 = 10;

/// What the load looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Below 5 calls a second
    Low,
    /// 5 to 20 calls a second
    Moderate,
    /// 20 to 100 calls a second
    High,
    /// More than 100 calls a second
    Peak,
    /// From 1 call a second up to the rate, in ten steps
    Ramp,
    /// The rate, while bulk jobs take all the capacity that they can get
    Mixed,
    /// The rate
    Constant,
}

impl Pattern {
    /// The name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Moderate => "moderate",
            Self::High => "high",
            Self::Peak => "peak",
            Self::Ramp => "ramp",
            Self::Mixed => "mixed",
            Self::Constant => "constant",
        }
    }

    /// The rate if none is asked for, and the bounds of one that is.
    const fn rates(self) -> (f64, f64, f64) {
        match self {
            Self::Low => (4.0, 0.0, 5.0),
            Self::Moderate => (12.0, 5.0, 20.0),
            Self::High => (60.0, 20.0, 100.0),
            Self::Peak => (120.0, 100.0, f64::INFINITY),
            Self::Ramp => (120.0, 1.0, f64::INFINITY),
            Self::Mixed => (12.0, 0.0, f64::INFINITY),
            Self::Constant => (50.0, 0.0, f64::INFINITY),
        }
    }

    /// Calls a second, the most that there will be: what is asked for, or the pattern's own.
    ///
    /// # Errors
    /// If what is asked for is not within the pattern; says what would be.
    pub fn rate(self, asked: Option<f64>) -> Result<f64, String> {
        let (own, least, most) = self.rates();
        let rate = asked.unwrap_or(own);
        if rate > 0.0 && rate.is_finite() && (least..=most).contains(&rate) {
            return Ok(rate);
        }
        let bounds = if most.is_finite() { format!("{least} to {most}") } else { format!("above {least}") };
        Err(format!("--rate {rate}: the pattern `{}` has {bounds} calls a second", self.name()))
    }

    /// The rates over a run, at most `rate`.
    #[must_use]
    pub fn profile(self, rate: f64, whole: Duration) -> Profile {
        match self {
            Self::Ramp => Profile::ramp(1.0_f64.min(rate), rate, STEPS, whole),
            _ => Profile::constant(rate, whole),
        }
    }
}

/// Calls a second over time: steps, each of the same length.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    rates: Vec<f64>,
    /// Seconds.
    step: f64,
    /// Seconds, at the first rate, before the first step.
    warm_up: f64,
}

impl Profile {
    /// The same rate all the time.
    #[must_use]
    pub fn constant(rate: f64, whole: Duration) -> Self {
        Self { rates: vec![rate], step: whole.as_secs_f64(), warm_up: 0.0 }
    }

    /// From one rate to another in equal steps.
    #[must_use]
    pub fn ramp(from: f64, to: f64, steps: u32, whole: Duration) -> Self {
        let last = f64::from(steps.max(2) - 1);
        let rates = (0..steps.max(2)).map(|step| from + (to - from) * f64::from(step) / last).collect();
        Self { rates, step: whole.as_secs_f64() / f64::from(steps.max(2)), warm_up: 0.0 }
    }

    /// The same, after some time at the first rate.
    #[must_use]
    pub fn after(self, warm_up: Duration) -> Self {
        Self { warm_up: warm_up.as_secs_f64(), ..self }
    }

    /// Calls a second at a moment; none after the end.
    #[must_use]
    pub fn rate_at(&self, moment: Duration) -> f64 {
        let step = (moment.as_secs_f64() - self.warm_up) / self.step;
        self.rates.get(step.max(0.0) as usize).copied().unwrap_or_default()
    }

    /// Calls in the whole run.
    #[must_use]
    pub fn calls(&self) -> f64 {
        self.segments().map(|(seconds, rate)| seconds * rate).sum()
    }

    /// The moment, in seconds, until which so many calls are due; `None` if that is never.
    #[must_use]
    pub fn moment_of(&self, calls: f64) -> Option<f64> {
        let (mut left, mut begin) = (calls, 0.0);
        for (seconds, rate) in self.segments() {
            if left < rate * seconds {
                return Some(begin + left / rate);
            }
            left -= rate * seconds;
            begin += seconds;
        }
        None
    }

    /// Seconds, and the rate in them, in order.
    fn segments(&self) -> impl Iterator<Item = (f64, f64)> {
        let warm_up = (self.warm_up, self.rates.first().copied().unwrap_or_default());
        [warm_up].into_iter().chain(self.rates.iter().map(|rate| (self.step, *rate)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_has_its_own_rate_and_bounds() {
        for pattern in Pattern::value_variants() {
            assert!(pattern.rate(None).is_ok(), "{pattern:?}");
            assert!(pattern.rate(Some(0.0)).is_err() && pattern.rate(Some(f64::NAN)).is_err(), "{pattern:?}");
        }
        assert_eq!(Pattern::Moderate.rate(Some(15.0)), Ok(15.0));
        assert_eq!(Pattern::Peak.rate(Some(300.0)), Ok(300.0));
        let error = Pattern::High.rate(Some(200.0)).unwrap_err();
        assert!(error.contains("20 to 100"), "{error}");
    }

    #[test]
    fn a_ramp_climbs_in_steps() {
        let ramp = Pattern::Ramp.profile(100.0, Duration::from_secs(20));
        let rates: Vec<f64> = (0..10).map(|step| ramp.rate_at(Duration::from_secs(2 * step))).collect();
        assert_eq!(rates[..2], [1.0, 12.0]);
        assert_eq!(rates[9], 100.0);
        assert_eq!(ramp.rate_at(Duration::from_millis(1999)), 1.0);
        assert_eq!(ramp.rate_at(Duration::from_secs(20)), 0.0);
    }

    #[test]
    fn a_warm_up_is_at_the_first_rate() {
        let ramp = Profile::ramp(2.0, 4.0, 2, Duration::from_secs(2)).after(Duration::from_secs(3));
        let rates: Vec<f64> = (0..6).map(|second| ramp.rate_at(Duration::from_secs(second))).collect();
        assert_eq!((rates, ramp.calls()), (vec![2.0, 2.0, 2.0, 2.0, 4.0, 0.0], 12.0));
        assert_eq!((ramp.moment_of(7.0), ramp.moment_of(10.0)), (Some(3.5), Some(4.5)));
    }

    proptest! {
        #[test]
        fn moments_follow_the_rates(to in 1.0f64..500.0, steps in 2u32..20, seconds in 1u64..100, share in 0.0f64..0.999) {
            let ramp = Profile::ramp(1.0, to, steps, Duration::from_secs(seconds));
            let (calls, more) = (ramp.calls() * share, ramp.calls() * (share + 0.001) * 0.999);
            let moment = ramp.moment_of(calls).unwrap();
            prop_assert!((0.0..=seconds as f64).contains(&moment));
            prop_assert!(more < calls || ramp.moment_of(more).is_none_or(|later| later >= moment));
            prop_assert_eq!(ramp.moment_of(ramp.calls() * 1.001), None);
        }
    }
}
