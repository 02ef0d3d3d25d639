//! The state machine: what may happen to a rollout when, and what becomes of it. Pure; whoever stores the state does so
//! only if nobody else has changed it meanwhile.
//!
//! ```text
//! Checking ──► Shadowing ──► Moving ──► Holding ──► Moving (next step) ──► … ──► Ended: promoted
//!    │    ▲        │  │        │          ├──► Paused ──► Moving (same step, or the next)
//!    │    └─ Paused ◄─┘        │          │       │
//!    ▼             ▼           ▼          ▼       ▼
//! Ended: refused ◄─┘        Paused     RollingBack ──► Ended: rolled back, aborted
//! ```

use std::fmt;

use embed_schemas::WindowCounts;

use crate::{
    Decision, Verdict,
    state::{Forced, Outcome, Phase, Rollout, Stage, Versions},
    verdict::Pace,
};

/// What was asked for makes no sense now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rollout {id} is {phase}{}: {hint}", .reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
pub struct NotNow {
    /// The rollout.
    pub id: String,
    /// What it is doing.
    pub phase: &'static str,
    /// Why, if that is known.
    pub reason: Option<String>,
    /// What can be done.
    pub hint: &'static str,
}

/// The weights that a stage begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// Beginning of the first window, Unix time in milliseconds.
    pub from_ms: u64,
    /// Revision of the route.
    pub route_revision: u64,
    /// The last message of the stream of statistics.
    pub stats_after: u64,
    /// What both variants serve.
    pub versions: Versions,
}

impl Rollout {
    /// All that must be so before traffic moves is so. `sentence` says what was found.
    pub fn checked(&mut self, sentence: impl Into<String>, route_revision: u64, now_ms: u64) {
        if self.phase == Phase::Checking {
            self.tell(now_ms, sentence);
            self.phase = Phase::Moving { step: 0, route_revision, reference: None };
        }
    }

    /// Something that must be so before traffic moves is not.
    pub fn refused(&mut self, reason: impl Into<String>, now_ms: u64) {
        if self.phase == Phase::Checking {
            self.end(Outcome::Refused, reason.into(), now_ms);
        }
    }

    /// Every server holds the weights.
    pub fn moved(&mut self, moved: Moved, now_ms: u64) {
        let Phase::Moving { step, reference, .. } = &self.phase else { return };
        let (step, reference) = (*step, reference.clone());
        self.stages += 1;
        let Moved { from_ms, route_revision, stats_after, versions } = moved;
        let number = self.stages;
        self.phase = Phase::Holding(Stage {
            number,
            step,
            from_ms,
            route_revision,
            stats_after,
            versions,
            windows: 0,
            reference,
        });
        let percent = self.percent_of(step);
        self.tell(now_ms, format!("{} gets {percent} % of the traffic", self.to));
        if let Some(event) = self.history.last_mut() {
            event.percent = percent;
        }
    }

    /// The weights could not be changed.
    pub fn stuck(&mut self, reason: impl Into<String>, now_ms: u64) {
        if let Phase::Moving { step, .. } = self.phase {
            self.pause_because(step, None, format!("the weights could not be changed: {}", reason.into()), now_ms);
        }
    }

    /// A verdict on the first `windows` windows of the stage, or on the last ones if it is paused. `baseline` are the baseline's of all of them, added up.
    pub fn judged(&mut self, windows: u32, verdict: &Verdict, baseline: impl FnOnce() -> WindowCounts, now_ms: u64) {
        let paused = matches!(self.phase, Phase::Paused { .. });
        let Some(stage) = self.stage_mut() else { return };
        if !paused {
            stage.windows = windows;
        }
        let stage = stage.clone();
        match verdict.decision {
            Decision::RollBack => self.roll_back(Outcome::RolledBack, verdict.sentence.clone(), now_ms),
            // Somebody has to say how it goes on, and has not.
            _ if paused => (),
            Decision::Hold => (),
            Decision::Pause => self.pause_because(stage.step, Some(stage), verdict.sentence.clone(), now_ms),
            Decision::Promote { pace } => {
                self.tell(now_ms, verdict.sentence.clone());
                let last = self.config.plan.steps.len() - 1;
                let next = if pace == Pace::Full { last } else { stage.step + 1 };
                self.advance(next.max(stage.step + 1), &stage, baseline, now_ms, "all steps are passed");
            }
        }
    }

