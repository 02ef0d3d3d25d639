//! The step of a rollout in which nobody is served by the candidate: what may happen to it. See `machine` for those that follow.

use embed_schemas::shadow::ShadowCounts;
use serde::{Deserialize, Serialize};

use super::{judge::judge, settings::Shadow, verdict::ShadowVerdict};
use crate::{
    Decision,
    state::{Outcome, Phase, Rollout, ShadowStage},
};

/// What a shadow came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowRecord {
    /// As it began.
    pub stage: ShadowStage,
    /// When it was judged, Unix time in milliseconds.
    pub when_ms: u64,
    /// Whether its time had passed.
    pub over: bool,
    /// What was compared.
    pub counts: ShadowCounts,
    /// What was said of it.
    pub verdict: ShadowVerdict,
}

impl ShadowRecord {
    /// Whether the verdict, made again, is the same to the last bit.
    #[must_use]
    pub fn is_same(&self, settings: &Shadow) -> bool {
        judge(settings, &self.counts, self.over) == self.verdict
    }
}

impl Rollout {
    /// Whether there has to be a shadow before traffic moves. Vectors of two spaces cannot be compared.
    #[must_use]
    pub fn wants_shadow(&self) -> bool {
        self.config.shadow.is_wanted() && self.config.probes.required && !self.shadow_over
    }

    /// What is being shadowed.
    #[must_use]
    pub const fn shadow(&self) -> Option<&ShadowStage> {
        match &self.phase {
            Phase::Shadowing(stage) => Some(stage),
            _ => None,
        }
    }

    /// It is in its shadow, or that was paused: traffic has never moved.
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        matches!(self.phase, Phase::Shadowing(_)) || self.is_paused_shadow()
    }

    /// A shadow was paused, and traffic has never moved.
    pub(crate) const fn is_paused_shadow(&self) -> bool {
        matches!(self.phase, Phase::Paused { stage: None, .. }) && self.shadows > 0 && !self.shadow_over
    }

    /// All that must be so before a shadow is so, or another version is served than the one that was being compared. `sentence` says what was
    /// found. The number of `stage` is given here.
    pub fn shadow_begins(&mut self, sentence: impl Into<String>, stage: ShadowStage, now_ms: u64) {
        if matches!(self.phase, Phase::Checking | Phase::Shadowing(_)) {
            self.tell(now_ms, sentence);
            self.shadows += 1;
            self.phase = Phase::Shadowing(ShadowStage { number: self.shadows, said_ms: None, lasted_ms: 0, ..stage });
            let share = self.config.shadow.share;
            let sentence = format!(
                "{share} % of the texts of {} are given to {} as well; no caller gets its vectors",
                self.from, self.to
            );
            self.tell(now_ms, sentence);
        }
    }

    /// Workers were told of the shadow, and know of it for `ttl_ms`. Whether it has lasted as long as it is to.
    pub fn shadow_said(&mut self, now_ms: u64, ttl_ms: u64) -> bool {
        let hold = u64::try_from(self.config.shadow.hold.as_millis()).unwrap_or(u64::MAX);
        let Phase::Shadowing(stage) = &mut self.phase else { return false };
        let since = stage.said_ms.map_or(0, |said| now_ms.saturating_sub(said).min(ttl_ms));
        stage.lasted_ms = stage.lasted_ms.saturating_add(since);
        stage.said_ms = Some(now_ms);
        stage.lasted_ms >= hold
    }

    /// A verdict on what was compared so far.
    pub fn shadow_judged(&mut self, verdict: &ShadowVerdict, now_ms: u64) {
        let Phase::Shadowing(ShadowStage { route_revision, .. }) = self.phase else { return };
        let sentence = &verdict.sentence;
        match verdict.decision {
            Decision::Hold => (),
            Decision::RollBack => self.end(Outcome::Refused, format!("as a shadow, {sentence}"), now_ms),
            Decision::Pause => self.pause_because(0, None, format!("as a shadow: {sentence}"), now_ms),
            Decision::Promote { .. } => {
                self.tell(now_ms, format!("as a shadow, {sentence}"));
                self.shadow_passes(route_revision);
            }
        }
    }

    /// Nobody serves the candidate any more, of which nobody was served by it.
    pub fn shadow_lost(&mut self, reason: impl Into<String>, now_ms: u64) {
        if matches!(self.phase, Phase::Shadowing(_)) {
            self.end(Outcome::Refused, reason.into(), now_ms);
        }
    }

    /// Traffic may move.
    pub(crate) fn shadow_passes(&mut self, route_revision: u64) {
        self.shadow_over = true;
        self.phase = Phase::Moving { step: 0, route_revision, reference: None };
    }
}
