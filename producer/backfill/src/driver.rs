//! The loop of a backfill: groups of rows out, vectors in order back, to the writer.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use embed_client::{Client, MessageBudget, new_id};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Error, Pace, Progress, State, Summary,
    chunk::{self, Chunk, Chunks},
    manners::{Rate, Seen, Selected, Streams},
    queue::{Ahead, Finished, Jobs},
    windows::{self, LongMode},
    writer::Books,
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Groups on their way to the writer.
const HANDED_OVER: usize = 4;

/// Runs a backfill on from its state.
pub(crate) async fn drive(
    client: &Client,
    mut books: Books,
    pace: &Pace,
    resumed: bool,
    shutdown: impl Future<Output = ()>,
    mut on_progress: impl FnMut(&Progress),
) -> Result<Summary, Error> {
    let state = &books.state;
    let mut parameters = state.parameters.clone();
    parameters.reading.skip_bad_files |= pace.skip_bad_files;
    let jobs = jobs_of(client, state, pace, resumed);
    let model = &parameters.model;
    let cutter = windows::cutter(&parameters, pace.registry.as_deref()).await?;
    let rows = Selected::of(state.plan.rows(&parameters, state.done)?, state)?;
    let chunks = Chunks::new(rows, jobs.budget, books.known.clone()).with_cutter(cutter);
    let chunks = chunk::read(if state.plan.can_be_read_again() { chunks } else { chunks.one_by_one() });
    let streams = Streams::watch(client, model, parameters.tenant.as_ref()).await;
    let share = results_share(&streams);
    let ahead = Ahead::new(share.map_or(pace.ahead_bytes, |share| share.min(pace.ahead_bytes)));
    if let Some(share) = share {
        books.hold_at_most(share);
    }
    books.watch(streams.seen());
    let go_on = books.can_go_on();
    let (asked, ending) = (books.asked(), books.ending());
    let stop = async {
        tokio::select! {
            () = shutdown => {}
            () = asked => {}
        }
    };
    let mut progress = books.progress();
    let (groups, received) = mpsc::channel(HANDED_OVER);
    let run = Run {
        jobs: &jobs,
        groups,
        pace,
        output: go_on.as_deref(),
        begun: Instant::now(),
        rate: pace.manners.rate.map(Rate::new),
        streams: streams.seen(),
    };
    let tell = |in_flight, seen: &Seen| {
        let Seen { waiting, is_full } = *seen;
        on_progress(&Progress { in_flight, waiting, is_held: is_full, ..*progress.borrow_and_update() });
    };
    let work = async {
        let end = run.work(chunks, ahead, stop, tell).await;
        ending.cancel();
        end
    };
    // Side by side and no task of its own: a run that is dropped has let go of its output by then. Whatever the end is, what is done is kept.
    let (end, (books, written)) = tokio::join!(work, books.write_all(received));
    let Seen { waiting, .. } = *streams.seen().borrow();
    on_progress(&Progress { waiting, ..*progress.borrow_and_update() });
    let finished = written.is_ok() && matches!(end, Ok(true));
    let closed = books.close(finished).await;
    written?;
    end?;
    closed
}

/// Bytes of vectors that may wait, for one that comes before them or until they are durable: their results are still in their stream, and
/// must not fill it.
fn results_share(streams: &Streams) -> Option<usize> {
    usize::try_from(streams.results_max_bytes()?).ok().map(|limit| limit / 4)
}

/// What all jobs of a run share.
pub(crate) fn jobs_of(client: &Client, state: &State, pace: &Pace, resumed: bool) -> Arc<Jobs> {
    let parameters = &state.parameters;
    let template = parameters.template();
    Arc::new(Jobs {
        client: client.clone(),
        id: state.jobs(),
        model: parameters.model.clone(),
        variant: parameters.variant.clone(),
        tenant: parameters.tenant.clone(),
        space: state.space.clone(),
        run: new_id().to_string(),
        budget: MessageBudget::new(client.nats().max_payload(), parameters.chunk, &template),
        template,
        mean: parameters.long.mode == LongMode::Mean,
        outcomes: watch::Sender::new(0),
        // An interrupted run had a window of jobs in flight, and perhaps more that were not recorded: look until a whole
        // window of them was not there.
        lookups: AtomicUsize::new(if resumed { pace.window } else { 0 }),
        has_stream: AtomicBool::new(false),
        missing_after: pace.missing_after,
        recorder: pace.recorder.clone(),
        trouble: Mutex::new(None),
    })
}

