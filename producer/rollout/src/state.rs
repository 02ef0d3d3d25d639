//! A rollout as it stands in its bucket: what was declared, how far it has come, and what has happened.

use std::{collections::BTreeSet, fmt};

use embed_schemas::{Lane, Slug, WindowCounts};
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    error::{ConfigError, refuse},
};

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id, unlike that of any other rollout.
    pub id: String,
    /// The model.
    pub model: Slug,
    /// The variant that has the traffic.
    pub from: Slug,
    /// The variant that is to have it.
    pub to: Slug,
    /// The lanes that are moved and judged.
    pub lanes: Vec<Lane>,
    /// How it decides. Declared before it begins, and not changed afterwards.
    pub config: Config,
    /// Who started it.
    pub who: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Unix time in milliseconds.
    pub started_ms: u64,
    /// How far it has come.
    pub phase: Phase,
    /// Shadows begun so far.
    #[serde(default)]
    pub shadows: u32,
    /// Whether a shadow was passed, or somebody did not wait for it.
    #[serde(default)]
    pub shadow_over: bool,
    /// Stages begun so far.
    pub stages: u32,
    /// What has happened, oldest first.
    pub history: Vec<Event>,
    /// Where somebody has sent it on without waiting for evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<Forced>,
    /// Which controller acts, and until when it must have given a sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// How far a rollout has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// No traffic has moved: it is being checked whether any may.
    Checking,
    /// No traffic has moved: what the candidate makes of the baseline's texts is compared.
    Shadowing(ShadowStage),
    /// The weights are being changed to those of a step.
    Moving {
        /// The step, an index into the plan's.
        step: usize,
        /// Revision that the route must still have: whoever has changed it since is not overruled.
        route_revision: u64,
        /// The baseline's windows of the step before, added up, if this step leaves it none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<WindowCounts>,
    },
    /// The weights stand, and evidence is gathered.
    Holding(Stage),
    /// The weights stand, and a person has to say how it goes on. Guardrails are still watched.
    Paused {
        /// The step, an index into the plan's.
        step: usize,
        /// What was being gathered. `None` if the weights could not be changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<Stage>,
        /// Why.
        reason: String,
    },
    /// All traffic is being given back to the baseline.
    RollingBack {
        /// How it ends then.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why.
        reason: String,
    },
}

/// One hold at one step. A step that is begun anew, after a pause or because a version has changed, is another stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its number, from 1, over the whole rollout.
    pub number: u32,
    /// The step, an index into the plan's.
    pub step: usize,
    /// Beginning of its first window, Unix time in milliseconds.
    pub from_ms: u64,
    /// Revision of the route that set its weights.
    pub route_revision: u64,
    /// The last message of the stream of statistics before it.
    pub stats_after: u64,
    /// The versions that both variants serve.
    pub versions: Versions,
    /// Windows judged so far.
    pub windows: u32,
    /// See [`Phase::Moving`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<WindowCounts>,
}

/// One shadow. One that is begun anew is another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowStage {
    /// Its number, from 1, over the whole rollout.
    pub number: u32,
    /// When it began, Unix time in milliseconds.
    pub from_ms: u64,
    /// Revision that the route must still have when traffic moves.
    pub route_revision: u64,
    /// The last message of the stream of statistics before it.
    pub stats_after: u64,
    /// The versions that both variants serve.
    pub versions: Versions,
    /// When workers were last told of it, Unix time in milliseconds.
    #[serde(default)]
    pub said_ms: Option<u64>,
    /// For how long workers have known of it, in milliseconds. While nobody carries the rollout on it stands still.
    #[serde(default)]
    pub lasted_ms: u64,
}

/// Versions by variant; several while workers are being updated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the baseline.
    pub from: BTreeSet<String>,
    /// Of the candidate.
    pub to: BTreeSet<String>,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The candidate has the last step's share of the traffic.
    Promoted,
    /// The evidence, or the loss of the candidate, gave all traffic back to the baseline.
    RolledBack,
    /// A person gave all traffic back to the baseline.
    Aborted,
    /// No traffic was ever moved.
    Refused,
}

/// A step that somebody did not wait for the evidence of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forced {
    /// Who.
    pub who: String,
    /// The step's share in percent. 0: of the shadow.
    pub percent: f64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unix time in milliseconds.
    pub when_ms: u64,
    /// The candidate's share of the traffic from then on, in percent.
    pub percent: f64,
    /// For a person.
    pub sentence: String,
}

