//! The loop of a backfill: groups of rows out, lines in order back, a record of it every second.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Seek, SeekFrom},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use embed_schemas::{JobId, Slug, streams};
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Pace, Progress, State, Summary,
    ahead::Ahead,
    chunk::Chunks,
    input::Input,
    job::{Finished, Jobs},
    output::Output,
    purge::Purger,
};
use crate::Error;
use embed_client::{Client, MessageBudget, nats::api};

/// How often progress is recorded, at most.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// For one question about a stream.
const INFO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// The output and what is recorded of it. File operations are done in place: they are short, and no await between
/// them means that a run which is dropped leaves nothing half done behind its back.
struct Books {
    state: State,
    output: Output,
    /// Jobs that are written and not yet recorded.
    written: Vec<JobId>,
    recorded: Instant,
    purger: Option<Purger>,
    started: Instant,
    rows_before: u64,
}

/// Runs a backfill on from its state.
pub(super) async fn drive(
    client: &Client,
    state: State,
    output: Output,
    pace: &Pace,
    resumed: bool,
    shutdown: impl Future<Output = ()>,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Summary, Error> {
    let parameters = state.parameters.clone();
    let jobs = Arc::new(Jobs {
        client: client.clone(),
        id: state.id.clone(),
        model: parameters.model.clone(),
        variant: parameters.variant.clone(),
        space: state.space.clone(),
        template: parameters.template(),
        outcomes: watch::Sender::new(0),
        // An interrupted run had a window of jobs in flight, and perhaps more that were not recorded: look until a whole
        // window of them was not there.
        lookups: AtomicUsize::new(if resumed { pace.window } else { 0 }),
        has_stream: AtomicBool::new(false),
        missing_after: pace.missing_after,
        trouble: Mutex::new(None),
    });
    let file = open_input(&state)?;
    let input = Input::new(file, state.done, &parameters.text_field, &parameters.id_field);
    let budget = MessageBudget::new(client.nats().max_payload(), parameters.chunk, &parameters.template());
    let chunks = Chunks::new(input, budget);
    let now = Instant::now();
    let mut books = Books {
        rows_before: state.done.rows,
        state,
        output,
        written: Vec::new(),
        recorded: now,
        purger: (!pace.keep_results).then(|| Purger::start(client, &parameters.model)),
        started: now,
    };
    let ahead = Ahead::new(ahead_bytes(client, &parameters.model, pace).await);
    let end = work(&jobs, chunks, ahead, &mut books, pace, shutdown, &mut on_progress).await;
    // Whatever the end is, what was written is kept.
    if let Ok(finished) = end {
        books.state.finished = finished;
    }
    let kept = books.record();
    on_progress(&books.progress());
    if let Some(purger) = books.purger.take() {
        purger.finish().await;
    }
    end.and(kept)?;
    Ok(books.state.summary(&books.output.path, books.state.done.rows - books.rows_before, books.started.elapsed()))
}

fn open_input(state: &State) -> Result<BufReader<File>, Error> {
    let path = &state.parameters.input;
    let open = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(state.done.bytes))?;
        Ok(BufReader::with_capacity(1 << 18, file))
    };
    open().map_err(Error::file(path))
}

/// What may wait in memory: its results are still in their stream, and must not fill it.
async fn ahead_bytes(client: &Client, model: &Slug, pace: &Pace) -> usize {
    let info = format!("STREAM.INFO.{}", streams::results_stream(model));
    let info = api::call(client.nats(), &info, &Value::Null, INFO_TIMEOUT).await;
    // -1: no limit.
    let limit = info.ok().and_then(|info| usize::try_from(info["config"]["max_bytes"].as_i64()?).ok());
    limit.map_or(pace.ahead_bytes, |limit| pace.ahead_bytes.min(limit / 4))
}

