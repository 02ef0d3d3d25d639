//! What is recorded of a backfill, beside its output: enough to go on after any kind of end.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use embed_schemas::JobId;
use serde::{Deserialize, Serialize};

use super::{Parameters, Summary};
use crate::Error;

/// The layout of the file.
const FORMAT: u32 = 1;

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
    /// The layout of the file, 1.
    pub format: u32,
    /// The backfill's id: the beginning of the ids of its jobs.
    pub id: JobId,
    /// What it does.
    pub parameters: Parameters,
    /// Bytes of the input when it began.
    pub input_size: u64,
    /// How much of the input is done: its rows are in the output.
    pub done: Position,
    /// Bytes of the output that belong to `done`. What comes after is written again.
    pub output_bytes: u64,
    /// Rows that have a vector.
    pub stored: u64,
    /// Rows that have an error.
    pub failed: u64,
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
    pub(super) fn new(id: JobId, parameters: Parameters, input_size: u64) -> Self {
        Self {
            format: FORMAT,
            id,
            space: parameters.space.clone(),
            parameters,
            input_size,
            done: Position::default(),
            output_bytes: 0,
            stored: 0,
            failed: 0,
            finished: false,
        }
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
        if state.format != FORMAT {
            return Err(broken(format!("format {}, this version reads format {FORMAT}", state.format)));
        }
        Ok(Some(state))
    }

    /// Writes the state so that a reader, and we after a crash, find either the old or the new one.
    pub(super) fn save(&self, output: &Path) -> Result<(), Error> {
        let path = state_path(output);
        let temporary = with_suffix(&path, ".tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
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

    pub(super) fn summary(&self, output: &Path, rows_now: u64, elapsed: Duration) -> Summary {
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
            seconds,
            rows_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let parameters = Parameters {
            input: "/in.jsonl".into(),
            model: "m".parse().unwrap(),
            variant: None,
            prompt: None,
            truncate: true,
            dimensions: None,
            space: None,
            text_field: "text".into(),
            id_field: "id".into(),
            chunk: 64,
        };
        State::new("a".parse().unwrap(), parameters, 10)
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
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(files, ["out.jsonl.backfill.json"]);
    }

    #[test]
    fn a_space_that_is_asked_for_holds_from_the_first_row() {
        let parameters = Parameters { space: Some("s".into()), ..state().parameters };
        assert_eq!(State::new("a".parse().unwrap(), parameters, 10).space.as_deref(), Some("s"));
    }

    #[test]
    fn another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        State { format: 9, ..state() }.save(&output).unwrap();
        assert!(State::find(&output).unwrap_err().to_string().contains("format 9"));
    }
}
