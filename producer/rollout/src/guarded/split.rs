//! Is the split what the weights say? If not, the arms are not alike, and nothing else can be believed.
//!
//! The mapping picks a variant for each message by itself, so the candidate's count is binomial. Pearson's chi-squared is
//! divided by the dispersion between blocks (at least 1): arms that count the same message in different windows scatter more.
//!
//! What is counted is what was done. While the baseline still works on what had been waiting before the step, its part of what was
//! sent since is waiting behind that, and the split cannot be seen. A candidate that is behind is another matter: it does not keep up.

use statrs::distribution::{ContinuousCDF, FisherSnedecor};

use crate::{
    config::Guarded,
    evidence::{Blocks, Evidence},
    verdict::{Finding, Metric, Reason},
};

/// Compares the candidate's share with its weight. `level` is the error probability of this look.
pub(crate) fn check(blocks: &Blocks, evidence: &Evidence, level: f64, settings: &Guarded) -> Reason {
    let (share, windows) = (evidence.share(), evidence.windows());
    let [baseline, candidate] = blocks.arms.each_ref().map(|arm| arm.requests.iter().sum::<f64>());
    let total = baseline + candidate;
    if total == 0.0 || blocks.len < 2 {
        return Reason::new(Metric::Split, Finding::TooLittle, windows, "no requests to see the split by");
    }
    if evidence.baseline.is_behind(windows) {
        let sentence = "the baseline works on requests that had been waiting: the split cannot be seen yet";
        return Reason::new(Metric::Split, Finding::TooLittle, windows, sentence);
    }
    let observed = candidate / total;
    let chi_squared = (candidate - share * total).powi(2) / (total * share * (1.0 - share));
    let p = FisherSnedecor::new(1.0, blocks.df(settings.correlation))
        .map_or(1.0, |f| f.sf(chi_squared / dispersion(blocks, observed).max(1.0)));
    let off = (observed / share - 1.0).abs().max(((1.0 - observed) / (1.0 - share) - 1.0).abs());
    let mismatch = p <= level && off > settings.split_tolerance;
    let sentence = format!(
        "the candidate got {:.2} % of {total} requests, its weight is {:.2} %{}",
        observed * 100.0,
        share * 100.0,
        if mismatch && evidence.candidate.is_behind(windows) {
            ": it does not keep up, and what was sent to it is waiting"
        } else if mismatch {
            ": the arms cannot be compared; look for pinned callers, a missing worker, or weights changed by hand"
        } else {
            ""
        }
    );
    let finding = if mismatch { Finding::Fail } else { Finding::Pass };
    let mut reason =
        Reason::new(Metric::Split, finding, windows, sentence).figures(1.0 - observed, observed, observed, share);
    (reason.p_rollback, reason.alpha_rollback) = (Some(p), level);
    reason
}

/// Pearson's dispersion of the candidate's count between blocks.
fn dispersion(blocks: &Blocks, observed: f64) -> f64 {
    let [baseline, candidate] = &blocks.arms;
    let spread = observed * (1.0 - observed);
    let sum: f64 = baseline
        .requests
        .iter()
        .zip(&candidate.requests)
        .filter(|(b, c)| *b + *c > 0.0 && spread > 0.0)
        .map(|(b, c)| (c - observed * (b + c)).powi(2) / ((b + c) * spread))
        .sum();
    sum / (blocks.len as f64 - 1.0)
}
