//! What is recorded of a backfill in the bucket.

use std::time::Duration;

use embed_schemas::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    lease,
    pieces::{self, Piece},
    place,
};
use crate::{Parameters, Plan, Progress, State};

/// Bytes of inputs that are in the entry itself, for lists.
const INPUTS_BYTES: usize = 4 << 10;

/// What is wanted of a backfill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// That it goes on.
    #[default]
    Run,
    /// That whoever runs it keeps what is done, and ends.
    Pause,
    /// That it ends for good.
    Cancel,
}

/// Who runs a backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Told apart from all others.
    pub id: JobId,
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Which machine and which processes these are, if it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Milliseconds, counted from the moment at which the server has stored this, for which nobody else runs it.
    pub lease_ms: u64,
}

impl Runner {
    pub(super) const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// How far it was when it was last recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// Rows written.
    pub rows: u64,
    /// Of them, those that have an error.
    pub failed: u64,
    /// Bytes of the input that are done.
    pub input_bytes: u64,
    /// Bytes of the input, if they are known.
    pub input_size: Option<u64>,
    /// Rows per second of the last run.
    pub rows_per_second: f64,
    /// When this was recorded, by the runner's clock, RFC 3339.
    pub updated: String,
}

impl Live {
    pub(crate) fn of(progress: &Progress) -> Self {
        let seconds = progress.elapsed.as_secs_f64();
        Self {
            rows: progress.rows,
            failed: progress.failed,
            input_bytes: progress.input_bytes,
            input_size: progress.input_size,
            // Precise up to 2^53 rows.
            rows_per_second: if seconds > 0.0 { progress.rows_now as f64 / seconds } else { 0.0 },
            updated: embed_control::now(),
        }
    }
}

/// A backfill in the bucket.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its state as it is stored: without what is kept in pieces.
    pub(super) state: State,
    /// The plan, with all inputs, in so many pieces.
    pub(super) plan: PlanPieces,
    /// Parts that are in none of the state.
    pub(super) parts: Vec<Piece>,
    /// Inputs that are not among those of the state.
    pub(super) inputs_left: usize,
    /// Where its rows go.
    pub(super) output: String,
    /// The host on which it was last run.
    pub(super) host: String,
    /// Whoever runs it.
    pub(super) runner: Option<Runner>,
    pub(super) wish: Wish,
    pub(super) progress: Live,
}

/// Where the plan is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PlanPieces {
    /// What it holds, by which its pieces are called; `None` of an entry of before.
    pub(super) digest: Option<String>,
    pub(super) count: usize,
}

/// The same as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    state: Value,
    #[serde(default)]
    pieces: usize,
    #[serde(default)]
    plan: Option<String>,
    #[serde(default)]
    parts: Vec<Piece>,
    #[serde(default)]
    inputs_left: usize,
    output: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    runner: Option<Runner>,
    #[serde(default)]
    wish: Wish,
    #[serde(default)]
    progress: Live,
}

impl Stored {
    pub(super) fn of(entry: &Entry) -> Result<Self, serde_json::Error> {
        let Entry { state, plan, parts, inputs_left, output, host, runner, wish, progress } = entry.clone();
        let PlanPieces { digest: plan, count: pieces } = plan;
        let state = serde_json::to_value(state)?;
        Ok(Self { state, pieces, plan, parts, inputs_left, output, host, runner, wish, progress })
    }

    /// Without what is kept in pieces. The error says what is wrong.
    pub(super) fn read(self) -> Result<Entry, String> {
        let Self { state, pieces: count, plan: digest, parts, inputs_left, output, host, runner, wish, progress } =
            self;
        let (state, plan) = (State::from_value(state)?, PlanPieces { digest, count });
        Ok(Entry { state, plan, parts, inputs_left, output, host, runner, wish, progress })
    }
}

/// How a backfill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Somebody runs it.
    Running,
    /// Somebody runs it, and is to stop.
    Stopping,
    /// Whoever ran it was told to pause.
    Paused,
    /// Whoever ran it was told to stop, or has failed.
    Stopped,
    /// Whoever ran it has gone without a word.
    Interrupted,
    /// The whole input is done.
    Finished,
    /// It was ended for good.
    Cancelled,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
        })
    }
}

