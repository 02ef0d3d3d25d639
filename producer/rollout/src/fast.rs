//! What is checked with every window, whatever the rule: vectors that disagree, a spike of errors, a silent candidate.
//!
//! These have an error probability of their own, a tiny one, spread evenly over all windows of the rollout, because they
//! are looked at so often. A pause may last for ever: what is checked then uses none of it, but a level that years of windows do not use up.

use std::time::Duration;

use statrs::distribution::{Binomial, DiscreteCDF, Hypergeometric};

use crate::{
    config::Config,
    evidence::{Evidence, Tally},
    verdict::{Check, Finding, Metric, Reason},
};

/// How many of the last windows are searched for a spike. With enough traffic one or two show it; with little, it takes more.
const SPIKE_SPANS: [usize; 5] = [1, 2, 4, 8, 16];

/// How many windows a paused rollout is watched by: as many as the longest of these tests takes.
pub const PAUSED_WINDOWS: usize = 16;
/// The level of a test in a pause: a year of windows of five seconds adds up to 0.00004.
const PAUSED_LEVEL: f64 = 1e-12;

/// Reasons to roll back at once, and what the probes say. The probes come first, if there are any.
pub(crate) fn check(config: &Config, evidence: &Evidence, check: Check) -> Vec<Reason> {
    // With each window, one test for each span, and one for silence.
    let tests = (SPIKE_SPANS.len() + 1) as f64 * f64::from(config.plan.windows()) * config.plan.steps.len() as f64;
    let level = if check == Check::Paused { PAUSED_LEVEL } else { config.fast.alpha / tests };
    let mut reasons: Vec<Reason> = probes(config, evidence).into_iter().collect();
    reasons.extend(SPIKE_SPANS.into_iter().filter_map(|windows| spike(config, evidence, windows, level)).take(1));
    reasons.extend(silence(config, evidence, level));
    reasons
}

fn probes(config: &Config, evidence: &Evidence) -> Option<Reason> {
    let cosines = evidence.probes.as_deref().unwrap_or_default();
    config.probes.required.then(|| agreement(config, cosines, evidence.windows()))
}

/// Whether both variants' vectors agree on the probes, whose cosines these are.
#[must_use]
pub fn agreement(config: &Config, cosines: &[f64], windows: usize) -> Reason {
    let settings = &config.probes;
    if cosines.len() < settings.min_probes.max(1) {
        let sentence = format!("{} probes of both variants, {} are wanted", cosines.len(), settings.min_probes.max(1));
        return Reason::new(Metric::Probes, Finding::TooLittle, windows, sentence);
    }
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let min = cosines.iter().copied().fold(1.0, f64::min);
    // A cosine that is no number compares false, and fails.
    let agree = mean > settings.mean_cosine && cosines.iter().all(|c| *c > settings.min_cosine);
    let sentence = format!(
        "both variants' vectors have a mean cosine of {mean:.4} (wanted: above {}) and a smallest of {min:.4} (above {}) on {} probes",
        settings.mean_cosine,
        settings.min_cosine,
        cosines.len()
    );
    let finding = if agree { Finding::Pass } else { Finding::Fail };
    Reason::new(Metric::Probes, finding, windows, sentence).figures(1.0, mean, mean, settings.mean_cosine)
}

