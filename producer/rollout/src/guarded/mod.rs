//! The rule `guarded`: the candidate must be shown to be no worse than the baseline by more than a margin.
//!
//! Promotion needs every metric to pass, so each is tested at the full level (intersection-union). A rollback needs only one to fail, so
//! the level is shared among metrics and steps (Bonferroni, which for "any" is Holm's first step).

mod bootstrap;
mod errors;
mod metrics;
mod split;

use crate::{
    config::Config,
    evidence::{Blocks, Evidence},
    plan::Plan,
    verdict::{Decision, Finding, Pace, Reason, list},
};

/// The levels of each look, worked out once.
#[derive(Debug, Clone)]
pub(crate) struct Levels {
    promote: Vec<f64>,
    rollback: Vec<f64>,
    split: f64,
}

/// The levels of one look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level {
    pub(crate) promote: f64,
    pub(crate) rollback: f64,
}

impl Levels {
    pub(crate) fn new(config: &Config) -> Self {
        let (plan, settings) = (&config.plan, &config.guarded);
        let fractions: Vec<f64> = (1..=plan.looks).map(|look| plan.fraction(look)).collect();
        let waiting = fractions.iter().filter(|t| **t < settings.promote_from - 1e-9).count();
        let mut promote = vec![0.0; waiting];
        promote.extend(settings.promote_spending.levels(settings.promote_alpha, &fractions[waiting..]));
        let tests = settings.metrics.len() * plan.comparisons().max(1);
        let rollback = settings.rollback_spending.levels(settings.rollback_alpha / tests as f64, &fractions);
        Self { promote, rollback, split: settings.split_alpha / f64::from(plan.looks) }
    }

    fn at(&self, look: u32) -> Level {
        let at = (look.max(1) as usize - 1).min(self.rollback.len() - 1);
        Level { promote: self.promote[at], rollback: self.rollback[at] }
    }
}

/// Decides at a look (from 1).
pub(crate) fn decide(
    config: &Config,
    levels: &Levels,
    evidence: &Evidence,
    look: u32,
    seed: u64,
) -> (Decision, String, Vec<Reason>) {
    let settings = &config.guarded;
    let last = look >= config.plan.looks;
    let level = levels.at(look);
    if evidence.candidate_percent >= 100.0 {
        return watch(last, evidence);
    }
    let blocks = Blocks::new(evidence, settings.min_block as usize, &config.ignored_errors);
    let mut reasons = vec![split::check(&blocks, evidence, levels.split, settings)];
    reasons.extend(metrics::compare(config, evidence, &blocks, level, seed));

    let rest = &reasons[1..];
    let failed = rest.iter().any(|r| r.finding == Finding::Fail);
    let passed = rest.iter().all(|r| matches!(r.finding, Finding::Pass | Finding::NotComparable))
        && rest.iter().any(|r| r.finding == Finding::Pass);
    let (decision, sentence) = if reasons[0].finding == Finding::Fail {
        (Decision::Pause, format!("Paused: {}.", reasons[0].sentence))
    } else if failed {
        (Decision::RollBack, format!("Rolled back: {}.", list(rest, Finding::Fail)))
    } else if passed && level.promote > 0.0 {
        (
            Decision::Promote { pace: Pace::NextStep },
            format!("Promoted: no metric is worse than allowed ({}).", list(rest, Finding::Pass)),
        )
    } else if last {
        (Decision::Pause, format!("Paused: the step's evidence does not decide. {}.", open(rest)))
    } else {
        (Decision::Hold, hold(&config.plan, look, rest))
    };
    (decision, sentence, reasons)
}

/// A step of 100 %: nothing to compare with; what is checked with every window has found nothing.
fn watch(last: bool, evidence: &Evidence) -> (Decision, String, Vec<Reason>) {
    if last && evidence.candidate.windows.iter().all(|w| w.requests == 0) {
        (Decision::Pause, "Paused: the candidate has all the traffic, and there was none.".into(), Vec::new())
    } else if last {
        let done = "Promoted: the candidate has had all the traffic for the whole step, without an error spike.";
        (Decision::Promote { pace: Pace::NextStep }, done.into(), Vec::new())
    } else {
        (Decision::Hold, "Holding: the candidate has all the traffic and is watched.".into(), Vec::new())
    }
}

fn hold(plan: &Plan, look: u32, reasons: &[Reason]) -> String {
    match open(reasons) {
        open if open.is_empty() => {
            format!("Holding: look {look} of {}, nothing stands against the candidate.", plan.looks)
        }
        open => format!("Holding: look {look} of {}. {open}.", plan.looks),
    }
}

fn open(reasons: &[Reason]) -> String {
    [Finding::Inconclusive, Finding::TooLittle]
        .map(|f| list(reasons, f))
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}