    /// A version that was not there when the stage began is served: the stage begins anew, for its evidence is about another.
    pub fn version_changed(&mut self, sentence: impl Into<String>, now_ms: u64) {
        let Phase::Holding(stage) = &self.phase else { return };
        let (step, route_revision, reference) = (stage.step, stage.route_revision, stage.reference.clone());
        self.tell(now_ms, sentence);
        self.phase = Phase::Moving { step, route_revision, reference };
    }

    /// Something that a person has to look at, such as a route that somebody else has changed.
    pub fn interrupted(&mut self, reason: impl Into<String>, now_ms: u64) {
        if let Phase::Holding(stage) = &self.phase {
            self.pause_because(stage.step, Some(stage.clone()), reason.into(), now_ms);
        }
    }

    /// Nobody serves the candidate any more.
    pub fn candidate_lost(&mut self, reason: impl Into<String>, now_ms: u64) {
        if self.stage().is_some() {
            self.roll_back(Outcome::RolledBack, reason.into(), now_ms);
        }
    }

    /// All traffic is back at the baseline.
    pub fn rolled_back(&mut self, now_ms: u64) {
        if let Phase::RollingBack { outcome, reason } = &self.phase {
            let (outcome, reason) = (*outcome, reason.clone());
            self.end(outcome, reason, now_ms);
            if let Some(event) = self.history.last_mut() {
                event.percent = 0.0;
            }
        }
    }

    /// The traffic was to go back to the baseline, and somebody else has changed the route meanwhile, as `why` says: it is left to them.
    pub fn not_rolled_back(&mut self, why: impl fmt::Display, now_ms: u64) {
        if let Phase::RollingBack { outcome, reason } = &self.phase {
            let (outcome, reason) = (*outcome, format!("{reason}; {why}, which is left as it is"));
            self.end(outcome, reason, now_ms);
        }
    }

    /// Whether a person has aborted it.
    #[must_use]
    pub const fn is_aborted(&self) -> bool {
        matches!(
            self.phase,
            Phase::RollingBack { outcome: Outcome::Aborted, .. } | Phase::Ended { outcome: Outcome::Aborted, .. }
        )
    }

    /// A person pauses it: the weights stay.
    ///
    /// # Errors
    /// If it is not holding.
    pub fn pause(&mut self, who: &str, now_ms: u64) -> Result<(), NotNow> {
        match &self.phase {
            Phase::Holding(stage) => {
                let stage = stage.clone();
                self.pause_because(stage.step, Some(stage), format!("paused by {who}"), now_ms);
                Ok(())
            }
            Phase::Shadowing(_) => {
                self.pause_because(0, None, format!("paused by {who}"), now_ms);
                Ok(())
            }
            _ => Err(self.not_now("only a rollout that holds a step can be paused; `abort` gives all traffic back")),
        }
    }

    /// A person lets it go on: the step begins anew. `route_revision` is that of the route as it is now.
    ///
    /// # Errors
    /// If it is not paused.
    pub fn resume(&mut self, who: &str, route_revision: u64, now_ms: u64) -> Result<(), NotNow> {
        let Phase::Paused { step, stage, .. } = &self.phase else {
            return Err(self.not_now("there is nothing to resume"));
        };
        let (step, reference) = (*step, stage.as_ref().and_then(|stage| stage.reference.clone()));
        let again = self.is_paused_shadow();
        self.tell(now_ms, format!("{who} resumes it"));
        if again {
            // A shadow begins anew, and whatever must be so before it may be otherwise by now.
            self.phase = Phase::Checking;
            return Ok(());
        }
        self.phase = Phase::Moving { step, route_revision, reference };
        Ok(())
    }