impl Entry {
    /// Takes a state, of which what its pieces hold is left out.
    pub(super) fn take(&mut self, state: &State) {
        let mut bytes = 0;
        let inputs = &state.parameters.inputs;
        let fits = |input: &&String| {
            bytes += input.len();
            bytes <= INPUTS_BYTES
        };
        let first: Vec<String> = inputs.iter().take_while(fits).cloned().collect();
        self.inputs_left = inputs.len() - first.len();
        self.state = State {
            plan: Plan::default(),
            mark: pieces::rest(&state.mark, &self.parts),
            parameters: Parameters { inputs: first, ..state.parameters.clone() },
            failures: state.failures.clone(),
            skipped: state.skipped.clone(),
            served: state.served.clone(),
            id: state.id.clone(),
            removal_key: state.removal_key.clone(),
            space: state.space.clone(),
            ..*state
        };
    }

    /// How long nobody else may run it, at this moment by the server's clock.
    pub(super) fn lease_left(&self, written_ms: u64, now_ms: u64) -> Duration {
        match &self.runner {
            Some(runner) if !place::is_gone(runner.place.as_deref(), runner.pid) => {
                lease::left(runner.lease(), written_ms, now_ms)
            }
            _ => Duration::ZERO,
        }
    }

    /// How it stands, if a lease has so much left.
    pub(super) fn phase(&self, left: Duration) -> Phase {
        match (&self.runner, self.wish) {
            // It may still be removing results.
            (Some(_), wish) if !left.is_zero() => match wish {
                Wish::Run => Phase::Running,
                Wish::Pause | Wish::Cancel => Phase::Stopping,
            },
            _ if self.state.cancelled => Phase::Cancelled,
            _ if self.state.finished => Phase::Finished,
            (None, Wish::Pause) => Phase::Paused,
            (None, _) => Phase::Stopped,
            (Some(_), _) => Phase::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::removal::RemovalKey;

    use super::*;
    use crate::{Plan, tests::parameters};

    pub(crate) fn entry() -> Entry {
        let state = State::new(RemovalKey::from_random([7; 32]), parameters(), Plan::default());
        let output = "/out.jsonl".to_owned();
        let (plan, parts, inputs_left) = (PlanPieces::default(), Vec::new(), 0);
        let (host, runner, wish, progress) = ("h".into(), None, Wish::Run, Live::default());
        Entry { state, plan, parts, inputs_left, output, host, runner, wish, progress }
    }

    fn runner() -> Runner {
        Runner { id: embed_client::new_id(), host: "h".into(), pid: 7, place: None, lease_ms: 30_000 }
    }

    #[test]
    fn what_is_stored_reads_back() {
        let entry = Entry { runner: Some(runner()), wish: Wish::Pause, ..entry() };
        let text = serde_json::to_string(&Stored::of(&entry).unwrap()).unwrap();
        let read = serde_json::from_str::<Stored>(&text).unwrap().read().unwrap();
        assert_eq!((read.state, read.runner, read.wish), (entry.state, entry.runner, Wish::Pause));
        // What a later version adds is passed over; a state that it has changed is not taken for one of ours.
        let more = text.replacen('{', r#"{"new": 1, "#, 1);
        assert!(serde_json::from_str::<Stored>(&more).unwrap().read().is_ok());
        let later = text.replace(r#""format":5"#, r#""format":99"#);
        assert!(serde_json::from_str::<Stored>(&later).unwrap().read().unwrap_err().contains("99"));
    }

    #[test]
    fn it_runs_as_long_as_its_lease() {
        let running = Entry { runner: Some(runner()), ..entry() };
        assert_eq!(running.lease_left(1_000, 11_000), Duration::from_secs(20));
        assert_eq!(running.phase(Duration::from_secs(20)), Phase::Running);
        assert_eq!(running.phase(running.lease_left(1_000, 31_000)), Phase::Interrupted);
        assert_eq!(Entry { wish: Wish::Pause, ..entry() }.phase(Duration::ZERO), Phase::Paused);
        let mut ended = running;
        ended.state.finished = true;
        assert_eq!(ended.phase(Duration::ZERO), Phase::Finished);
        ended.state.cancelled = true;
        assert_eq!(ended.phase(Duration::ZERO), Phase::Cancelled);
    }
}
