//! One estimate with its standard error against a margin: both one-sided tests and the bounds they amount to.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// An estimate in which more is worse, with what is needed to test it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Estimate {
    /// The estimate.
    pub(crate) value: f64,
    /// Its standard error, above 0.
    pub(crate) se: f64,
    /// Degrees of freedom of the standard error: blocks less one.
    pub(crate) df: f64,
}

/// What the tests say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tested {
    /// Probability of an estimate as low as this one if the truth is at the margin.
    pub(crate) p_within: f64,
    /// Probability of an estimate as high as this one if the truth is at the margin.
    pub(crate) p_beyond: f64,
    /// The estimate is beyond doubt above this: fails if that is above the margin.
    pub(crate) lower: Option<f64>,
    /// The estimate is beyond doubt below this: passes if that is below the margin. `None` if nothing is spent at this look.
    pub(crate) upper: Option<f64>,
}

impl Estimate {
    pub(crate) fn test(self, margin: f64, promote: f64, rollback: f64) -> Tested {
        let student = StudentsT::new(0.0, 1.0, self.df.max(1.0)).expect("the degrees of freedom are positive");
        let t = (self.value - margin) / self.se;
        let reach = |level: f64| (level > 0.0).then(|| -student.inverse_cdf(level) * self.se);
        Tested {
            p_within: student.cdf(t),
            p_beyond: student.sf(t),
            lower: reach(rollback).map(|r| self.value - r),
            upper: reach(promote).map(|r| self.value + r),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_probabilities_say_the_same() {
        for df in [3.0, 9.0, 29.0] {
            for value in [-0.4, -0.1, 0.0, 0.05, 0.1, 0.3, 1.0] {
                for level in [0.05, 1e-3, 1e-6] {
                    let tested = Estimate { value, se: 0.07, df }.test(0.08, level, level);
                    assert_eq!(tested.p_beyond <= level, tested.lower.unwrap() >= 0.08, "{value} {level} {df}");
                    assert_eq!(tested.p_within <= level, tested.upper.unwrap() <= 0.08, "{value} {level} {df}");
                    assert!((tested.p_within + tested.p_beyond - 1.0).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn published_quantile() {
        // t with 9 degrees of freedom: 1.833 cuts off 5 %.
        let tested = Estimate { value: 0.0, se: 1.0, df: 9.0 }.test(0.0, 0.05, 0.05);
        assert!((tested.upper.unwrap() - 1.833).abs() < 1e-3 && (tested.lower.unwrap() + 1.833).abs() < 1e-3);
    }
}
