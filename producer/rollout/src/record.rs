//! The record of a rollout: everything that went into its verdicts, so that they can be made again from it alone.

use embed_schemas::WindowCounts;
use serde::{Deserialize, Serialize};

use crate::{
    Arm, ConfigError, Evidence, Rule, Verdict,
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
    /// Its windows, as they were when they were judged. A report that came later is not in them.
    pub windows: Vec<Window>,
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
}

/// A verdict with what is not in the windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// When it was made, Unix time in milliseconds.
    pub when_ms: u64,
    /// Cosines of both variants' vectors, as they were last probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<Vec<f64>>,
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
        let until = self.windows.len().min(windows as usize);
        let arm = |variant: &embed_schemas::Slug, of: fn(&Window) -> &WindowCounts| Arm {
            variant: variant.clone(),
            windows: self.windows[..until].iter().map(of).cloned().collect(),
        };
        Evidence {
            candidate_percent: rollout.percent_of(self.stage.step),
            from_ms: self.stage.from_ms,
            window_ms: window_ms(rollout),
            baseline: arm(&rollout.from, |window| &window.baseline),
            candidate: arm(&rollout.to, |window| &window.candidate),
            probes: probes.map(<[f64]>::to_vec),
            reference: self.stage.reference.clone(),
        }
    }

    /// All of the baseline's windows, added up.
    #[must_use]
    pub fn baseline(&self) -> WindowCounts {
        self.windows.iter().fold(WindowCounts::default(), |mut sum, window| {
            sum.merge(&window.baseline);
            sum
        })
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
        let rule = Rule::new(self.rollout.config.clone())?;
        let again = |stage: &StageRecord, recorded: &Recorded| {
            let Verdict { check, seed, windows, .. } = recorded.verdict;
            let evidence = stage.evidence(&self.rollout, windows, recorded.probes.as_deref());
            let verdict = rule.verdict(&evidence, check, seed);
            Replayed { stage: stage.stage.number, same: verdict == recorded.verdict, verdict }
        };
        let stages = self.stages.iter();
        Ok(stages.flat_map(|stage| stage.verdicts.iter().map(move |recorded| again(stage, recorded))).collect())
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