    /// A person goes on to the next step, or to the last, without waiting for evidence. `route_revision` is that of the route
    /// as it is now, `baseline` what the stage has of the baseline.
    ///
    /// # Errors
    /// If it neither holds a step nor is paused.
    pub fn promote(
        &mut self,
        who: &str,
        full: bool,
        route_revision: u64,
        baseline: WindowCounts,
        now_ms: u64,
    ) -> Result<(), NotNow> {
        let (step, stage) = match &self.phase {
            Phase::Shadowing(_) => (0, None),
            Phase::Holding(stage) => (stage.step, Some(stage.clone())),
            Phase::Paused { step, stage, .. } => (*step, stage.clone()),
            _ => return Err(self.not_now("only a rollout that holds a step or is paused can be promoted")),
        };
        let percent = if self.is_shadow() { 0.0 } else { self.percent_of(step) };
        self.shadow_over |= self.is_shadow();
        let last = self.config.plan.steps.len() - 1;
        let next = if full { last.max(step + 1) } else { step + 1 };
        self.tell(now_ms, format!("{who} promotes it without waiting for evidence"));
        self.forced.push(Forced { who: who.to_owned(), percent });
        match stage {
            Some(stage) => {
                self.advance(
                    next,
                    &Stage { route_revision, ..stage },
                    || baseline,
                    now_ms,
                    &format!("promoted by {who}"),
                );
            }
            // The weights of this step were never set: that is what is wanted now.
            None => {
                let step = if full { last } else { step };
                self.phase = Phase::Moving { step, route_revision, reference: None };
            }
        }
        Ok(())
    }

    /// A person gives all traffic back to the baseline.
    ///
    /// # Errors
    /// If it is over.
    pub fn abort(&mut self, who: &str, now_ms: u64) -> Result<(), NotNow> {
        let never_moved = matches!(self.phase, Phase::Checking) || self.is_shadow();
        match self.phase {
            Phase::Ended { .. } => Err(self.not_now("there is nothing to abort; `embed route set` changes weights")),
            _ if never_moved => {
                self.end(Outcome::Aborted, format!("aborted by {who}, before any traffic was moved"), now_ms);
                Ok(())
            }
            _ => {
                self.roll_back(Outcome::Aborted, format!("aborted by {who}"), now_ms);
                Ok(())
            }
        }
    }

    fn advance(
        &mut self,
        step: usize,
        stage: &Stage,
        baseline: impl FnOnce() -> WindowCounts,
        now_ms: u64,
        reason: &str,
    ) {
        if step >= self.config.plan.steps.len() {
            return self.end(Outcome::Promoted, reason.to_owned(), now_ms);
        }
        let alone = self.percent_of(step) >= 100.0;
        let reference = alone.then(|| stage.reference.clone().unwrap_or_else(baseline));
        self.phase = Phase::Moving { step, route_revision: stage.route_revision, reference };
    }

    pub(crate) fn pause_because(&mut self, step: usize, stage: Option<Stage>, reason: String, now_ms: u64) {
        self.tell(now_ms, reason.clone());
        self.phase = Phase::Paused { step, stage, reason };
    }

    fn roll_back(&mut self, outcome: Outcome, reason: String, now_ms: u64) {
        if !matches!(self.phase, Phase::RollingBack { .. }) {
            self.tell(now_ms, reason.clone());
            self.phase = Phase::RollingBack { outcome, reason };
        }
    }

    pub(crate) fn end(&mut self, outcome: Outcome, reason: String, now_ms: u64) {
        self.tell(now_ms, format!("{outcome}: {reason}"));
        self.phase = Phase::Ended { outcome, reason };
        self.holder = None;
    }

    fn not_now(&self, hint: &'static str) -> NotNow {
        let reason = match &self.phase {
            Phase::Paused { reason, .. } | Phase::RollingBack { reason, .. } | Phase::Ended { reason, .. } => {
                Some(reason.clone())
            }
            _ => None,
        };
        NotNow { id: self.id.clone(), phase: self.phase.as_str(), reason, hint }
    }
}