/// What one run goes by.
struct Run<'a> {
    jobs: &'a Arc<Jobs>,
    groups: mpsc::Sender<Finished>,
    pace: &'a Pace,
    /// The output, if the backfill can be resumed.
    output: Option<&'a Path>,
    begun: Instant,
    rate: Option<Rate>,
    streams: watch::Receiver<Seen>,
}

impl Run<'_> {
    /// Returns whether the whole input is done; it is not if `shutdown` came first, or the writer failed.
    async fn work(
        mut self,
        mut chunks: mpsc::Receiver<Result<Chunk, Error>>,
        mut ahead: Ahead<Finished>,
        shutdown: impl Future<Output = ()>,
        mut tell_progress: impl FnMut(usize, &Seen),
    ) -> Result<bool, Error> {
        tokio::pin!(shutdown);
        let mut tell = tokio::time::interval(TELL_EVERY);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut outcomes = self.jobs.outcomes.subscribe();
        let mut give_up = Instant::now() + self.pace.stall_timeout;
        let mut in_flight = FuturesUnordered::new();
        // What is in flight, by number: the ids are for the message if nothing comes back.
        let mut waiting = BTreeMap::new();
        let mut numbers = 0..;
        let mut more = true;
        while more || !in_flight.is_empty() {
            let room =
                more && in_flight.len() < self.pace.window.max(1) && ahead.has_room() && !self.streams.borrow().is_full;
            let ready = self.begun + self.rate.as_ref().map_or(Duration::ZERO, Rate::ready);
            let is_early = ready > Instant::now();
            tokio::select! {
                biased;
                () = &mut shutdown => return Ok(false),
                () = self.groups.closed() => return Ok(false),
                chunk = chunks.recv(), if room && !is_early => match chunk.transpose()? {
                    Some(chunk) => {
                        if in_flight.is_empty() {
                            // Until now nothing could come: there was nothing to do.
                            give_up = Instant::now() + self.pace.stall_timeout;
                        }
                        if let Some(rate) = &mut self.rate {
                            rate.take(chunk.rows.len(), self.begun.elapsed());
                        }
                        let number: u64 = numbers.next().unwrap_or(u64::MAX);
                        waiting.insert(number, self.jobs.job_id(&chunk)?);
                        // Tasks of their own, so that encoding and formatting use all cores.
                        let task = AbortOnDropHandle::new(tokio::spawn(self.jobs.clone().run(chunk)));
                        in_flight.push(async move { (number, task.await) });
                    }
                    None => more = false,
                },
                Some((number, finished)) = in_flight.next() => {
                    let finished = finished.map_err(|error| Error::Backfill(format!("a task failed: {error}")))??;
                    waiting.remove(&number);
                    ahead.push(number, finished.bytes, finished);
                    while let Some(finished) = ahead.pop() {
                        if self.groups.send(finished).await.is_err() {
                            // The writer says why.
                            return Ok(false);
                        }
                    }
                    give_up = Instant::now() + self.pace.stall_timeout;
                }
                Ok(()) = outcomes.changed() => give_up = Instant::now() + self.pace.stall_timeout,
                () = tokio::time::sleep_until(ready), if room && is_early => {}
                Ok(()) = self.streams.changed() => {}
                _ = tell.tick() => tell_progress(in_flight.len(), &self.streams.borrow()),
                () = tokio::time::sleep_until(give_up), if !in_flight.is_empty() => {
                    return Err(Error::Stalled {
                        after: self.pace.stall_timeout,
                        waiting: waiting.len(),
                        first: waiting.values().next().unwrap_or(&self.jobs.id).clone(),
                        trouble: self.jobs.trouble.lock().unwrap_or_else(PoisonError::into_inner).take(),
                        output: self.output.map(|path| path.display().to_string()),
                    });
                }
            }
        }
        Ok(true)
    }
}
