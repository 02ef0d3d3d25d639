//! The rule `classic`: fixed thresholds on how much the candidate improves.
//!
//! - *rollout* if p95 improves by more than 60 % and errors grow by less than 5 %; *gradual* above 30 % and below 10 %;
//!   otherwise *rollback*;
//! - the improvement counts if Welch's t-test and Cohen's d call the effect large or medium;
//! - *success* if p95 is below 10 ms and below 0.4 of the baseline's, the error rates differ by less than 0.1 percentage points, and the
//!   vectors' cosine exceeds 0.99.
//!
//! Nothing is decided before each arm has its requests and the time has passed. Unlike `guarded`, it takes requests as independent, which
//! requests of one batch are not: with much traffic everything is significant, and the size of the effect decides.

use embed_schemas::{LatencySketch, WindowCounts};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::{
    Evidence,
    config::{Classic, Config},
    evidence::Tally,
    verdict::{Decision, Finding, Metric, Pace, Reason, list},
};

type Outcome = (Decision, String, Vec<Reason>);

/// Decides at a look (from 1).
pub(crate) fn decide(config: &Config, evidence: &Evidence, look: u32) -> Outcome {
    let c = &config.classic;
    let last = look >= config.plan.looks;
    let wait = |reasons: Vec<Reason>, why: String| {
        if last {
            (Decision::Pause, format!("Paused: {why}."), reasons)
        } else {
            (Decision::Hold, format!("Holding: {why}."), reasons)
        }
    };
    if evidence.candidate_percent >= 100.0 {
        return if last && evidence.candidate.windows.iter().all(|w| w.requests == 0) {
            wait(Vec::new(), "the candidate has all the traffic, and there was none".into())
        } else if last {
            let done = "Promoted: the candidate has had all the traffic for the whole step, without an error spike.";
            (Decision::Promote { pace: Pace::NextStep }, done.into(), Vec::new())
        } else {
            wait(Vec::new(), "the candidate has all the traffic and is watched".into())
        };
    }
    let windows = evidence.windows();
    let [baseline, candidate] = evidence.arms().map(|arm| Tally::of(arm, &config.ignored_errors));
    let [base, cand] = evidence.arms().map(merged);
    let volume = volume(c, evidence, &baseline, &candidate);
    let (Some(base_p95), Some(cand_p95), Finding::Pass) = (base.quantile(0.95), cand.quantile(0.95), volume.finding)
    else {
        let why = volume.sentence.clone();
        return wait(vec![volume], why);
    };

    let improvement = 1.0 - cand_p95 / base_p95;
    let increase = relative(candidate.error_rate(), baseline.error_rate());
    let grade = |least: f64, most: f64| improvement > least && increase < most;
    let rollout = grade(c.rollout_improvement, c.rollout_error_increase);
    let gradual = grade(c.gradual_improvement, c.gradual_error_increase);
    let graded = |yes: bool| if yes { Finding::Pass } else { Finding::Fail };
    let latency = Reason::new(
        Metric::P95,
        graded(improvement > c.gradual_improvement),
        windows,
        format!(
            "p95 is {:.2} ms, the baseline's {:.2} ms: {:.1} % better (more than {:.0} % is wanted)",
            cand_p95 / 1e3,
            base_p95 / 1e3,
            improvement * 100.0,
            c.gradual_improvement * 100.0
        ),
    )
    .figures(base_p95, cand_p95, improvement, c.gradual_improvement);
    let errors = Reason::new(
        Metric::Errors,
        graded(increase < c.gradual_error_increase),
        windows,
        format!(
            "{:.3} % of the candidate's requests fail{}, {:.3} % of the baseline's{}: {} (less than {:+.0} % is wanted)",
            candidate.error_rate() * 100.0,
            candidate.codes(),
            baseline.error_rate() * 100.0,
            baseline.codes(),
            growth(increase),
            c.gradual_error_increase * 100.0
        ),
    )
    .figures(baseline.error_rate(), candidate.error_rate(), increase, c.gradual_error_increase);
    let (effect, significant) = effect(c, &base, &cand, windows);
    let misses = misses(config, evidence, [base_p95, cand_p95], candidate.error_rate() - baseline.error_rate());
    let reasons = vec![volume, latency, errors, effect];
    // By how much something exceeds nothing is no number, unless it is more than chance makes of equal arms.
    let from_nothing = baseline.failed == 0 && candidate.failed > 0 && improvement > c.gradual_improvement;
    if from_nothing && chance(&baseline, &candidate) > c.large_p {
        let why = format!("{}: too few failures to say by how much they grow", reasons[2].sentence);
        wait(reasons, why)
    } else if !rollout && !gradual {
        let why = format!("Rolled back: {}.", list(&reasons, Finding::Fail));
        (Decision::RollBack, why, reasons)
    } else if !significant {
        let why = reasons[3].sentence.clone();
        wait(reasons, why)
    } else if rollout && misses.is_empty() {
        let why = format!("Promoted: rollout, all success criteria are met ({}).", list(&reasons[1..], Finding::Pass));
        (Decision::Promote { pace: Pace::Full }, why, reasons)
    } else {
        let why = if misses.is_empty() { String::new() } else { format!("; not yet a success: {}", misses.join(", ")) };
        let why = format!("Promoted: gradual, one step ({}){why}.", list(&reasons[1..], Finding::Pass));
        (Decision::Promote { pace: Pace::NextStep }, why, reasons)
    }
}

fn merged(windows: &[WindowCounts]) -> LatencySketch {
    windows.iter().fold(LatencySketch::default(), |mut sum, w| {
        sum.merge(&w.latency_us);
        sum
    })
}

