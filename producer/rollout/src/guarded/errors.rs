//! Error rates: the difference of two proportions against a margin, with failures that come in clusters.
//!
//! The variance is that of the null hypothesis (Farrington and Manning 1990), so that an arm without any failure does not
//! look certain, times a design effect: how much more the difference scatters between blocks than independent failures would.

use crate::{evidence::Blocks, student::Estimate};

/// Blocks with failures from which on the design effect is estimated rather than assumed.
const CLUSTERS_TO_ESTIMATE: usize = 10;

/// The difference candidate - baseline. `margin` is the difference under the null hypothesis; `per_batch` the number of
/// requests that fail together if an engine run fails; `correlation` that of neighbouring windows. `None` if an arm has no requests, or there are fewer than two blocks.
pub(crate) fn difference(all: &Blocks, margin: f64, per_batch: f64, correlation: f64) -> Option<Estimate> {
    let ([baseline, candidate], blocks) = (&all.arms, all.len);
    let sum = |x: &[f64]| x.iter().sum::<f64>();
    let (n_b, n_c) = (sum(&baseline.requests), sum(&candidate.requests));
    if blocks < 2 || n_b == 0.0 || n_c == 0.0 {
        return None;
    }
    let (x_b, x_c) = (sum(&baseline.failed), sum(&candidate.failed));
    let (p_b, p_c) = (x_b / n_b, x_c / n_c);

    // Linearised: what each block adds to the difference beyond its share. Both arms' blocks are of the same time.
    let deviations = (0..blocks).map(|i| {
        (candidate.failed[i] - p_c * candidate.requests[i]) / n_c
            - (baseline.failed[i] - p_b * baseline.requests[i]) / n_b
    });
    let clustered =
        deviations.map(|d| d * d).sum::<f64>() * blocks as f64 / (blocks as f64 - 1.0) * all.inflation(correlation);
    let independent = p_b * (1.0 - p_b) / n_b + p_c * (1.0 - p_c) / n_c;
    let mut design = if independent > 0.0 { (clustered / independent).max(1.0) } else { 1.0 };
    let failing = candidate.failed.iter().filter(|x| **x > 0.0).count();
    if failing < CLUSTERS_TO_ESTIMATE {
        // Too few to see how they cluster: assume that what runs together fails together.
        design = design.max(per_batch);
    }

    let null = restricted(x_b, n_b, x_c, n_c, margin);
    let variance = null * (1.0 - null) / n_b + (null + margin) * (1.0 - null - margin) / n_c;
    Some(Estimate { value: p_c - p_b, se: (design * variance).sqrt(), df: all.df(correlation) })
}

/// The baseline's rate that makes the counts most likely if the candidate's is larger by exactly `margin`.
fn restricted(x_b: f64, n_b: f64, x_c: f64, n_c: f64, margin: f64) -> f64 {
    // The score falls as the rate rises; each term is left out where its count is zero, as it is then at its limit.
    let term = |x: f64, p: f64| if x > 0.0 { x / p } else { 0.0 };
    let score =
        |p: f64| term(x_b, p) - term(n_b - x_b, 1.0 - p) + term(x_c, p + margin) - term(n_c - x_c, 1.0 - p - margin);
    let (mut low, mut high) = (0.0, 1.0 - margin);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if score(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2x2 of Farrington and Manning's kind, checked against a direct search for the maximum.
    #[test]
    fn the_restricted_rate_maximises_the_likelihood() {
        for (x_b, n_b, x_c, n_c, margin) in
            [(30.0, 2_000.0, 9.0, 400.0, 0.002), (0.0, 5_000.0, 0.0, 300.0, 0.01), (5.0, 10.0, 9.0, 10.0, 0.1)]
        {
            let ln = |x: f64, p: f64| if x == 0.0 { 0.0 } else { x * p.ln() };
            let likelihood =
                |p: f64| ln(x_b, p) + ln(n_b - x_b, 1.0 - p) + ln(x_c, p + margin) + ln(n_c - x_c, 1.0 - p - margin);
            let found = restricted(x_b, n_b, x_c, n_c, margin);
            let best = (0..=1_000_000)
                .map(|i| f64::from(i) / 1e6 * (1.0 - margin))
                .filter(|p| likelihood(*p).is_finite())
                .max_by(|a, b| likelihood(*a).total_cmp(&likelihood(*b)))
                .unwrap();
            assert!((found - best).abs() < 2e-6, "{found} {best}");
        }
    }
}
