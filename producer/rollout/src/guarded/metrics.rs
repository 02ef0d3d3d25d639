//! The metrics, each with its estimate, its bounds, and what they say at this look.

use embed_schemas::latency::RELATIVE_ERROR;

use super::{Level, bootstrap, bootstrap::Figure, errors};
use crate::{
    config::{Config, Guarded},
    evidence::{Blocks, Evidence, Tally},
    student::{Estimate, Tested},
    verdict::{Finding, Metric, Reason},
};

/// Fewest blocks that a scatter can be estimated from.
const MIN_BLOCKS: usize = 4;

/// Compares the arms in all metrics of the configuration, in its order.
pub(crate) fn compare(config: &Config, evidence: &Evidence, blocks: &Blocks, level: Level, seed: u64) -> Vec<Reason> {
    let settings = &config.guarded;
    let figures: Vec<Figure> = settings.metrics.iter().filter_map(|m| figure(*m)).collect();
    let mut errors =
        bootstrap::standard_errors(blocks, &figures, settings.resamples, settings.correlation, seed).into_iter();
    let mut reasons = Vec::with_capacity(settings.metrics.len());
    for &metric in &settings.metrics {
        let mut reason = match figure(metric) {
            None => error_rates(config, evidence, blocks, level),
            Some(figure) => ratio(metric, figure, errors.next().flatten(), settings, evidence, blocks, level),
        };
        (reason.alpha_promote, reason.alpha_rollback) = (level.promote, level.rollback);
        reasons.push(reason);
    }
    reasons
}

fn figure(metric: Metric) -> Option<Figure> {
    match metric {
        Metric::P50 => Some(Figure::Quantile(0.50)),
        Metric::P95 => Some(Figure::Quantile(0.95)),
        Metric::P99 => Some(Figure::Quantile(0.99)),
        Metric::Throughput => Some(Figure::Throughput),
        _ => None,
    }
}

fn finding(tested: &Tested, level: Level) -> Finding {
    if tested.p_beyond <= level.rollback {
        Finding::Fail
    } else if level.promote > 0.0 && tested.p_within <= level.promote {
        Finding::Pass
    } else {
        Finding::Inconclusive
    }
}

fn error_rates(config: &Config, evidence: &Evidence, blocks: &Blocks, level: Level) -> Reason {
    let margin = config.guarded.errors;
    let windows = evidence.windows();
    let [baseline, candidate] = evidence.arms().map(|arm| Tally::of(arm, &config.ignored_errors));
    let per_batch = baseline.requests_per_batch().max(candidate.requests_per_batch());
    let estimate = (blocks.len >= MIN_BLOCKS)
        .then(|| errors::difference(blocks, margin, per_batch, config.guarded.correlation))
        .flatten();
    let Some(estimate) = estimate else {
        let sentence = format!(
            "{} and {} requests in {windows} windows are too few to compare errors",
            baseline.requests, candidate.requests
        );
        return Reason::new(Metric::Errors, Finding::TooLittle, windows, sentence);
    };
    let tested = estimate.test(margin, level.promote, level.rollback);
    let sentence = format!(
        "{:.3} % of the candidate's requests fail{}, {:.3} % of the baseline's{} (allowed: {:.3} percentage points more{})",
        candidate.error_rate() * 100.0,
        candidate.codes(),
        baseline.error_rate() * 100.0,
        baseline.codes(),
        margin * 100.0,
        bounds(&tested, |x| format!("{:+.3}", x * 100.0)),
    );
    let reason = Reason::new(Metric::Errors, finding(&tested, level), windows, sentence);
    tests(reason.figures(baseline.error_rate(), candidate.error_rate(), estimate.value, margin), &tested)
}

