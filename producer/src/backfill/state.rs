//! What is recorded of a backfill, beside its output: enough to go on after any kind of end.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    ops::RangeInclusive,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use embed_client::id_with_key;
use embed_schemas::{JobId, removal::RemovalKey};
use serde::{Deserialize, Serialize};

use super::{
    Parameters, Summary,
    failures::Failures,
    source::{self, Content},
};
use crate::Error;

/// The layout of the file.
const FORMAT: u32 = 3;
/// Layouts that can be read: the first did not say what the input held, the second had no key.
const READABLE: RangeInclusive<u32> = 1..=FORMAT;

/// How far the input has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Bytes.
    pub bytes: u64,
    /// Lines, blank ones included.
    pub lines: u64,
    /// Rows: lines that are not blank.
    pub rows: u64,
}

/// The state of a backfill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The layout of the file, 3.
    pub format: u32,
    /// The backfill's id: the beginning of the ids of its jobs.
    pub id: JobId,
    /// What proves to workers that these ids are its own, and their results its to remove: a secret. `None` in a state of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_key: Option<RemovalKey>,
    /// What it does.
    pub parameters: Parameters,
    /// Bytes of the input when it began. `None` if it is standard input.
    pub input_size: Option<u64>,
    /// SHA-256 of these bytes. `None` if it is not known.
    #[serde(default)]
    pub input_sha256: Option<String>,
    /// How much of the input is done: its rows are in the output.
    pub done: Position,
    /// Bytes of the output that belong to `done`. What comes after is written again.
    pub output_bytes: u64,
    /// Rows that have a vector.
    pub stored: u64,
    /// Rows that have an error.
    pub failed: u64,
    /// Why they have it.
    #[serde(default)]
    pub failures: Failures,
    /// The embedding space of the vectors: the one that was asked for, or that of the first.
    pub space: Option<String>,
    /// Whether the whole input is done.
    pub finished: bool,
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
    /// Nothing is done yet. `content`: what the input holds, if it is a file.
    pub(super) fn new(removal_key: RemovalKey, parameters: Parameters, content: Option<Content>) -> Self {
        let (input_size, input_sha256) = content.map(|content| (content.bytes, content.sha256)).unzip();
        Self {
            format: FORMAT,
            id: id_with_key(&removal_key),
            removal_key: Some(removal_key),
            space: parameters.space.clone(),
            parameters,
            input_size,
            input_sha256: input_sha256.flatten(),
            done: Position::default(),
            output_bytes: 0,
            stored: 0,
            failed: 0,
            failures: Failures::new(),
            finished: false,
        }
    }

    /// What the input held when it began, if it is a file.
    pub(super) fn content(&self) -> Option<Content> {
        self.input_size.map(|bytes| Content { bytes, sha256: self.input_sha256.clone() })
    }

    /// Whether a run can go on from here: what standard input held is gone.
    pub(super) fn can_be_resumed(&self) -> bool {
        !source::is_stream(&self.parameters.input)
    }

    /// Reads the state of the backfill into `output`. `None` if there is none.
    pub(super) fn find(output: &Path) -> Result<Option<Self>, Error> {
        let path = state_path(output);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(path)(error)),
        };
        let broken = |reason: String| Error::Backfill(format!("{}: {reason}", path.display()));
        let state: Self = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if !READABLE.contains(&state.format) {
            return Err(broken(format!("format {}, this version reads up to format {FORMAT}", state.format)));
        }
        Ok(Some(Self { format: FORMAT, ..state }))
    }

    /// Writes the state so that a reader, and we after a crash, find either the old or the new one.
    pub(super) fn save(&self, output: &Path) -> Result<(), Error> {
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

    /// `results_left`: results of written rows that are still in their stream.
    pub(super) fn summary(&self, output: &Path, rows_now: u64, elapsed: Duration, results_left: u64) -> Summary {
        let seconds = elapsed.as_secs_f64();
        // Precise up to 2^53 rows.
        let rows_per_second = if seconds > 0.0 { rows_now as f64 / seconds } else { 0.0 };
        Summary {
            id: self.id.clone(),
            output: output.to_owned(),
            finished: self.finished,
            rows: self.done.rows,
            stored: self.stored,
            failed: self.failed,
            failures: self.failures.clone(),
            results_left,
            seconds,
            rows_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backfill::tests::parameters;

    fn key() -> RemovalKey {
        RemovalKey::from_random([7; 32])
    }

    fn state() -> State {
        let content = Content { bytes: 10, sha256: Some("0a".into()) };
        State::new(key(), parameters(), Some(content))
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
        assert_eq!(State::new(key(), parameters, None).space.as_deref(), Some("s"));
    }

    #[test]
    fn another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        State { format: 9, ..state() }.save(&output).unwrap();
        assert!(State::find(&output).unwrap_err().to_string().contains("format 9"));
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
        assert_eq!(read.content(), Some(Content { bytes: 10, sha256: None }));
        assert_eq!((read.parameters, read.output_bytes, read.format), (parameters(), 7, FORMAT));
        assert_eq!(read.removal_key, None);
    }
}
