//! Alpha spending: how often one may look without being wrong more often.
//!
//! Lan and DeMets (1983): a function says how much of the error probability may be spent by the time a share `t` of the
//! evidence is there. The level of each single look follows from it and from the correlation of the looks, which is that of a
//! Brownian motion (Armitage, McPherson and Rowe 1969), by numerical integration.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Continuous, ContinuousCDF, Normal};

/// How an error probability is spent over the looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spending {
    /// Hardly anything early, nearly all of it left for the end. Promotions: no hurry.
    ObrienFleming,
    /// About evenly. Rollbacks: harm should be seen early.
    Pocock,
}

impl Spending {
    /// What of `alpha` (one-sided) may have been spent at the share `t` of the evidence.
    #[must_use]
    pub fn spent(self, alpha: f64, t: f64) -> f64 {
        let t = t.clamp(0.0, 1.0);
        match self {
            _ if t == 0.0 => 0.0,
            Self::ObrienFleming => 2.0 * normal().sf(normal().inverse_cdf(1.0 - alpha / 2.0) / t.sqrt()),
            Self::Pocock => alpha * (1.0 + (std::f64::consts::E - 1.0) * t).ln(),
        }
    }

    /// The one-sided level of each look, so that all looks together reject a true null hypothesis with probability `alpha`.
    /// `fractions` are the shares of the evidence at the looks, rising, in (0, 1].
    #[must_use]
    pub fn levels(self, alpha: f64, fractions: &[f64]) -> Vec<f64> {
        let mut surviving: Option<Surviving> = None;
        let mut spent = 0.0;
        fractions
            .iter()
            .map(|&t| {
                let now = self.spent(alpha, t) - spent;
                spent += now;
                let bound = match &surviving {
                    None => t.sqrt() * normal().inverse_cdf(1.0 - now),
                    Some(before) => before.bound(t, now),
                };
                surviving = Some(match &surviving {
                    None => Surviving::new(t, bound, |s| normal().pdf(s / t.sqrt()) / t.sqrt()),
                    Some(before) => Surviving::new(t, bound, |s| before.density(t, s)),
                });
                normal().sf(bound / t.sqrt())
            })
            .collect()
    }
}

pub(crate) fn normal() -> Normal {
    Normal::standard()
}

/// Where the Brownian motion may be at time `t` if no bound has been crossed: density times Simpson's weight, on a grid.
struct Surviving {
    t: f64,
    points: Vec<(f64, f64)>,
}

impl Surviving {
    const INTERVALS: usize = 400;

    fn new(t: f64, bound: f64, density: impl Fn(f64) -> f64) -> Self {
        // Beyond nine standard deviations there is nothing that a double would notice.
        let reach = 9.0 * t.sqrt();
        let (low, high) = (-reach, bound.min(reach));
        let step = (high - low) / Self::INTERVALS as f64;
        let points = (0..=Self::INTERVALS).map(|i| {
            let s = low + step * i as f64;
            let weight = if i == 0 || i == Self::INTERVALS {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            (s, density(s) * weight * step / 3.0)
        });
        Self { t, points: points.collect() }
    }

    fn density(&self, t: f64, s: f64) -> f64 {
        let sd = (t - self.t).sqrt();
        self.points.iter().map(|(from, mass)| mass * normal().pdf((s - from) / sd)).sum::<f64>() / sd
    }

    /// The bound at time `t` that is crossed with probability `probability`, and none before.
    fn bound(&self, t: f64, probability: f64) -> f64 {
        let sd = (t - self.t).sqrt();
        let crossed = |b: f64| self.points.iter().map(|(from, mass)| mass * normal().sf((b - from) / sd)).sum::<f64>();
        let (mut low, mut high) = (-9.0 * t.sqrt(), 12.0 * t.sqrt());
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if crossed(middle) > probability {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds on the scale of z at five even looks, one-sided 0.025, as published (and as gsDesign and ldbounds print them).
    #[test]
    fn published_bounds() {
        let fifths = [0.2, 0.4, 0.6, 0.8, 1.0];
        for (spending, published) in [
            (Spending::ObrienFleming, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
            (Spending::Pocock, [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
        ] {
            for (level, expected) in spending.levels(0.025, &fifths).into_iter().zip(published) {
                let z = normal().inverse_cdf(1.0 - level);
                assert!((z - expected).abs() < 0.002, "{spending:?}: {z} for {expected}");
            }
        }
    }

    #[test]
    fn one_look_gets_everything() {
        for spending in [Spending::ObrienFleming, Spending::Pocock] {
            let levels = spending.levels(0.05, &[1.0]);
            assert!((levels[0] - 0.05).abs() < 1e-9, "{levels:?}");
        }
    }

    #[test]
    fn tiny_probabilities_stay_probabilities() {
        let tenths: Vec<f64> = (1..=10).map(|k| f64::from(k) / 10.0).collect();
        for spending in [Spending::ObrienFleming, Spending::Pocock] {
            let levels = spending.levels(1e-4, &tenths);
            assert!(levels.iter().all(|l| (0.0..=1e-4).contains(l)), "{levels:?}");
            assert!(levels.iter().sum::<f64>() >= 1e-4 * 0.999, "{levels:?}");
        }
    }
}