fn ratio(
    metric: Metric,
    figure: Figure,
    se: Option<f64>,
    settings: &Guarded,
    evidence: &Evidence,
    blocks: &Blocks,
    level: Level,
) -> Reason {
    let windows = evidence.windows();
    let say = |finding, sentence: String| Reason::new(metric, finding, windows, sentence);
    if let Figure::Quantile(q) = figure {
        let fewest = blocks.arms.each_ref().map(|arm| arm.latencies.iter().map(|n| u64::from(*n)).sum::<u64>());
        let fewest = fewest[0].min(fewest[1]);
        let needed = settings.min_requests.max((settings.min_tail as f64 / (1.0 - q)).ceil() as u64);
        if fewest < needed {
            return say(
                Finding::TooLittle,
                format!("{metric} needs {needed} answered requests an arm, one has {fewest}"),
            );
        }
    } else if let Some(apart) = batches_apart(evidence).filter(|apart| *apart > settings.comparable_batches) {
        return say(
            Finding::NotComparable,
            format!("throughput is not compared: one arm's batches are {apart:.1} times as large"),
        );
    }
    let once = vec![1; blocks.len];
    let [baseline, candidate] = blocks.arms.each_ref().map(|arm| figure.of(arm, &once));
    let (Some(baseline), Some(candidate), Some(se)) = (baseline, candidate, se.filter(|_| blocks.len >= MIN_BLOCKS))
    else {
        return say(Finding::TooLittle, format!("{windows} windows are too few to compare {metric}"));
    };
    // Latencies are known to a bucket only; where all fall into one, nothing scatters, which is not certainty.
    let resolution = if metric == Metric::Throughput { 1e-6 } else { RELATIVE_ERROR / 6.0_f64.sqrt() };
    let log_ratio = (candidate / baseline).ln();
    let se = se.hypot(resolution);
    if metric == Metric::Throughput {
        // More is better: test the inverse ratio, and turn the bounds around.
        let tested = Estimate { value: -log_ratio, se, df: blocks.df(settings.correlation) }.test(
            -settings.throughput.ln(),
            level.promote,
            level.rollback,
        );
        let turned =
            Tested { lower: tested.upper.map(|x| (-x).exp()), upper: tested.lower.map(|x| (-x).exp()), ..tested };
        let sentence = format!(
            "the candidate's throughput is {:.3} of the baseline's (allowed: {:.2}{})",
            log_ratio.exp(),
            settings.throughput,
            bounds(&turned, |x| format!("{x:.3}"))
        );
        let reason =
            say(finding(&tested, level), sentence).figures(baseline, candidate, log_ratio.exp(), settings.throughput);
        return tests(reason, &turned);
    }
    let margin = match metric {
        Metric::P50 => settings.p50,
        Metric::P95 => settings.p95,
        _ => settings.p99,
    };
    let tested = Estimate { value: log_ratio, se, df: blocks.df(settings.correlation) }.test(
        margin.ln(),
        level.promote,
        level.rollback,
    );
    let scaled = Tested { lower: tested.lower.map(f64::exp), upper: tested.upper.map(f64::exp), ..tested };
    let sentence = format!(
        "{metric} is {:.1} ms, {:.3} times the baseline's (allowed: {margin:.2}{})",
        candidate / 1e3,
        log_ratio.exp(),
        bounds(&scaled, |x| format!("{x:.3}"))
    );
    tests(say(finding(&tested, level), sentence).figures(baseline, candidate, log_ratio.exp(), margin), &scaled)
}

/// By what factor the mean batch sizes differ. `None` where they are not known.
fn batches_apart(evidence: &Evidence) -> Option<f64> {
    let [baseline, candidate] = evidence.arms().map(|arm| {
        let (batches, texts) = arm.iter().fold((0, 0), |(b, t), w| (b + w.batches, t + w.batch_texts));
        (batches > 0 && texts > 0).then(|| texts as f64 / batches as f64)
    });
    let ratio = candidate? / baseline?;
    Some(ratio.max(1.0 / ratio))
}

fn bounds(tested: &Tested, show: impl Fn(f64) -> String) -> String {
    match (tested.lower, tested.upper) {
        (Some(lower), Some(upper)) => format!("; surely between {} and {}", show(lower), show(upper)),
        (Some(lower), None) => format!("; surely above {}", show(lower)),
        (None, Some(upper)) => format!("; surely below {}", show(upper)),
        (None, None) => String::new(),
    }
}

fn tests(mut reason: Reason, tested: &Tested) -> Reason {
    let finite = |x: Option<f64>| x.filter(|x| x.is_finite());
    (reason.lower, reason.upper) = (finite(tested.lower), finite(tested.upper));
    (reason.p_promote, reason.p_rollback) = (Some(tested.p_within), Some(tested.p_beyond));
    reason
}
