//! The plan of a rollout, declared before it begins: steps, how long each is held, and how often the evidence is looked at.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, refuse};

/// Steps, hold and looks. All of it stands before the first look; that is what makes peeking harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// The candidate's share of the traffic in percent, step by step; rising. A step of 100 has nothing to compare with, and is
    /// only watched.
    pub steps: Vec<f64>,
    /// How long a step is held. Its last look is at the end of this time.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// How long each step is held, if not all as long as [`Plan::hold`]: as many as there are steps.
    #[serde(with = "durations", skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Duration>,
    /// Looks at a step's evidence, evenly spread over the hold.
    pub looks: u32,
    /// Length of a window of the statistics.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Time after a change of weights that is left out: requests that were routed before it are still under way.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// Whether to begin although the traffic there is cannot decide.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub any_traffic: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            steps: vec![5.0, 25.0, 50.0, 100.0],
            hold: Duration::from_secs(30 * 60),
            holds: Vec::new(),
            looks: 10,
            window: Duration::from_secs(5),
            settle: Duration::from_secs(30),
            any_traffic: false,
        }
    }
}

impl Plan {
    /// How long a step is held.
    #[must_use]
    pub fn hold_of(&self, step: usize) -> Duration {
        self.holds.get(step).copied().unwrap_or(self.hold)
    }

    /// Windows of one step, those of [`Plan::settle`] left out. Of a plan with [`Plan::holds`], see [`crate::Config::at`].
    #[must_use]
    pub fn windows(&self) -> u32 {
        u32::try_from(self.hold.as_millis() / self.window.as_millis().max(1)).unwrap_or(u32::MAX)
    }

    /// Windows of a step that are complete when look number `look` (from 1) is due.
    #[must_use]
    pub fn windows_at(&self, look: u32) -> u32 {
        (f64::from(self.windows()) * self.fraction(look)).round() as u32
    }

    /// The share of a step's evidence that look number `look` (from 1) has.
    #[must_use]
    pub fn fraction(&self, look: u32) -> f64 {
        f64::from(look.min(self.looks)) / f64::from(self.looks.max(1))
    }

    /// Steps in which both arms have traffic.
    #[must_use]
    pub fn comparisons(&self) -> usize {
        self.steps.iter().filter(|percent| **percent < 100.0).count()
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.steps.is_empty() || !self.steps.windows(2).all(|w| w[0] < w[1]) {
            return refuse("plan.steps", format!("{:?}: give rising percentages such as [5, 25, 50, 100]", self.steps));
        }
        if let Some(percent) = self.steps.iter().find(|p| !(**p > 0.0 && **p <= 100.0)) {
            return refuse("plan.steps", format!("{percent} is not in (0, 100]"));
        }
        if self.window.as_millis() == 0 {
            return refuse("plan.window", "a window has at least one millisecond; 5s is usual");
        }
        if self.looks == 0 {
            return refuse("plan.looks", "at least one look is needed to decide");
        }
        if !self.holds.is_empty() && self.holds.len() != self.steps.len() {
            return refuse(
                "plan.holds",
                format!("{} holds for {} steps: give one for each, or none", self.holds.len(), self.steps.len()),
            );
        }
        for step in 0..self.steps.len() {
            let held = Self { hold: self.hold_of(step), ..self.clone() };
            if held.windows() / self.looks < 4 {
                return refuse(
                    "plan.hold",
                    format!(
                        "{} hold {} windows of {}, too few for {} looks of at least 4 windows: hold longer, or look less often",
                        humantime::format_duration(held.hold),
                        held.windows(),
                        humantime::format_duration(self.window),
                        self.looks
                    ),
                );
            }
        }
        Ok(())
    }
}

/// Durations as people write them.
mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Human(#[serde(with = "humantime_serde")] Duration);

    pub(super) fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(durations.iter().map(|duration| Human(*duration)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Human>::deserialize(deserializer)?.into_iter().map(|human| human.0).collect())
    }
}
