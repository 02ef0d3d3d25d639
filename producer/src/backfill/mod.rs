//! Backfill: a file of JSON lines in, a file of JSON lines out, through the queue.
//!
//! Rows are grouped into jobs on the bulk lane, a bounded number of them in flight, and written in the order of the
//! input. What is written is recorded beside the output, so that a run that was stopped, however it was stopped, goes
//! on where it was: every row is written exactly once.
//!
//! | module | does |
//! |---|---|
//! | `source` | what is read, and whether it is still the same |
//! | `input` | lines -> rows, with their position in the file |
//! | `chunk` | rows -> groups that fit into one message |
//! | `job` | a group -> its lines of the output, through the queue |
//! | `flight` | one job of it: published, waited for, published again if it was lost |
//! | `ahead` | groups that are done before one that comes before them |
//! | `line` | a row and what became of it -> a line of the output |
//! | `failures` | why rows have no vector, for the summary |
//! | `output` | the file being written |
//! | `state` | what is recorded of a backfill |
//! | `driver` | the loop over all of it |
//! | `purge` | results that are written are removed from the stream |

mod ahead;
mod chunk;
mod driver;
mod failures;
mod flight;
mod input;
mod job;
mod line;
mod output;
mod purge;
mod source;
mod state;

use std::{
    io::{self, BufRead},
    path::{Path, PathBuf},
    time::Duration,
};

use embed_schemas::{EmbedRequest, JobId, Slug, WireError, removal::RemovalKey};
use serde::{Deserialize, Serialize};

pub use failures::{Example, Failures, Reason};
pub use source::Content;
pub use state::{Position, State, state_path};

use crate::Error;
use embed_client::Client;
use input::Fields;
use output::Output;

/// What a backfill does. Kept with its state, so that it is the same after a resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The file to read; `-` for standard input.
    pub input: PathBuf,
    /// The model.
    pub model: Slug,
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// Whose jobs they are: see [`embed_client::PublishOptions::tenant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Slug>,
    /// A prompt of the model.
    pub prompt: Option<String>,
    /// Whether texts that are too long are cut.
    pub truncate: bool,
    /// A smaller number of dimensions.
    pub dimensions: Option<u32>,
    /// The only embedding space whose vectors are of use. That of the first vectors if `None`.
    #[serde(default)]
    pub space: Option<String>,
    /// The field that holds the text.
    pub text_field: String,
    /// The field that holds the row's id.
    pub id_field: String,
    /// Other fields that come along into the output; `all` for all but id and text.
    #[serde(default)]
    pub keep: Vec<String>,
    /// Rows in one job, 1 to 256.
    pub chunk: usize,
}

/// Where a row ends, and its text or what is wrong with its line.
pub type ReadRow = (Position, Result<String, WireError>);

/// Reads the rows of an input as a backfill does: where each ends, and its text or what is wrong with the line. The reader stands at `at`.
///
/// # Errors
/// If a field cannot come along, or the input cannot be read.
pub fn read_rows(reader: impl BufRead, at: Position, parameters: &Parameters) -> Result<Vec<ReadRow>, Error> {
    let fields = Fields::of(parameters).map_err(Error::Backfill)?;
    let mut input = input::Input::new(reader, at, fields);
    let rows = std::iter::from_fn(|| input.next().transpose());
    let read: io::Result<Vec<_>> = rows.map(|row| row.map(|row| (row.end, row.text))).collect();
    read.map_err(Error::file(&parameters.input))
}

/// How a backfill is run. May differ from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Jobs in flight, at least 1.
    pub window: usize,
    /// Give up if no result at all comes for so long.
    pub stall_timeout: Duration,
    /// A job that has had no result for so long is looked for, and published again if it is in no stream and has none: a server
    /// that lost power, or a stream that was made anew, can have lost it. Then it is looked for again after the same time.
    pub missing_after: Duration,
    /// Bytes of results that may wait in memory for one that comes before them, beside those of a window. No more than a quarter of
    /// what the stream of results may hold, since they are there, too, until they are written.
    pub ahead_bytes: usize,
    /// Leave results in their stream after they are written, until they expire.
    pub keep_results: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            window: 32,
            stall_timeout: Duration::from_secs(600),
            missing_after: Duration::from_secs(10),
            ahead_bytes: 64 << 20,
            keep_results: false,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows written, by earlier runs too.
    pub rows: u64,
    /// Rows written by this run.
    pub rows_now: u64,
    /// Of all rows written, those that have an error instead of a vector.
    pub failed: u64,
    /// Bytes of the input that are done.
    pub input_bytes: u64,
    /// Bytes of the input. `None` if it is standard input.
    pub input_size: Option<u64>,
    /// For how long this run has been running.
    pub elapsed: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The backfill's id.
    pub id: JobId,
    /// The file that was written.
    pub output: PathBuf,
    /// Whether the whole input is done. If not, the run was asked to stop.
    pub finished: bool,
    /// Rows read.
    pub rows: u64,
    /// Rows that have a vector.
    pub stored: u64,
    /// Rows that have an error.
    pub failed: u64,
    /// Why they have it.
    pub failures: Failures,
    /// Results of rows that are written, which could not be removed from their stream, as far as is known. 0 if they are to be
    /// kept.
    pub results_left: u64,
    /// Seconds that this run took.
    pub seconds: f64,
    /// Rows per second of this run.
    pub rows_per_second: f64,
}

