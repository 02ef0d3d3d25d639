//! A backfill is begun, resumed, looked at.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use embed_client::Client;
use embed_schemas::{JobId, removal::RemovalKey};

use crate::{
    Error, Pace, Parameters, Plan, Progress, Retry, State, Summary, Wish, Writing, driver,
    input::{Carry, Fields, is_remote, is_stream},
    known, ledger,
    output::{Output, Target, location},
    state_path, windows,
    writer::{Books, may_write, patience},
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
    let target = Target::choose(output, &parameters.writing)?;
    let output = &PathBuf::from(location(output));
    let carry = match &target {
        Target::Postgres(_) => Carry::Columns,
        Target::Parts { format, .. } if format.is_columnar() => Carry::Columns,
        _ => Carry::Json,
    };
    let plan = Plan::make(&parameters, carry).await?;
    for file in plan.files.iter().filter(|file| !is_remote(&file.location)) {
        refuse_overwriting(Path::new(&file.location), output)?;
    }
    if let Some(retry) = &parameters.retry {
        refuse_overwriting(&retry.file, output)?;
    }
    let retry = parameters.retry.map(Retry::look).transpose()?;
    let retried = retry.iter().map(|retry| retry.file.to_string_lossy().into_owned());
    refuse_reading_from(plan.files.iter().map(|file| file.location.clone()).chain(retried), output)?;
    plan.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let failed = parameters.writing.failed.as_ref().map(|path| std::path::absolute(path).map_err(Error::file(path)));
    let failed = failed.transpose()?;
    if let Some(failed) = &failed {
        let files = plan.files.iter().map(|file| PathBuf::from(location(file.location.as_ref())));
        for read in files.chain(retry.as_ref().map(|retry| retry.file.clone())) {
            refuse_overwriting(&read, failed)?;
        }
    }
    let writing = Writing { format: target.format(), failed, ..parameters.writing };
    let inputs = parameters.inputs.iter().map(|input| absolute(input)).collect();
    let text_field = plan.text_field.clone().unwrap_or(parameters.text_field);
    let id_field = plan.id_field.clone().unwrap_or(parameters.id_field);
    let parameters = Parameters { inputs, text_field, id_field, writing, retry, ..parameters };
    let long = windows::settle(client, &parameters, pace.registry.as_deref()).await?;
    let mut state =
        State::new(RemovalKey::from_random(rand::random()), Parameters { long, ..parameters }.begun(), plan);
    let before = if target == Target::Stream { None } else { refuse_forgetting(output, force)? };
    let known = known::begin(client, &mut state, output).await?;
    let mut opened = Output::create(&target, &state.parameters, &state.plan, force).await?;
    let mut keeper = None;
    // Nothing but a lease guards an output elsewhere, though it may be one that cannot be resumed.
    if target != Target::Stream && (state.plan.can_be_read_again() || !State::is_beside(output)) {
        keeper = ledger::open(client, &state, &place(output), Wish::Run, force, pace.lease).await?;
    }
    if let (Some(before), true) = (before, keeper.is_some()) {
        ledger::forget(client, &before).await;
    }
    if opened.can_go_on() && State::is_beside(output) {
        // Before anything is lost of what is overwritten: whatever kills us, a state that says "finished" stands beside all of its rows.
        state.save(output)?;
    }
    opened.go_on(&state.mark, may_write(keeper.as_ref(), &patience(pace))).await?;
    let books = Books::new(client, state, output, opened, known, keeper, pace);
    driver::drive(client, books, pace, false, shutdown, on_progress).await
}

/// What is read, from wherever it is looked at.
fn absolute(input: &str) -> String {
    if is_stream(input) || input.contains("://") {
        return input.to_owned();
    }
    std::path::absolute(input).map_or_else(|_| input.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Overwriting is asked for with the output in mind.
fn refuse_overwriting(input: &Path, output: &Path) -> Result<(), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(output).is_some_and(|output| real(input) == Some(output)) {
        return Err(Error::Backfill(format!("{} is the input: choose another output", output.display())));
    }
    Ok(())
}

/// Who may write there: guarded by a lock on this machine, or by the lease alone.
fn place(output: &Path) -> ledger::Target {
    match location(output) {
        location if is_remote(&location) => ledger::Target::Remote(location),
        _ => ledger::Target::local(output),
    }
}

/// Nor is what is read among what is overwritten.
fn refuse_reading_from(locations: impl Iterator<Item = String>, output: &Path) -> Result<(), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = real(output);
    let mut files = locations.filter(|read| !is_stream(read));
    match files.find(|read| real(Path::new(&location(read.as_ref()))).starts_with(&folder)) {
        Some(read) => {
            Err(Error::Backfill(format!("{read} is read, and lies in {}: choose another output", output.display())))
        }
        None => Ok(()),
    }
}

