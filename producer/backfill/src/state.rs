//! What is recorded of a backfill, beside its output: enough to go on after any kind of end.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, Write},
    ops::RangeInclusive,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use embed_client::{id_with_key, part_id};
use embed_schemas::{JobId, Slug, removal::RemovalKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Failures, Mark, Parameters, Plan, Position, Skipped, Summary, output::is_remote};

/// The layout of the file.
const FORMAT: u32 = 5;
/// Layouts that can be read: the first did not say what the input held, the second had no key, the third knew one file only, the fourth had all
/// parts in its entry.
const READABLE: RangeInclusive<u32> = 1..=FORMAT;

/// The state of a backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The layout of the file, 5.
    pub format: u32,
    /// The backfill's id: the beginning of the ids of its jobs.
    pub id: JobId,
    /// What proves to workers that these ids are its own, and their results its to remove: a secret. `None` in a state of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_key: Option<RemovalKey>,
    /// What it does.
    pub parameters: Parameters,
    /// What is read.
    pub plan: Plan,
    /// How much of the input is done: its rows are in the output.
    pub done: Position,
    /// What of the output belongs to `done`. What comes after is written again.
    pub mark: Mark,
    /// Rows that were embedded.
    pub stored: u64,
    /// Rows whose vector is that of an equal row.
    #[serde(default)]
    pub reused: u64,
    /// Ids of the previous output that have come again.
    #[serde(default)]
    pub came_again: u64,
    /// Ids of the previous output that are gone, once the whole input is done.
    #[serde(default)]
    pub removed: Option<u64>,
    /// Rows that have an error.
    pub failed: u64,
    /// Tokens that went into the vectors.
    #[serde(default)]
    pub tokens: u64,
    /// Why they have it.
    #[serde(default)]
    pub failures: Failures,
    /// Files of which rows are left out, since they cannot be read.
    #[serde(default, skip_serializing_if = "Skipped::is_none")]
    pub skipped: Skipped,
    /// Rows of which some text was not embedded, since the model takes no more of it at once.
    #[serde(default)]
    pub truncated: u64,
    /// Rows whose text was taken apart into windows.
    #[serde(default)]
    pub split: u64,
    /// The windows of those.
    #[serde(default)]
    pub windows: u64,
    /// The embedding space of the vectors: the one that was asked for, or that of the first.
    pub space: Option<String>,
    /// What made the vectors.
    #[serde(default)]
    pub served: BTreeSet<Served>,
    /// Whether the whole input is done.
    pub finished: bool,
    /// Whether it was ended for good before.
    #[serde(default)]
    pub cancelled: bool,
    /// How often it was saved: of two states of one backfill, the later has more.
    #[serde(default)]
    pub saves: u64,
}

/// What made vectors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Served {
    /// The variant of the model.
    pub variant: Slug,
    /// The version in the registry.
    pub version: String,
}

/// `OUT.backfill.json`
#[must_use]
pub fn state_path(output: &Path) -> PathBuf {
    with_suffix(output, ".backfill.json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl State {
    /// Whether the state of a backfill into an output stands beside it, since that is on this machine.
    pub(crate) fn is_beside(output: &Path) -> bool {
        !is_remote(&output.to_string_lossy())
    }

    /// Nothing is done yet.
    pub(crate) fn new(removal_key: RemovalKey, parameters: Parameters, plan: Plan) -> Self {
        Self {
            format: FORMAT,
            id: id_with_key(&removal_key),
            removal_key: Some(removal_key),
            space: parameters.space.clone(),
            parameters,
            plan,
            done: Position::default(),
            mark: Mark::default(),
            stored: 0,
            reused: 0,
            came_again: 0,
            removed: None,
            failed: 0,
            tokens: 0,
            failures: Failures::new(),
            served: BTreeSet::new(),
            skipped: Skipped::default(),
            truncated: 0,
            split: 0,
            windows: 0,
            finished: false,
            cancelled: false,
            saves: 0,
        }
    }

    /// What the ids of its jobs begin with.
    pub(crate) fn jobs(&self) -> JobId {
        let mended = self.plan.mended.as_ref().and_then(|mended| part_id(&self.id, mended).ok());
        mended.unwrap_or_else(|| self.id.clone())
    }

    /// Reads the state of the backfill into `output`. `None` if there is none.
    pub(crate) fn find(output: &Path) -> Result<Option<Self>, Error> {
        let path = state_path(output);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(path)(error)),
        };
        let broken = |reason: String| Error::Backfill(format!("{}: {reason}", path.display()));
        Self::read(&bytes).map_err(broken).map(Some)
    }

    /// Reads a state, that of an earlier version too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::from_value(serde_json::from_slice(bytes).map_err(|error| error.to_string())?)
    }

    /// The same, of JSON that has been read.
    pub(crate) fn from_value(state: Value) -> Result<Self, String> {
        let format = state.get("format").and_then(Value::as_u64).and_then(|format| u32::try_from(format).ok());
        match format {
            Some(FORMAT) => serde_json::from_value(state),
            Some(4) => serde_json::from_value(renumbered(state)),
            Some(format) if READABLE.contains(&format) => serde_json::from_value(migrated(state)),
            _ => return Err(format!("format {format:?}, this version reads up to format {FORMAT}")),
        }
        .map_err(|error| error.to_string())
    }

    /// Writes the state so that a reader, and we after a crash, find either the old or the new one.
    pub(crate) fn save(&self, output: &Path) -> Result<(), Error> {
        let path = state_path(output);
        let temporary = with_suffix(&path, ".tmp");
        let write = || -> io::Result<()> {
            // It holds a secret. What somebody else has left there keeps its permissions no longer.
            let mut options = File::options();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            // The new name is durable only once its folder is.
            match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
                _ => File::open(".")?.sync_all(),
            }
        };
        write().map_err(Error::file(&path))
    }

    /// Makes sure that every row that was read has come to something.
    pub(crate) fn check_counts(&self) -> Result<(), Error> {
        let Self { stored, reused, failed, .. } = *self;
        let read = self.done.rows;
        if stored + reused + failed == read {
            return Ok(());
        }
        Err(Error::Backfill(format!(
            "{read} rows were read, and {stored} stored, {reused} reused and {failed} failed: rows are missing, or came twice. Begin anew \
             with --force"
        )))
    }

    /// `results_left`: results of written rows that are still in their stream.
    pub(crate) fn summary(&self, output: &Path, rows_now: u64, elapsed: Duration, results_left: u64) -> Summary {
        let seconds = elapsed.as_secs_f64();
        // Precise up to 2^53 rows.
        let rows_per_second = if seconds > 0.0 { rows_now as f64 / seconds } else { 0.0 };
        Summary {
            id: self.id.clone(),
            output: output.to_owned(),
            finished: self.finished,
            asked: None,
            rows: self.done.rows,
            stored: self.stored,
            reused: self.reused,
            removed: self.removed,
            failed: self.failed,
            failures: self.failures.clone(),
            skipped: self.skipped.clone(),
            notes: self.plan.notes.clone(),
            truncated: self.truncated,
            split: self.split,
            windows: self.windows,
            tokens: self.tokens,
            results_left,
            seconds,
            rows_per_second,
        }
    }
}