/// The controller that acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub name: String,
    /// Unix time in milliseconds after which another may take over.
    pub until_ms: u64,
}

/// What is to be rolled out.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The rollout's id.
    pub id: String,
    /// The model.
    pub model: Slug,
    /// The variant that has the traffic.
    pub from: Slug,
    /// The variant that is to have it.
    pub to: Slug,
    /// The lanes; empty means all.
    pub lanes: Vec<Lane>,
    /// How to decide.
    pub config: Config,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub note: Option<String>,
}

impl Rollout {
    /// A rollout that begins.
    ///
    /// # Errors
    /// If the configuration makes no sense, or a step is no whole percent: NATS knows no others.
    pub fn begin(start: Start, now_ms: u64) -> Result<Self, ConfigError> {
        let Start { id, model, from, to, lanes, config, who, note } = start;
        config.validate()?;
        if let Some(step) = config.plan.steps.iter().find(|step| step.fract() != 0.0 || **step < 1.0) {
            return refuse("plan.steps", format!("{step}: weights are whole percents from 1 to 100"));
        }
        if from == to {
            return refuse("to", format!("{to} is also the variant to replace: name two variants of {model}"));
        }
        let lanes = if lanes.is_empty() { Lane::ALL.to_vec() } else { lanes };
        let mut rollout = Self {
            id,
            model,
            from,
            to,
            lanes,
            config,
            who,
            note,
            started_ms: now_ms,
            phase: Phase::Checking,
            shadows: 0,
            shadow_over: false,
            stages: 0,
            history: Vec::new(),
            forced: Vec::new(),
            holder: None,
        };
        let note = rollout.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        let sentence = format!("{} starts the rollout of {} for {}{note}", rollout.who, rollout.to, rollout.from);
        rollout.tell(now_ms, sentence);
        Ok(rollout)
    }

    /// The candidate's share of the traffic in percent, as far as this rollout has set it.
    #[must_use]
    pub fn percent(&self) -> f64 {
        self.history.last().map_or(0.0, |event| event.percent)
    }

    /// A step's share in percent.
    #[must_use]
    pub fn percent_of(&self, step: usize) -> f64 {
        self.config.plan.steps.get(step).copied().unwrap_or_default()
    }

    /// What somebody sent on without waiting for evidence, in words: `25 % by me`. `None` if nobody did.
    #[must_use]
    pub fn forced(&self) -> Option<String> {
        let step = |forced: &Forced| match forced.percent {
            0.0 => format!("the shadow by {}", forced.who),
            percent => format!("{percent} % by {}", forced.who),
        };
        let forced: Vec<String> = self.forced.iter().map(step).collect();
        (!forced.is_empty()).then(|| forced.join(", "))
    }

    /// What is being gathered, or was when it was paused.
    #[must_use]
    pub const fn stage(&self) -> Option<&Stage> {
        match &self.phase {
            Phase::Holding(stage) | Phase::Paused { stage: Some(stage), .. } => Some(stage),
            _ => None,
        }
    }

    pub(crate) const fn stage_mut(&mut self) -> Option<&mut Stage> {
        match &mut self.phase {
            Phase::Holding(stage) | Phase::Paused { stage: Some(stage), .. } => Some(stage),
            _ => None,
        }
    }

    /// Whether it is over, and how.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Ended { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Whether this controller may act: nobody else does, or whoever did has given no sign for too long.
    #[must_use]
    pub fn may_act(&self, name: &str, now_ms: u64) -> bool {
        self.holder.as_ref().is_none_or(|holder| holder.name == name || holder.until_ms < now_ms)
    }

    /// Adds to the history; the share stays as it is.
    pub(crate) fn tell(&mut self, now_ms: u64, sentence: impl Into<String>) {
        let percent = self.percent();
        self.history.push(Event { when_ms: now_ms, percent, sentence: sentence.into() });
    }
}

impl Outcome {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Phase {
    /// In a word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Shadowing(_) => "shadowing",
            Self::Moving { .. } => "moving",
            Self::Holding(_) => "holding",
            Self::Paused { .. } => "paused",
            Self::RollingBack { .. } => "rolling back",
            Self::Ended { outcome, .. } => outcome.as_str(),
        }
    }
}
