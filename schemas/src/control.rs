//! What an operator asks of workers by name, beside what [`crate::serving`] says of variants: how they stand, that they look at the registry,
//! that they drain. Endpoints of the micro service, so that `nats micro info` lists them and `nats req` asks them.

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Slug,
    serving::{self, VariantStatus},
};

/// `embed.control.status`: asks all workers how they stand; each answers with a [`WorkerStatus`].
pub const STATUS_SUBJECT: &str = "embed.control.status";
/// `embed.control.reload`: asks all workers to look at the registry now, as `embed.control.refresh` does; each answers with a [`WorkerStatus`].
pub const RELOAD_SUBJECT: &str = "embed.control.reload";
/// What [`drain`] begins with. Nobody listens on it: all workers at once are never asked to go.
pub const DRAIN_PREFIX: &str = "embed.control.drain";

/// `embed.control.status.<worker>`: asks one worker.
#[must_use]
pub fn status(worker: &str) -> String {
    format!("{STATUS_SUBJECT}.{worker}")
}

/// `embed.control.reload.<worker>`: asks one worker.
#[must_use]
pub fn reload(worker: &str) -> String {
    format!("{RELOAD_SUBJECT}.{worker}")
}

/// `embed.control.drain.<worker>`: has one worker end as a signal does: it takes nothing more, finishes what it has, gives back the rest, and exits
/// with 0. It answers first, with a [`WorkerStatus`].
#[must_use]
pub fn drain(worker: &str) -> String {
    format!("{DRAIN_PREFIX}.{worker}")
}

/// How a worker stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct WorkerStatus {
    /// Its id.
    pub worker: String,
    /// Version of the program.
    pub program: String,
    /// Since when it serves, RFC 3339.
    pub started: String,
    /// Whether it goes on.
    pub state: WorkerState,
    /// How long draining may take at most, milliseconds.
    pub drain_timeout_ms: u64,
    /// Texts that it has taken and not ended, of all variants.
    pub texts_in_flight: u64,
    /// What does not keep it from serving, and yet is not as it should be, for a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it serves.
    pub variants: Vec<ServedStatus>,
}

/// Notes of one worker that are read.
const MOST_NOTES: usize = 64;

impl WorkerStatus {
    /// As it was said, with texts and lists cut to lengths that they have, and without control characters: whoever can answer in a worker's place
    /// can say anything.
    #[must_use]
    pub fn clean(mut self) -> Self {
        for name in [&mut self.worker, &mut self.program, &mut self.started] {
            serving::cut_name(name);
        }
        self.notes.truncate(MOST_NOTES);
        self.notes.iter_mut().for_each(serving::cut_reason);
        self.variants.truncate(serving::MOST_VARIANTS);
        for served in &mut self.variants {
            served.status = served.status.clone().clean();
        }
        self
    }
}

/// Whether a worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It takes what comes.
    Serving,
    /// It takes nothing more.
    Draining,
}

/// A variant and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct ServedStatus {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// Version, precision, provider, devices, and what failed.
    #[serde(flatten)]
    pub status: VariantStatus,
}

impl WorkerState {
    /// The state's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_a_workers_place_is_bounded_and_moves_no_cursor() {
        let status = serde_json::json!({
            "worker": "w", "program": "\u{1b}[2J0.1", "started": "x".repeat(1_000), "state": "draining", "drain_timeout_ms": 1,
            "texts_in_flight": 2, "notes": vec!["n\r".repeat(9_000); 100],
            "variants": [{"model": "m", "variant": "v", "state": "live", "default": true, "wanted": "\u{7}"}],
        });
        let read: WorkerStatus = serde_json::from_value(status).unwrap();
        let clean = read.clean();
        assert_eq!((clean.program.as_str(), clean.started.len(), clean.notes.len()), ("\u{fffd}[2J0.1", 256, 64));
        assert!(clean.notes[0].starts_with("n\u{fffd}") && clean.notes[0].chars().count() == 4_096);
        assert_eq!((clean.variants[0].status.wanted.as_str(), clean.state.as_str()), ("\u{fffd}", "draining"));
    }
}
