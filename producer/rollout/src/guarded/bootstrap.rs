//! The block bootstrap: how far ratios would scatter if the step were lived through again.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::evidence::{ArmBlocks, Blocks};

/// Something of an arm that can be computed from resampled blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    /// A percentile of the latencies, in microseconds.
    Quantile(f64),
    /// Tokens per engine second.
    Throughput,
}

impl Figure {
    pub(crate) fn of(self, arm: &ArmBlocks, times: &[u32]) -> Option<f64> {
        match self {
            Self::Quantile(q) => arm.quantile(q, times).filter(|us| *us > 0.0),
            Self::Throughput => {
                let sum = |column: &[f64]| column.iter().zip(times).map(|(x, n)| x * f64::from(*n)).sum::<f64>();
                let rate = sum(&arm.tokens) / sum(&arm.busy) * 1e6;
                (rate.is_finite() && rate > 0.0).then_some(rate)
            }
        }
    }
}

/// Standard errors of the logarithms of the ratios candidate / baseline. Blocks are drawn for both arms together. `None` where
/// more than one resample in twenty has no ratio: the evidence is too thin to say.
pub(crate) fn standard_errors(
    blocks: &Blocks,
    figures: &[Figure],
    resamples: u32,
    correlation: f64,
    seed: u64,
) -> Vec<Option<f64>> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut moments = vec![Moments::default(); figures.len()];
    let mut times = vec![0u32; blocks.len];
    if blocks.len < 2 {
        return vec![None; figures.len()];
    }
    for _ in 0..resamples {
        times.fill(0);
        for _ in 0..blocks.len {
            times[rng.random_range(0..blocks.len)] += 1;
        }
        for (figure, moments) in figures.iter().zip(&mut moments) {
            let [baseline, candidate] = blocks.arms.each_ref().map(|arm| figure.of(arm, &times));
            if let (Some(baseline), Some(candidate)) = (baseline, candidate) {
                moments.add((candidate / baseline).ln());
            }
        }
    }
    // Drawing m of m blocks understates the variance by (m - 1) / m; cutting the series into blocks understates it too.
    let factor = (blocks.len as f64 / (blocks.len as f64 - 1.0) * blocks.inflation(correlation)).sqrt();
    moments.iter().map(|m| m.deviation(resamples).map(|sd| sd * factor)).collect()
}

/// Mean and variance in one pass (Welford).
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    n: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.n += 1.0;
        let before = x - self.mean;
        self.mean += before / self.n;
        self.squares += before * (x - self.mean);
    }

    fn deviation(&self, wanted: u32) -> Option<f64> {
        (self.n > 2.0 && self.n >= 0.95 * f64::from(wanted)).then(|| (self.squares / (self.n - 1.0)).sqrt())
    }
}
