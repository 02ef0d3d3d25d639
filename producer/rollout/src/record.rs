//! The record of a rollout: everything that went into its verdicts, so that they can be made again from it alone.

use embed_schemas::WindowCounts;
use serde::{Deserialize, Serialize};

use crate::{
    Arm, ConfigError, Evidence, Rule, Verdict,
    evidence::Backlog,
    shadow::ShadowRecord,
    state::{Rollout, Stage},
};

/// A rollout with all of its evidence and verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The rollout.
    pub rollout: Rollout,
    /// Its shadows, in order.
    #[serde(default)]
    pub shadows: Vec<ShadowRecord>,
    /// Its stages, in order.
    pub stages: Vec<StageRecord>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// As it began.
    pub stage: Stage,
    /// Its windows, as they were when they were first judged.
    pub windows: Vec<Window>,
    /// What reports that came later have made of them, in the order in which that was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<Late>,
    /// Verdicts of the looks, and those between that led to something.
    pub verdicts: Vec<Recorded>,
}

/// One window of both arms, workers and lanes added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The baseline's.
    pub baseline: WindowCounts,
    /// The candidate's.
    pub candidate: WindowCounts,
    /// What had been waiting at either.
    #[serde(default)]
    pub backlog: [Backlog; 2],
}

/// Windows that late reports have added to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Verdicts on so many windows, and on more, rest on them.
    pub windows: u32,
    /// Windows by their number, as they are from then on.
    pub changed: Vec<(u32, Window)>,
}

/// The last windows of a paused stage, which are not kept otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedWindows {
    /// Beginning of the first, Unix time in milliseconds.
    pub from_ms: u64,
    /// The windows.
    pub windows: Vec<Window>,
}

/// A verdict with what is not in the windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// When it was made, Unix time in milliseconds.
    pub when_ms: u64,
    /// Cosines of both variants' vectors, as they were last probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Vec<f64>>,
    /// What it rests on, if it was made in a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PausedWindows>,
    /// The verdict; it says how many windows it rests on.
    pub verdict: Verdict,
}

/// A verdict that was made again.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The stage's number.
    pub stage: u32,
    /// What came out this time.
    pub verdict: Verdict,
    /// Whether it is the recorded one, to the last bit.
    pub same: bool,
}

impl StageRecord {
    /// The evidence of the first windows.
    #[must_use]
    pub fn evidence(&self, rollout: &Rollout, windows: u32, probes: Option<&[f64]>) -> Evidence {
        self.evidence_of(rollout, self.stage.from_ms, &self.effective(windows), probes)
    }

    /// The evidence that a pause leaves.
    #[must_use]
    pub fn paused(&self, rollout: &Rollout, paused: &PausedWindows, probes: Option<&[f64]>) -> Evidence {
        self.evidence_of(rollout, paused.from_ms, &paused.windows, probes)
    }

    fn evidence_of(&self, rollout: &Rollout, from_ms: u64, windows: &[Window], probes: Option<&[f64]>) -> Evidence {
        let arm = |variant: &embed_schemas::Slug, of: fn(&Window) -> &WindowCounts, at: usize| Arm {
            variant: variant.clone(),
            windows: windows.iter().map(of).cloned().collect(),
            backlog: windows.iter().map(|window| window.backlog[at]).collect(),
        };
        Evidence {
            candidate_percent: rollout.percent_of(self.stage.step),
            from_ms,
            window_ms: window_ms(rollout),
            baseline: arm(&rollout.from, |window| &window.baseline, 0),
            candidate: arm(&rollout.to, |window| &window.candidate, 1),
            probes: probes.map(<[f64]>::to_vec),
            reference: self.stage.reference.clone(),
        }
    }

    /// The first windows, with what had come late by the time when there were so many.
    #[must_use]
    pub fn effective(&self, windows: u32) -> Vec<Window> {
        let until = self.windows.len().min(windows as usize);
        let mut all = self.windows[..until].to_vec();
        for late in self.late.iter().filter(|late| late.windows <= windows) {
            for (at, window) in &late.changed {
                if let Some(place) = all.get_mut(*at as usize) {
                    place.clone_from(window);
                }
            }
        }
        all
    }

    /// All windows, with whatever came late.
    #[must_use]
    pub fn all(&self) -> Vec<Window> {
        self.effective(u32::MAX)
    }

    /// All of the baseline's windows, added up.
    #[must_use]
    pub fn baseline(&self) -> WindowCounts {
        self.all().iter().fold(WindowCounts::default(), |mut sum, window| {
            sum.merge(&window.baseline);
            sum
        })
    }
}

impl Window {
    /// The windows of some evidence.
    pub(crate) fn all(evidence: Evidence) -> Vec<Self> {
        let Evidence { baseline, candidate, .. } = evidence;
        let backlog = |arm: &Arm, at: usize| arm.backlog.get(at).copied().unwrap_or_default();
        let backlogs: Vec<_> =
            (0..baseline.windows.len()).map(|at| [backlog(&baseline, at), backlog(&candidate, at)]).collect();
        let windows = baseline.windows.into_iter().zip(candidate.windows).zip(backlogs);
        windows.map(|((baseline, candidate), backlog)| Self { baseline, candidate, backlog }).collect()
    }

    /// Requests of both arms, those that are left out as well.
    pub(crate) fn reported(&self) -> u64 {
        self.baseline.requests + self.candidate.requests + self.backlog.iter().map(|b| b.left_out).sum::<u64>()
    }
}

impl Record {
    /// Shadows whose verdicts, made again, come out otherwise.
    #[must_use]
    pub fn different_shadows(&self) -> usize {
        let settings = &self.rollout.config.shadow;
        self.shadows.iter().filter(|shadow| !shadow.is_same(settings)).count()
    }

    /// Makes every verdict again.
    ///
    /// # Errors
    /// If the recorded configuration makes no sense to this release.
    pub fn replay(&self) -> Result<Vec<Replayed>, ConfigError> {
        let mut replayed = Vec::new();
        for stage in &self.stages {
            let rule = Rule::new(self.rollout.config.at(stage.stage.step))?;
            for recorded in &stage.verdicts {
                let Verdict { check, seed, windows, .. } = recorded.verdict;
                let probes = recorded.probes.as_deref();
                let evidence = match &recorded.paused {
                    Some(paused) => stage.paused(&self.rollout, paused, probes),
                    None => stage.evidence(&self.rollout, windows, probes),
                };
                let verdict = rule.verdict(&evidence, check, seed);
                replayed.push(Replayed { stage: stage.stage.number, same: verdict == recorded.verdict, verdict });
            }
        }
        Ok(replayed)
    }
}

/// Length of a window in milliseconds.
#[must_use]
pub fn window_ms(rollout: &Rollout) -> u32 {
    u32::try_from(rollout.config.plan.window.as_millis()).unwrap_or(u32::MAX)
}

/// The seed of a verdict: the same for the same rollout, stage and windows, so that another controller comes to the same one.
#[must_use]
pub fn seed(id: &str, stage: u32, windows: u32) -> u64 {
    // FNV-1a: stable over releases and machines, unlike the standard library's hashers.
    let bytes = id.bytes().chain(stage.to_le_bytes()).chain(windows.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