/// The error rates of the last `windows` windows. Compared with the baseline's of the same time, so that what hits both arms is nobody's
/// spike. Counts are divided by the number of requests of a batch, which can fail together.
fn spike(config: &Config, evidence: &Evidence, windows: usize, level: f64) -> Option<Reason> {
    let from = evidence.windows().checked_sub(windows)?;
    let [baseline, candidate] = evidence.arms().map(|arm| Tally::of(&arm[from..], &config.ignored_errors));
    let baseline = if baseline.requests > 0 || evidence.candidate_percent < 100.0 {
        baseline
    } else {
        Tally::of(&evidence.reference, &config.ignored_errors)
    };
    if candidate.failed < config.fast.spike_errors || baseline.requests == 0 {
        return None;
    }
    let (before, now) = (baseline.error_rate(), candidate.error_rate());
    if now - before < config.fast.spike {
        return None;
    }
    // Failed requests are in no batch, so a window that only fails says nothing about batches: ask the whole step.
    let step = evidence.arms().map(|arm| Tally::of(arm, &config.ignored_errors).requests_per_batch());
    let together = step[0].max(step[1]);
    let part = |n: u64| (n as f64 / together).floor() as u64;
    let whole = |n: u64| (n as f64 / together).ceil() as u64;
    let p = probability(
        part(candidate.failed),
        whole(candidate.requests),
        whole(baseline.failed),
        whole(baseline.requests),
    );
    if p > level {
        return None;
    }
    let sentence = format!(
        "{} of the candidate's last {} requests failed ({:.1} %{}), of the baseline's {:.1} %{}",
        candidate.failed,
        candidate.requests,
        now * 100.0,
        candidate.codes(),
        before * 100.0,
        baseline.codes(),
    );
    let mut reason = Reason::new(Metric::Spike, Finding::Fail, windows, sentence).figures(
        before,
        now,
        now - before,
        config.fast.spike,
    );
    (reason.p_rollback, reason.alpha_rollback) = (Some(p), level);
    Some(reason)
}

/// Fisher's exact test, one-sided: so many failures or more among the candidate's requests, if failing did not depend on the arm.
fn probability(failed: u64, requests: u64, baseline_failed: u64, baseline_requests: u64) -> f64 {
    let failed = failed.min(requests);
    if failed == 0 {
        return 1.0;
    }
    let (all, bad) = (requests + baseline_requests, failed + baseline_failed.min(baseline_requests));
    // The sum over a hypergeometric tail takes as long as there are requests; where there are many, a binomial is as good.
    if all > 20_000 {
        return Binomial::new(bad as f64 / all as f64, requests).map_or(1.0, |b| b.sf(failed - 1));
    }
    Hypergeometric::new(all, bad, requests).map_or(1.0, |h| h.sf(failed - 1))
}

/// No request of the candidate's in the last windows, while the baseline had so many that its share should have brought some.
fn silence(config: &Config, evidence: &Evidence, level: f64) -> Option<Reason> {
    let [baseline, candidate] = evidence.arms();
    let backlog = |at: usize| evidence.candidate.backlog.get(at).map_or(0, |backlog| backlog.left_out);
    // Whoever works on what had been waiting before is not gone.
    let silent = (0..candidate.len()).rev().take_while(|at| candidate[*at].requests == 0 && backlog(*at) == 0).count();
    let restart = config.fast.restart.as_millis().div_ceil(u128::from(evidence.window_ms.max(1)));
    let longest = (config.fast.silent_windows as usize).max(usize::try_from(restart).unwrap_or(usize::MAX));
    if silent < longest || evidence.candidate_percent >= 100.0 {
        return None;
    }
    let others: u64 = baseline[baseline.len() - silent..].iter().map(|w| w.requests).sum();
    // The mapping picks a variant for each message by itself.
    let p = (others as f64 * (1.0 - evidence.share()).ln()).exp();
    if p > level {
        return None;
    }
    let sentence = format!(
        "the candidate answered nothing in the last {silent} windows ({}), in which the baseline answered {others} requests: its workers \
         are gone, or do not get their share",
        humantime::format_duration(Duration::from_millis(silent as u64 * u64::from(evidence.window_ms)))
    );
    let mut reason = Reason::new(Metric::Silence, Finding::Fail, silent, sentence).figures(
        others as f64,
        0.0,
        0.0,
        others as f64 * evidence.share() / (1.0 - evidence.share()),
    );
    (reason.p_rollback, reason.alpha_rollback) = (Some(p), level);
    Some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fisher() {
        // The lady tasting tea: 4 of 4 right, 1 in 70.
        assert!((probability(4, 4, 0, 4) - 1.0 / 70.0).abs() < 1e-12);
        assert!((probability(0, 4, 4, 4) - 1.0).abs() < 1e-12);
        // The binomial takes over where it is as good.
        let (exact, approximate) = (probability(9, 1_000, 300, 19_000), probability(9, 1_001, 316, 20_000));
        assert!(exact > 0.01 && (exact / approximate - 1.0).abs() < 0.5, "{exact} {approximate}");
    }
}
