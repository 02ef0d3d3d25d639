//! The loop of a backfill: groups of rows out, lines in order back, a record of it every second.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use embed_schemas::{JobId, Slug};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Pace, Progress, State, Summary,
    ahead::Ahead,
    chunk::{Chunk, Chunks},
    failures,
    input::{Fields, Input},
    job::{Finished, Jobs},
    output::Output,
    purge::Purger,
    source,
};
use crate::Error;
use embed_client::{Client, MessageBudget, new_id};

/// How often progress is recorded, at most.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether the results fill their stream.
const LOOK_EVERY: Duration = Duration::from_secs(30);

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
        tenant: parameters.tenant.clone(),
        space: state.space.clone(),
        run: new_id().to_string(),
        template: parameters.template(),
        outcomes: watch::Sender::new(0),
        // An interrupted run had a window of jobs in flight, and perhaps more that were not recorded: look until a whole
        // window of them was not there.
        lookups: AtomicUsize::new(if resumed { pace.window } else { 0 }),
        has_stream: AtomicBool::new(false),
        missing_after: pace.missing_after,
        trouble: Mutex::new(None),
    });
    let content = state.content();
    let input = match &content {
        Some(content) => source::open(&parameters.input, content, state.done.bytes)?,
        None => source::open_stream()?,
    };
    let input = Input::new(input, state.done, Fields::of(&parameters).map_err(Error::Backfill)?);
    let budget = MessageBudget::new(client.nats().max_payload(), parameters.chunk, &parameters.template());
    let chunks = source::read(Chunks::new(input, budget), content.is_some());
    let now = Instant::now();
    let mut books = Books {
        rows_before: state.done.rows,
        purger: (!pace.keep_results).then(|| Purger::start(client, &state)),
        state,
        output,
        written: Vec::new(),
        recorded: now,
        started: now,
    };
    let ahead = Ahead::new(ahead_bytes(client, &parameters.model, pace).await);
    let _watch = AbortOnDropHandle::new(tokio::spawn(warn_when_full(client.clone(), parameters.model.clone())));
    let end = work(&jobs, chunks, ahead, &mut books, pace, shutdown, &mut on_progress).await;
    // Whatever the end is, what was written is kept.
    if let Ok(finished) = end {
        books.state.finished = finished;
    }
    let kept = books.record();
    on_progress(&books.progress());
    let results_left = match books.purger.take() {
        Some(purger) => purger.finish(books.state.finished).await,
        None => 0,
    };
    end.and(kept)?;
    let rows_now = books.state.done.rows - books.rows_before;
    Ok(books.state.summary(&books.output.path, rows_now, books.started.elapsed(), results_left))
}

/// What may wait in memory: its results are still in their stream, and must not fill it.
async fn ahead_bytes(client: &Client, model: &Slug, pace: &Pace) -> usize {
    let limit = client.results_fill(model).await.ok().and_then(|fill| usize::try_from(fill.max_bytes?).ok());
    limit.map_or(pace.ahead_bytes, |limit| pace.ahead_bytes.min(limit / 4))
}

/// Says once that the stream of results is nearly full: what is in it may be somebody else's, and then everybody's workers wait.
async fn warn_when_full(client: Client, model: Slug) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Ok(fill) = client.results_fill(&model).await
            && let Some(warning) = fill.warning()
        {
            tracing::warn!("{warning}");
            return;
        }
    }
}

/// Returns whether the whole input is done; it is not if `shutdown` came first.
async fn work(
    jobs: &Arc<Jobs>,
    mut chunks: mpsc::Receiver<io::Result<Chunk>>,
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
    while more || !in_flight.is_empty() {
        let room = more && in_flight.len() < pace.window.max(1) && ahead.has_room();
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(false),
            chunk = chunks.recv(), if room => match chunk.transpose().map_err(Error::file(&books.state.parameters.input))? {
                Some(chunk) => {
                    if in_flight.is_empty() {
                        // Until now nothing could come: there was nothing to do.
                        give_up = Instant::now() + pace.stall_timeout;
                    }
                    let number: u64 = numbers.next().unwrap_or(u64::MAX);
                    waiting.insert(number, jobs.job_id(&chunk)?);
                    // Tasks of their own, so that encoding and formatting use all cores.
                    let task = AbortOnDropHandle::new(tokio::spawn(jobs.clone().run(chunk)));
                    in_flight.push(async move { (number, task.await) });
                }
                None => more = false,
            },
            Some((number, finished)) = in_flight.next() => {
                let finished = finished.map_err(|error| Error::Backfill(format!("a task failed: {error}")))??;
                waiting.remove(&number);
                ahead.push(number, finished.bytes, finished);
                while let Some(finished) = ahead.pop() {
                    books.write(finished)?;
                }
                give_up = Instant::now() + pace.stall_timeout;
            }
            Ok(()) = outcomes.changed() => give_up = Instant::now() + pace.stall_timeout,
            _ = tell.tick() => {
                books.record_if_due()?;
                on_progress(&books.progress());
            }
            () = tokio::time::sleep_until(give_up), if !in_flight.is_empty() => {
                return Err(Error::Stalled {
                    after: pace.stall_timeout,
                    waiting: waiting.len(),
                    first: waiting.values().next().unwrap_or(&books.state.id).clone(),
                    trouble: jobs.trouble.lock().unwrap_or_else(PoisonError::into_inner).take(),
                    output: books.can_be_resumed().then(|| books.output.path.clone()),
                });
            }
        }
    }
    Ok(true)
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
        failures::add(&mut self.state.failures, finished.failures);
        self.written.extend(finished.ids);
        self.record_if_due()
    }

    fn record_if_due(&mut self) -> Result<(), Error> {
        if !self.written.is_empty() && self.recorded.elapsed() >= RECORD_EVERY { self.record() } else { Ok(()) }
    }

    fn can_be_resumed(&self) -> bool {
        self.state.can_be_resumed() && !self.output.is_stream()
    }

    /// The output first, then the record of it, then the results that are no longer needed.
    fn record(&mut self) -> Result<(), Error> {
        self.output.sync()?;
        if !self.output.is_stream() {
            self.state.save(&self.output.path)?;
        }
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