/// Growth relative to the baseline. From nothing to something it is infinite.
fn relative(candidate: f64, baseline: f64) -> f64 {
    if candidate == baseline { 0.0 } else { (candidate - baseline) / baseline }
}

fn growth(increase: f64) -> String {
    if increase.is_finite() { format!("{:+.1} %", increase * 100.0) } else { "more than none".to_owned() }
}

/// Fisher's exact test where the baseline has no failures: the probability that all of them are the candidate's by chance.
fn chance(baseline: &Tally, candidate: &Tally) -> f64 {
    let (ours, all) = (candidate.requests as f64, (candidate.requests + baseline.requests) as f64);
    (0..candidate.failed).map(|n| (ours - n as f64) / (all - n as f64)).product()
}

fn volume(c: &Classic, evidence: &Evidence, baseline: &Tally, candidate: &Tally) -> Reason {
    let seconds = evidence.windows() as u64 * u64::from(evidence.window_ms) / 1_000;
    let fewest = baseline.requests.min(candidate.requests);
    let enough = fewest >= c.min_requests && seconds >= c.min_duration.as_secs();
    let sentence = format!(
        "{} and {} requests in {} (wanted: {} an arm and {})",
        baseline.requests,
        candidate.requests,
        humantime::format_duration(std::time::Duration::from_secs(seconds)),
        c.min_requests,
        humantime::format_duration(c.min_duration)
    );
    let finding = if enough { Finding::Pass } else { Finding::TooLittle };
    Reason::new(Metric::Volume, finding, evidence.windows(), sentence).figures(
        baseline.requests as f64,
        candidate.requests as f64,
        fewest as f64,
        c.min_requests as f64,
    )
}

/// Welch's t-test and Cohen's d of the latencies, and whether the effect is at least medium.
fn effect(c: &Classic, baseline: &LatencySketch, candidate: &LatencySketch, windows: usize) -> (Reason, bool) {
    let (Some((mean_b, var_b)), Some((mean_c, var_c))) = (baseline.mean_variance(), candidate.mean_variance()) else {
        return (Reason::new(Metric::EffectSize, Finding::TooLittle, windows, "no latencies to compare"), false);
    };
    let (p, d) = welch([mean_b, var_b, baseline.count() as f64], [mean_c, var_c, candidate.count() as f64]);
    let size = if p < c.large_p && d > c.large_d {
        "large"
    } else if p < c.medium_p && d > c.medium_d {
        "medium"
    } else {
        "no significant"
    };
    let significant = size != "no significant";
    let finding = if significant { Finding::Pass } else { Finding::Inconclusive };
    let sentence = format!("a {size} effect on the mean latency (p = {p:.2e}, d = {d:.2})").replace("a no", "no");
    let mut reason = Reason::new(Metric::EffectSize, finding, windows, sentence).figures(mean_b, mean_c, d, c.medium_d);
    (reason.p_promote, reason.alpha_promote) = (Some(p), c.medium_p);
    (reason, significant)
}

/// Two-sided p of Welch's t-test, and Cohen's d (positive if the second is lower). Each sample is mean, variance, size.
fn welch([mean_a, var_a, n_a]: [f64; 3], [mean_b, var_b, n_b]: [f64; 3]) -> (f64, f64) {
    let (a, b) = (var_a / n_a, var_b / n_b);
    let pooled = f64::midpoint(var_a, var_b).sqrt();
    if a + b == 0.0 {
        // Nothing scatters: equal, or infinitely different.
        let same = mean_a == mean_b;
        return (f64::from(u8::from(same)), if same { 0.0 } else { (mean_a - mean_b).signum() * f64::INFINITY });
    }
    let t = (mean_a - mean_b) / (a + b).sqrt();
    let df = (a + b).powi(2) / (a * a / (n_a - 1.0).max(1.0) + b * b / (n_b - 1.0).max(1.0));
    let p = StudentsT::new(0.0, 1.0, df).map_or(1.0, |s| 2.0 * s.sf(t.abs()));
    (p, (mean_a - mean_b) / pooled)
}

/// The success criteria that are not met.
fn misses(config: &Config, evidence: &Evidence, [base_p95, cand_p95]: [f64; 2], difference: f64) -> Vec<String> {
    let c = &config.classic;
    let mut misses = Vec::new();
    if cand_p95 >= c.success_p95.as_micros() as f64 {
        misses.push(format!("p95 is not below {}", humantime::format_duration(c.success_p95)));
    }
    if cand_p95 >= c.success_p95_ratio * base_p95 {
        misses.push(format!("p95 is not below {} of the baseline's", c.success_p95_ratio));
    }
    if difference.abs() >= c.success_error_difference {
        misses.push(format!("the error rates differ by {:.3} percentage points", difference * 100.0));
    }
    if config.probes.required {
        let cosines = evidence.probes.as_deref().unwrap_or_default();
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        if mean.is_nan() || mean <= c.success_cosine {
            misses.push(format!("the mean cosine is not above {}", c.success_cosine));
        }
    }
    misses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welch_of_known_samples() {
        // t = 1.5649 with 46.291 degrees of freedom; p by Simpson's rule over the density of t.
        let (p, d) = welch([26.0, 25.0, 30.0], [24.0, 16.0, 20.0]);
        assert!((p - 0.124_412_6).abs() < 1e-6, "{p}");
        assert!((d - 2.0 / 20.5f64.sqrt()).abs() < 1e-12, "{d}");
    }
}