/// A state of before that is laid out as those of now.
fn renumbered(mut state: Value) -> Value {
    state["format"] = json!(FORMAT);
    state
}

/// A state of one file of JSON lines into another, as it was written before there were others.
fn migrated(mut state: Value) -> Value {
    let Some(fields) = state.as_object_mut() else { return state };
    let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Null);
    let (bytes, sha256, output_bytes) = (take("input_size"), take("input_sha256"), take("output_bytes"));
    let mut input = Value::Null;
    if let Some(parameters) = fields.get_mut("parameters").and_then(Value::as_object_mut) {
        input = parameters.remove("input").unwrap_or_default();
        parameters.insert("inputs".into(), json!([input]));
    }
    fields.insert("format".into(), json!(FORMAT));
    fields.insert("plan".into(), json!({"files": [{"location": input, "bytes": bytes, "sha256": sha256}]}));
    fields.insert("mark".into(), json!({"bytes": output_bytes}));
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InputFile, tests::parameters};

    fn key() -> RemovalKey {
        RemovalKey::from_random([7; 32])
    }

    fn plan(sha256: Option<&str>) -> Plan {
        let sha256 = sha256.map(ToOwned::to_owned);
        Plan {
            files: vec![InputFile { location: "/in.jsonl".into(), bytes: Some(10), sha256, ..InputFile::default() }],
            ..Plan::default()
        }
    }

    fn state() -> State {
        State::new(key(), parameters(), plan(Some("0a")))
    }

    #[test]
    fn a_state_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        assert_eq!(State::find(&output).unwrap(), None);
        let mut state = state();
        state.save(&output).unwrap();
        state.stored = 7;
        state.save(&output).unwrap();
        assert_eq!(State::find(&output).unwrap(), Some(state));
        let mode = fs::metadata(state_path(&output)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds a secret");
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(files, ["out.jsonl.backfill.json"]);
    }

    #[test]
    fn a_space_that_is_asked_for_holds_from_the_first_row() {
        let parameters = Parameters { space: Some("s".into()), ..parameters() };
        assert_eq!(State::new(key(), parameters, Plan::default()).space.as_deref(), Some("s"));
    }

    #[test]
    fn rows_that_are_missing_are_noticed() {
        let state = |stored, reused, failed, rows| {
            let done = Position { rows, ..Position::default() };
            State { stored, reused, failed, done, ..state() }
        };
        state(4, 2, 1, 7).check_counts().unwrap();
        for wrong in [state(4, 2, 1, 8), state(4, 2, 1, 6)] {
            let error = wrong.check_counts().unwrap_err().to_string();
            assert!(error.contains("4 stored, 2 reused and 1 failed"), "{error}");
        }
    }

    #[test]
    fn another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        State { format: 9, ..state() }.save(&output).unwrap();
        assert!(State::find(&output).unwrap_err().to_string().contains("9"));
    }

    #[test]
    fn a_state_of_before_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let old = r#"{"format": 1, "id": "a", "parameters": {"input": "/in.jsonl", "model": "m", "variant": null, "prompt": null,
            "truncate": true, "dimensions": null, "space": null, "text_field": "text", "id_field": "id", "chunk": 64},
            "input_size": 10, "done": {"bytes": 5, "lines": 1, "rows": 1}, "output_bytes": 7, "stored": 1, "failed": 0,
            "space": "s", "finished": false}"#;
        fs::write(state_path(&output), old).unwrap();
        let read = State::find(&output).unwrap().unwrap();
        assert_eq!((read.plan, read.mark, read.format), (plan(None), Mark { bytes: 7, ..Mark::default() }, FORMAT));
        assert_eq!(read.parameters, parameters());
        assert_eq!(read.removal_key, None);
    }
}
