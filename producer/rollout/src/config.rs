//! Everything that can be set about a rollout's decisions, with its defaults.

use std::time::Duration;

use embed_schemas::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::{
    error::{ConfigError, refuse},
    metric::Metric,
    plan::Plan,
    shadow::Shadow,
    spending::Spending,
};

/// How a rollout decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which rule decides at the looks.
    pub rule: RuleKind,
    /// Steps, hold and looks.
    pub plan: Plan,
    /// The first step, before any traffic moves.
    pub shadow: Shadow,
    /// What is checked with every window, whatever the rule.
    pub fast: Fast,
    /// Agreement of both variants' vectors.
    pub probes: Probes,
    /// Settings of the rule `guarded`.
    pub guarded: Guarded,
    /// Settings of the rule `classic`.
    pub classic: Classic,
    /// Error codes that are not counted, beside what callers did wrong and what a worker refuses while it stops.
    pub ignored_errors: Vec<ErrorCode>,
}

/// The two rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleKind {
    /// Non-inferiority, with error probabilities that hold under peeking.
    #[default]
    Guarded,
    /// Fixed thresholds on improvement, with Welch's t-test and Cohen's d.
    Classic,
}

/// What is checked with every window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fast {
    /// Probability that a whole rollout of an equal candidate is rolled back by these checks.
    pub alpha: f64,
    /// An error spike: the candidate's error rate exceeds the baseline's by at least this much (0.05: five percentage points).
    pub spike: f64,
    /// Fewest failed requests that make a spike.
    pub spike_errors: u64,
    /// Windows in a row without any request that make a candidate silent, if its share of the traffic should have
    /// brought some.
    pub silent_windows: u32,
    /// How long the candidate may answer nothing, and be served by nobody: its only worker may just be restarted.
    #[serde(with = "humantime_serde")]
    pub restart: Duration,
}

impl Default for Fast {
    fn default() -> Self {
        Self { alpha: 0.001, spike: 0.05, spike_errors: 5, silent_windows: 3, restart: Duration::from_secs(30) }
    }
}

/// Agreement of both variants' vectors on a probe set. The set is what is judged, not a sample: no test is involved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Whether probes are wanted. They make no sense across two embedding spaces.
    pub required: bool,
    /// The mean cosine must exceed this.
    pub mean_cosine: f64,
    /// Every cosine must exceed this.
    pub min_cosine: f64,
    /// Fewest probes that count.
    pub min_probes: usize,
}

impl Default for Probes {
    fn default() -> Self {
        Self { required: true, mean_cosine: 0.99, min_cosine: 0.95, min_probes: 16 }
    }
}

/// Settings of the rule `guarded`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guarded {
    /// What is compared. Each must pass for a promotion; any that fails rolls back.
    pub metrics: Vec<Metric>,
    /// Largest ratio of candidate to baseline, by metric.
    pub p50: f64,
    /// As `p50`.
    pub p95: f64,
    /// As `p50`.
    pub p99: f64,
    /// Largest difference of the error rates (0.002: 0.2 percentage points).
    pub errors: f64,
    /// Smallest ratio of tokens per engine second.
    pub throughput: f64,
    /// Throughput is compared while the arms' mean batch sizes are within this factor; a small share of the traffic makes small
    /// batches, which is not the candidate's fault.
    pub comparable_batches: f64,
    /// Probability that a candidate is promoted from a step although one metric is exactly at its margin.
    pub promote_alpha: f64,
    /// How `promote_alpha` is spent on the looks from `promote_from` on.
    pub promote_spending: Spending,
    /// Share of the hold after which a step may be promoted. 1: only at its end.
    pub promote_from: f64,
    /// Probability that a rollout, all its steps taken together, is rolled back although no metric is beyond its margin.
    pub rollback_alpha: f64,
    /// How `rollback_alpha` is spent on the looks.
    pub rollback_spending: Spending,
    /// Bootstrap resamples.
    pub resamples: u32,
    /// Shortest block of windows that is resampled as one. Blocks grow with the square root of the number of windows.
    pub min_block: u32,
    /// Correlation of neighbouring windows that the intervals allow for, where blocks are too short to show it.
    pub correlation: f64,
    /// Fewest requests an arm that latencies are judged by.
    pub min_requests: u64,
    /// Fewest requests beyond a percentile that it is judged by.
    pub min_tail: u64,
    /// Chi-squared test of the split: its error probability over all looks of a step.
    pub split_alpha: f64,
    /// Relative deviation of the candidate's share that is put up with, however significant.
    pub split_tolerance: f64,
}

impl Default for Guarded {
    fn default() -> Self {
        Self {
            metrics: vec![Metric::P50, Metric::P95, Metric::P99, Metric::Errors, Metric::Throughput],
            p50: 1.1,
            p95: 1.1,
            p99: 1.2,
            errors: 0.002,
            throughput: 0.9,
            comparable_batches: 1.5,
            promote_alpha: 0.05,
            promote_spending: Spending::ObrienFleming,
            promote_from: 1.0,
            rollback_alpha: 0.05,
            rollback_spending: Spending::Pocock,
            resamples: 400,
            min_block: 4,
            correlation: 0.6,
            min_requests: 200,
            min_tail: 10,
            split_alpha: 0.001,
            split_tolerance: 0.1,
        }
    }
}

