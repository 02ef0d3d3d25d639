//! A backfill is begun, resumed, looked at.

use std::{path::Path, time::Duration};

use embed_client::Client;
use embed_schemas::removal::RemovalKey;

use crate::{
    Error, Pace, Parameters, Plan, Progress, Retry, State, Summary, driver,
    input::{Fields, is_stream},
    output::{LinesFile, Output},
    state_path,
    writer::Books,
};

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
    for input in &parameters.inputs {
        refuse_overwriting(Path::new(input), output)?;
    }
    if let Some(retry) = &parameters.retry {
        refuse_overwriting(&retry.file, output)?;
    }
    let plan = Plan::make(&parameters).await?;
    let retry = parameters.retry.clone().map(Retry::look).transpose()?;
    let inputs = plan.files.iter().map(|file| file.location.clone()).collect();
    let state = State::new(RemovalKey::from_random(rand::random()), Parameters { inputs, retry, ..parameters }, plan);
    let opened = if is_stream(&output.to_string_lossy()) {
        LinesFile::stream()?
    } else {
        refuse_forgetting(output, force)?;
        let mut file = LinesFile::create(output, force)?;
        // Before anything is lost of what is overwritten: whatever kills us, a state that says "finished" stands beside all of its rows.
        state.save(output)?;
        file.cut(0)?;
        file
    };
    let books = Books::new(client, state, output, Output::Lines(opened), pace);
    driver::drive(client, books, pace, false, shutdown, on_progress).await
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
    Err(Error::Backfill(match (state.finished, state.plan.can_be_read_again()) {
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
    let mut file = LinesFile::reopen(output)?;
    // Read again behind the lock: another run may have gone on meanwhile.
    let state = status(output)?;
    if state.finished {
        return Ok(state.summary(output, 0, Duration::ZERO, 0));
    }
    if !state.plan.can_be_read_again() {
        return Err(Error::Backfill(format!(
            "the input of the backfill into {} was standard input, which is gone: begin anew with `embed backfill run --force`",
            output.display()
        )));
    }
    state.plan.check().await?;
    file.cut(state.mark.bytes)?;
    let books = Books::new(client, state, output, Output::Lines(file), pace);
    driver::drive(client, books, pace, true, shutdown, on_progress).await
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
