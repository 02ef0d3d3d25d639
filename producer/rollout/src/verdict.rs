//! What was decided, and why: for programs, for the record, and for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::RuleKind;
pub use crate::metric::Metric;

/// When a verdict is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Between looks, with every window: only what needs no look.
    Window,
    /// As `Window`, while a person is to say how it goes on: of the last windows alone, at a level that any length of a pause keeps to.
    Paused,
    /// A look, numbered from 1; the plan says how many there are and when.
    Look(u32),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Decision {
    /// Give the candidate more traffic.
    Promote {
        /// How much.
        pace: Pace,
    },
    /// Give all traffic back to the baseline.
    RollBack,
    /// Wait for more evidence.
    Hold,
    /// The plan's evidence is there and does not decide: leave the weights and ask a person.
    Pause,
}

impl Decision {
    /// Whether the candidate gets more traffic.
    #[must_use]
    pub const fn is_promotion(self) -> bool {
        matches!(self, Self::Promote { pace: Pace::NextStep | Pace::Full })
    }
}

/// How far a promotion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// To the next step of the plan.
    NextStep,
    /// To all of the traffic: the rule `classic` says `rollout`.
    Full,
}

/// What is known of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Within its margin, beyond doubt.
    Pass,
    /// Beyond its margin, beyond doubt.
    Fail,
    /// Could be either.
    Inconclusive,
    /// Not enough requests or windows to say anything.
    TooLittle,
    /// The arms cannot be compared in this; it neither blocks nor helps.
    NotComparable,
}

/// What one metric contributed to a verdict. Ratios and differences are candidate to baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    /// The metric.
    pub metric: Metric,
    /// What is known of it.
    pub finding: Finding,
    /// The baseline's figure: microseconds, a rate, a share, tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// The candidate's figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<f64>,
    /// The ratio or difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<f64>,
    /// One-sided bound below it, at the level that decides about a rollback at this look (for throughput: a promotion).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// One-sided bound above it, at the level that decides about a promotion at this look (for throughput: a rollback).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// What is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Probability of this or better if the truth is at the margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_promote: Option<f64>,
    /// Probability of this or worse if the truth is at the margin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_rollback: Option<f64>,
    /// The level that `p_promote` has to reach at this look; 0 if it cannot be promoted at this look.
    pub alpha_promote: f64,
    /// The level that `p_rollback` has to reach at this look.
    pub alpha_rollback: f64,
    /// Windows that it rests on.
    pub windows: u32,
    /// For a person.
    pub sentence: String,
}

impl Reason {
    pub(crate) fn new(metric: Metric, finding: Finding, windows: usize, sentence: impl Into<String>) -> Self {
        Self {
            metric,
            finding,
            baseline: None,
            candidate: None,
            estimate: None,
            lower: None,
            upper: None,
            margin: None,
            p_promote: None,
            p_rollback: None,
            alpha_promote: 0.0,
            alpha_rollback: 0.0,
            windows: u32::try_from(windows).unwrap_or(u32::MAX),
            sentence: sentence.into(),
        }
    }

    /// The figures that are compared, and what is allowed. A figure that is not finite is left out.
    pub(crate) fn figures(mut self, baseline: f64, candidate: f64, estimate: f64, margin: f64) -> Self {
        let finite = |x: f64| x.is_finite().then_some(x);
        (self.baseline, self.candidate) = (finite(baseline), finite(candidate));
        (self.estimate, self.margin) = (finite(estimate), finite(margin));
        self
    }
}

/// A decision with everything that led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// In one sentence, why.
    pub sentence: String,
    /// What each metric says.
    pub reasons: Vec<Reason>,
    /// The rule that decided.
    pub rule: RuleKind,
    /// Whether it was a look, and which.
    pub check: Check,
    /// The candidate's share of the traffic in percent.
    pub candidate_percent: f64,
    /// Windows of evidence.
    pub windows: u32,
    /// The seed of the resampling.
    pub seed: u64,
}

impl Verdict {
    /// The reason about one metric, if there is one.
    #[must_use]
    pub fn reason(&self, metric: Metric) -> Option<&Reason> {
        self.reasons.iter().find(|r| r.metric == metric)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.sentence)?;
        self.reasons.iter().try_for_each(|r| writeln!(f, "  {}: {}", r.metric, r.sentence))
    }
}

/// The sentences of all reasons with this finding, as one list.
pub(crate) fn list(reasons: &[Reason], finding: Finding) -> String {
    let sentences: Vec<&str> = reasons.iter().filter(|r| r.finding == finding).map(|r| r.sentence.as_str()).collect();
    sentences.join("; ")
}