/// Settings of the rule `classic`. Shares, not percent: 0.6 is 60 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Classic {
    /// Rollout: p95 improves by more than this,
    pub rollout_improvement: f64,
    /// and the error rate grows by less than this, relative to the baseline's.
    pub rollout_error_increase: f64,
    /// Gradual: p95 improves by more than this,
    pub gradual_improvement: f64,
    /// and the error rate grows by less than this.
    pub gradual_error_increase: f64,
    /// Large effect: Welch's p below this,
    pub large_p: f64,
    /// and Cohen's d above this.
    pub large_d: f64,
    /// Medium effect: Welch's p below this,
    pub medium_p: f64,
    /// and Cohen's d above this.
    pub medium_d: f64,
    /// Success: the candidate's p95 is below this,
    #[serde(with = "humantime_serde")]
    pub success_p95: Duration,
    /// and below this share of the baseline's;
    pub success_p95_ratio: f64,
    /// the error rates differ by less than this;
    pub success_error_difference: f64,
    /// the mean cosine of the probes exceeds this.
    pub success_cosine: f64,
    /// Nothing is decided before each arm has this many requests,
    pub min_requests: u64,
    /// and this time has passed.
    #[serde(with = "humantime_serde")]
    pub min_duration: Duration,
}

impl Default for Classic {
    fn default() -> Self {
        Self {
            rollout_improvement: 0.6,
            rollout_error_increase: 0.05,
            gradual_improvement: 0.3,
            gradual_error_increase: 0.1,
            large_p: 0.01,
            large_d: 0.8,
            medium_p: 0.05,
            medium_d: 0.5,
            success_p95: Duration::from_millis(10),
            success_p95_ratio: 0.4,
            success_error_difference: 0.001,
            success_cosine: 0.99,
            min_requests: 10_000,
            min_duration: Duration::from_secs(3_600),
        }
    }
}

impl Config {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// Naming the setting and the fix.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.plan.validate()?;
        self.shadow.validate()?;
        let g = &self.guarded;
        for (field, alpha) in [
            ("fast.alpha", self.fast.alpha),
            ("guarded.promote_alpha", g.promote_alpha),
            ("guarded.rollback_alpha", g.rollback_alpha),
            ("guarded.split_alpha", g.split_alpha),
        ] {
            if !(alpha > 0.0 && alpha < 0.5) {
                return refuse(field, format!("{alpha} is not a probability in (0, 0.5)"));
            }
        }
        for (field, margin) in [("guarded.p50", g.p50), ("guarded.p95", g.p95), ("guarded.p99", g.p99)] {
            if !(margin > 1.0 && margin.is_finite()) {
                return refuse(field, format!("{margin}: a margin is a ratio above 1; 1.1 allows 10 % more"));
            }
        }
        if !(g.errors > 0.0 && g.errors < 1.0) {
            return refuse("guarded.errors", format!("{} is not a difference of rates in (0, 1)", g.errors));
        }
        if !(g.throughput > 0.0 && g.throughput < 1.0) {
            return refuse("guarded.throughput", format!("{}: a ratio below 1; 0.9 allows 10 % less", g.throughput));
        }
        if g.metrics.is_empty() {
            return refuse("guarded.metrics", "without metrics every candidate would be promoted");
        }
        if let Some(metric) = g.metrics.iter().find(|m| !Metric::COMPARED.contains(m)) {
            return refuse(
                "guarded.metrics",
                format!("{metric} is always checked; name p50, p95, p99, errors, throughput"),
            );
        }
        if !(g.promote_from > 0.0 && g.promote_from <= 1.0) {
            return refuse("guarded.promote_from", format!("{} is not a share of the hold in (0, 1]", g.promote_from));
        }
        if g.resamples < 100 {
            return refuse(
                "guarded.resamples",
                format!("{} resamples are too few for an interval: 100 or more", g.resamples),
            );
        }
        if g.min_block == 0 {
            return refuse("guarded.min_block", "a block has at least one window");
        }
        if !(g.correlation >= 0.0 && g.correlation < 0.95) {
            return refuse("guarded.correlation", format!("{} is not a correlation in [0, 0.95)", g.correlation));
        }
        if !(self.fast.spike > 0.0 && self.fast.spike < 1.0) {
            return refuse("fast.spike", format!("{} is not a difference of rates in (0, 1)", self.fast.spike));
        }
        if self.fast.silent_windows == 0 {
            return refuse("fast.silent_windows", "at least 1");
        }
        let compared = (0..self.plan.comparisons()).map(|step| self.plan.hold_of(step));
        if let Some(hold) =
            compared.min().filter(|hold| self.rule == RuleKind::Classic && *hold < self.classic.min_duration)
        {
            return refuse(
                "plan.hold",
                format!(
                    "the rule `classic` wants {} of evidence, a step is held for {}: hold longer, or lower classic.min_duration",
                    humantime::format_duration(self.classic.min_duration),
                    humantime::format_duration(hold)
                ),
            );
        }
        Ok(())
    }

    /// What holds for one step, an index into the plan's: its hold is that of all.
    #[must_use]
    pub fn at(&self, step: usize) -> Self {
        let plan = Plan { hold: self.plan.hold_of(step), holds: Vec::new(), ..self.plan.clone() };
        Self { plan, ..self.clone() }
    }
}