/// Returns whether the whole input is done; it is not if `shutdown` came first.
async fn work(
    jobs: &Arc<Jobs>,
    mut chunks: Chunks<BufReader<File>>,
    mut ahead: Ahead<Finished>,
    books: &mut Books,
    pace: &Pace,
    shutdown: impl Future<Output = ()>,
    on_progress: &mut impl FnMut(&Progress),
) -> Result<bool, Error> {
    tokio::pin!(shutdown);
    let mut tell = tokio::time::interval(TELL_EVERY);
    tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut outcomes = jobs.outcomes.subscribe();
    let mut give_up = Instant::now() + pace.stall_timeout;
    let mut in_flight = FuturesUnordered::new();
    // What is in flight, by number: the ids are for the message if nothing comes back.
    let mut waiting = BTreeMap::new();
    let mut numbers = 0..;
    let mut more = true;
    loop {
        while more && in_flight.len() < pace.window.max(1) && ahead.has_room() {
            match chunks.next().map_err(Error::file(&books.state.parameters.input))? {
                Some(chunk) => {
                    let number: u64 = numbers.next().unwrap_or(u64::MAX);
                    waiting.insert(number, jobs.job_id(&chunk)?);
                    // Tasks of their own, so that encoding and formatting use all cores.
                    let task = AbortOnDropHandle::new(tokio::spawn(jobs.clone().run(chunk)));
                    in_flight.push(async move { (number, task.await) });
                }
                None => more = false,
            }
        }
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(false),
            finished = in_flight.next() => match finished {
                Some((number, finished)) => {
                    let finished = finished.map_err(|error| Error::Backfill(format!("a task failed: {error}")))??;
                    waiting.remove(&number);
                    ahead.push(number, finished.bytes, finished);
                    while let Some(finished) = ahead.pop() {
                        books.write(finished)?;
                    }
                    give_up = Instant::now() + pace.stall_timeout;
                }
                None => return Ok(true),
            },
            Ok(()) = outcomes.changed() => give_up = Instant::now() + pace.stall_timeout,
            _ = tell.tick() => {
                books.record_if_due()?;
                on_progress(&books.progress());
            }
            () = tokio::time::sleep_until(give_up) => {
                return Err(Error::Stalled {
                    after: pace.stall_timeout,
                    waiting: waiting.len(),
                    first: waiting.values().next().unwrap_or(&books.state.id).clone(),
                    trouble: jobs.trouble.lock().unwrap_or_else(PoisonError::into_inner).take(),
                    output: books.output.path.clone(),
                });
            }
        }
    }
}

impl Books {
    fn write(&mut self, finished: Finished) -> Result<(), Error> {
        for space in finished.spaces {
            match &self.state.space {
                None => self.state.space = Some(space),
                Some(before) if *before == space => {}
                Some(before) => {
                    return Err(Error::Backfill(format!(
                        "results come from two embedding spaces, {before} and {space}, whose vectors cannot be compared: \
                         the model or its route has changed; begin anew with --force, and choose a --variant"
                    )));
                }
            }
        }
        self.output.append(&finished.lines)?;
        self.state.done = finished.end;
        self.state.output_bytes = self.output.bytes();
        self.state.stored += finished.stored;
        self.state.failed += finished.failed;
        self.written.extend(finished.ids);
        self.record_if_due()
    }

    fn record_if_due(&mut self) -> Result<(), Error> {
        if !self.written.is_empty() && self.recorded.elapsed() >= RECORD_EVERY { self.record() } else { Ok(()) }
    }

    /// The output first, then the record of it, then the results that are no longer needed.
    fn record(&mut self) -> Result<(), Error> {
        self.output.sync()?;
        self.state.save(&self.output.path)?;
        self.recorded = Instant::now();
        let written = std::mem::take(&mut self.written);
        if let Some(purger) = &self.purger {
            purger.remove(written);
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress {
            rows: self.state.done.rows,
            rows_now: self.state.done.rows - self.rows_before,
            failed: self.state.failed,
            input_bytes: self.state.done.bytes,
            input_size: self.state.input_size,
            elapsed: self.started.elapsed(),
        }
    }
}