/// The backfill that is overwritten, if it can be told.
fn refuse_forgetting(output: &Path, force: bool) -> Result<Option<JobId>, Error> {
    if force {
        return Ok(State::find(output).ok().flatten().map(|state| state.id));
    }
    let Some(state) = State::find(output)? else { return Ok(None) };
    let output = output.display();
    Err(Error::Backfill(match (state.finished, state.plan.can_be_read_again()) {
        _ if state.cancelled => format!("{output} is the output of a cancelled backfill: pass --force to overwrite it"),
        (true, _) => format!("{output} is the output of a finished backfill: pass --force to overwrite it"),
        (false, true) => format!(
            "a backfill into {output} is unfinished: go on with `embed backfill resume {output}`, or pass --force to begin anew"
        ),
        (false, false) => format!("a backfill of standard input into {output} was stopped: pass --force to begin anew"),
    }))
}

/// Goes on with a backfill that was stopped, known by its output or its id. One that is finished is left as it is.
///
/// # Errors
/// [`Error::Backfill`] if there is nothing to resume, or if input or output are not as they were left; and as [`run`].
pub async fn resume(
    client: &Client,
    name: &Path,
    pace: &Pace,
    shutdown: impl Future<Output = ()>,
    on_progress: impl FnMut(&Progress),
) -> Result<Summary, Error> {
    let name = &PathBuf::from(location(name));
    // What is not there at all is no file that cannot be opened.
    let recorded = ledger::recorded(client, name, |_| true).await?;
    let output = recorded.path();
    let mut opened = Output::reopen(&output, &recorded.state.parameters, &recorded.state.plan).await?;
    // Read again behind the lock: another run may have gone on meanwhile.
    let length = opened.length()?;
    let mut state =
        ledger::recorded(client, name, |mark| length.is_none_or(|length| mark.bytes <= length)).await?.state;
    let output = output.as_path();
    if state.finished {
        return Ok(state.summary(output, 0, Duration::ZERO, 0));
    }
    if state.cancelled {
        return Err(Error::Backfill(format!(
            "the backfill into {} was cancelled: begin anew with `embed backfill run --force`",
            output.display()
        )));
    }
    if !state.plan.can_be_read_again() {
        return Err(Error::Backfill(format!(
            "the input of the backfill into {} was standard input, which is gone: begin anew with `embed backfill run --force`",
            output.display()
        )));
    }
    let mended = state.plan.go_on(&state.parameters, state.done).await?;
    mended.iter().for_each(|note| tracing::warn!("{note}"));
    if !mended.is_empty() {
        // Two states that differ are told apart by it.
        state.saves += 1;
    }
    let keeper = ledger::open(client, &state, &place(output), Wish::Run, false, pace.lease).await?;
    if !mended.is_empty() && State::is_beside(output) {
        state.save(output)?;
    }
    opened.go_on(&state.mark, may_write(keeper.as_ref(), &patience(pace))).await?;
    let known = known::begin(client, &mut state, output).await?;
    let books = Books::new(client, state, output, opened, known, keeper, pace);
    driver::drive(client, books, pace, true, shutdown, on_progress).await
}

/// What is recorded of the backfill into `output`.
///
/// # Errors
/// [`Error::Backfill`] if nothing is.
pub fn status(output: &Path) -> Result<State, Error> {
    let output = &PathBuf::from(location(output));
    State::find(output)?.ok_or_else(|| {
        Error::Backfill(format!(
            "there is no backfill into {}: its state would be in {}",
            output.display(),
            state_path(output).display()
        ))
    })
}