/// Begins a backfill and runs it to its end, or until `shutdown` is done. `-` as the output is standard output.
///
/// # Errors
/// [`Error::Backfill`] if the output exists (unless `force`), if a backfill into it is unfinished or running, or if results come from two
/// embedding spaces; [`Error::Client`] if they come from another than asked for, or no stream takes the jobs; [`Error::Stalled`];
/// [`Error::Control`] for a file that cannot be read or written. What was written by
/// then is recorded and can be resumed, unless it came from standard input or went to standard output.
pub async fn run(
    client: &Client,
    parameters: Parameters,
    output: &Path,
    force: bool,
    pace: &Pace,
    shutdown: impl Future<Output = ()>,
    on_progress: impl FnMut(&Progress),
) -> Result<Summary, Error> {
    Fields::of(&parameters).map_err(Error::Backfill)?;
    let (parameters, content) = if source::is_stream(&parameters.input) {
        (parameters, None)
    } else {
        let input = std::path::absolute(&parameters.input).map_err(Error::file(&parameters.input))?;
        let parameters = Parameters { input, ..parameters };
        refuse_overwriting(&parameters.input, output)?;
        let input = parameters.input.clone();
        let content = in_a_thread(move || Content::of(&input)).await?;
        (parameters, Some(content))
    };
    let state = State::new(RemovalKey::from_random(rand::random()), parameters, content);
    let file = if source::is_stream(output) {
        Output::stream()?
    } else {
        refuse_forgetting(output, force)?;
        let mut file = Output::create(output, force)?;
        // Before anything is lost of what is overwritten: whatever kills us, a state that says "finished" stands beside all of its rows.
        state.save(output)?;
        file.cut(0)?;
        file
    };
    driver::drive(client, state, file, pace, false, shutdown, on_progress).await
}

/// Overwriting is asked for with the output in mind.
fn refuse_overwriting(input: &Path, output: &Path) -> Result<(), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(output).is_some_and(|output| real(input) == Some(output)) {
        return Err(Error::Backfill(format!("{} is the input: choose another output", output.display())));
    }
    Ok(())
}

fn refuse_forgetting(output: &Path, force: bool) -> Result<(), Error> {
    let state = if force { None } else { State::find(output)? };
    let Some(state) = state else { return Ok(()) };
    let output = output.display();
    Err(Error::Backfill(match (state.finished, state.can_be_resumed()) {
        (true, _) => format!("{output} is the output of a finished backfill: pass --force to overwrite it"),
        (false, true) => format!(
            "a backfill into {output} is unfinished: go on with `embed backfill resume {output}`, or pass --force to begin anew"
        ),
        (false, false) => format!("a backfill of standard input into {output} was stopped: pass --force to begin anew"),
    }))
}

/// Goes on with a backfill that was stopped. One that is finished is left as it is.
///
/// # Errors
/// [`Error::Backfill`] if there is nothing to resume, or if input or output are not as they were left; and as [`run`].
pub async fn resume(
    client: &Client,
    output: &Path,
    pace: &Pace,
    shutdown: impl Future<Output = ()>,
    on_progress: impl FnMut(&Progress),
) -> Result<Summary, Error> {
    // What is not there at all is no file that cannot be opened.
    status(output)?;
    let mut file = Output::reopen(output)?;
    // Read again behind the lock: another run may have gone on meanwhile.
    let state = status(output)?;
    if state.finished {
        return Ok(state.summary(output, 0, Duration::ZERO, 0));
    }
    let Some(content) = state.content().filter(|_| state.can_be_resumed()) else {
        return Err(Error::Backfill(format!(
            "the input of the backfill into {} was standard input, which is gone: begin anew with `embed backfill run --force`",
            output.display()
        )));
    };
    let input = state.parameters.input.clone();
    in_a_thread(move || content.check(&input)).await?;
    file.cut(state.output_bytes)?;
    driver::drive(client, state, file, pace, true, shutdown, on_progress).await
}

/// For what reads a whole file.
async fn in_a_thread<T: Send + 'static>(read: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
}

/// What is recorded of the backfill into `output`.
///
/// # Errors
/// [`Error::Backfill`] if nothing is.
pub fn status(output: &Path) -> Result<State, Error> {
    State::find(output)?.ok_or_else(|| {
        Error::Backfill(format!(
            "there is no backfill into {}: its state would be in {}",
            output.display(),
            state_path(output).display()
        ))
    })
}

impl Parameters {
    /// A job without texts and id.
    fn template(&self) -> EmbedRequest {
        EmbedRequest {
            prompt: self.prompt.clone(),
            truncate: self.truncate,
            dimensions: self.dimensions,
            ..EmbedRequest::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Parameters;

    pub(super) fn parameters() -> Parameters {
        Parameters {
            input: "/in.jsonl".into(),
            model: "m".parse().unwrap(),
            variant: None,
            tenant: None,
            prompt: None,
            truncate: true,
            dimensions: None,
            space: None,
            text_field: "text".into(),
            id_field: "id".into(),
            keep: Vec::new(),
            chunk: 64,
        }
    }
}
