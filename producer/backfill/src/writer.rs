//! Takes groups of rows in order, writes them, records what is durable, and has the results removed that are no longer needed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use embed_client::Client;
use embed_schemas::JobId;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Failures, MaxErrors, Pace, Position, Progress, Skipped, State, Summary, Wish, failures,
    input::REST_OF_A_FILE,
    known::Known,
    ledger::{Keeper, Live, Patience},
    manners::Seen,
    output::{Files, Output},
    queue::{Finished, Purger, Windows, perhaps_stored},
    row::{Done, Found, Row},
};

/// How often progress is recorded, at most.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// Bytes of results that may wait in their stream where it is not known how much that holds.
const HELD: usize = 256 << 20;

/// The output and what is recorded of it.
pub(crate) struct Books {
    /// What is durable, and recorded.
    pub(crate) state: State,
    path: PathBuf,
    output: Output,
    files: Files,
    /// What need not be embedded.
    pub(crate) known: Option<Arc<Known>>,
    /// What is written and perhaps not durable yet.
    written: Written,
    /// What was written before that, and is on its way to its place.
    closing: Option<Written>,
    recorded: Instant,
    purger: Option<Purger>,
    started: Instant,
    rows_before: u64,
    failed_before: u64,
    tokens_before: u64,
    max_errors: Option<MaxErrors>,
    progress: watch::Sender<Progress>,
    /// The run's place in the bucket, if it has one.
    keeper: Option<Keeper>,
    patience: Patience,
    /// Bytes of results that may wait in their stream.
    most_held: usize,
    /// Whether streams are nearly full.
    streams: Option<watch::Receiver<Seen>>,
}

/// Rows that are written and not yet recorded.
#[derive(Debug, Default)]
struct Written {
    /// The input after them; `None` if there are none.
    end: Option<Position>,
    stored: u64,
    reused: u64,
    came_again: u64,
    failed: u64,
    tokens: u64,
    failures: Failures,
    skipped: Skipped,
    truncated: u64,
    windows: Windows,
    ids: Vec<JobId>,
    /// What they come to in the stream of results, or in memory.
    bytes: usize,
}

impl Written {
    fn count(&mut self, row: &Done, files: &Files) {
        match &row.content {
            Ok(vectors) => {
                match row.reused {
                    true => self.reused += 1,
                    false => self.stored += 1,
                }
                self.truncated += u64::from(vectors.iter().any(|vector| vector.truncated));
                self.tokens += vectors.iter().map(|vector| u64::from(vector.tokens)).sum::<u64>();
            }
            Err(error) => {
                self.failed += 1;
                if error.message.ends_with(REST_OF_A_FILE) {
                    self.skipped.count(files.name(row.origin));
                }
                failures::count(&mut self.failures, files.told(row.origin), row.origin.line, error);
            }
        }
    }
}

impl Books {
    /// Of a backfill that begins, or goes on from its state.
    pub(crate) fn new(
        client: &Client,
        state: State,
        path: &Path,
        output: Output,
        known: Option<Arc<Known>>,
        keeper: Option<Keeper>,
        pace: &Pace,
    ) -> Self {
        let now = Instant::now();
        let rows_before = state.done.rows;
        let progress = Progress {
            rows: rows_before,
            rows_now: 0,
            reused: state.reused,
            failed: state.failed,
            input_bytes: state.plan.bytes_before(state.done),
            input_size: state.plan.bytes(),
            tokens_now: 0,
            in_flight: 0,
            waiting: None,
            is_held: false,
            elapsed: Duration::ZERO,
        };
        Self {
            failed_before: state.failed,
            tokens_before: state.tokens,
            max_errors: pace.manners.max_errors,
            purger: (!pace.keep_results).then(|| Purger::start(client, &state)),
            files: Files::of(&state.plan),
            state,
            path: path.to_owned(),
            output,
            known,
            written: Written::default(),
            closing: None,
            recorded: now,
            started: now,
            rows_before,
            progress: watch::Sender::new(progress),
            keeper,
            patience: patience(pace),
            most_held: HELD,
            streams: None,
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Has what is written made durable as soon as a stream is nearly full.
    pub(crate) fn watch(&mut self, streams: watch::Receiver<Seen>) {
        self.streams = Some(streams);
    }

    /// Holds no more than so many bytes before they are durable.
    pub(crate) fn hold_at_most(&mut self, bytes: usize) {
        self.output.hold_at_most(bytes as u64);
        self.most_held = bytes;
    }

    /// Ends when somebody wants the run to stop, or has taken over.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let asked = self.keeper.as_ref().map(Keeper::asked);
        async move {
            match asked {
                Some(asked) => asked.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Is to be cancelled when the run is over.
    pub(crate) fn ending(&self) -> CancellationToken {
        self.patience.ending.clone()
    }

    /// Where a run can go on, if it can.
    pub(crate) fn can_go_on(&self) -> Option<PathBuf> {
        let is_recorded = self.is_beside() || self.keeper.is_some();
        (self.state.plan.can_be_read_again() && self.output.can_go_on() && is_recorded).then(|| self.path.clone())
    }

    /// Whether what is recorded stands beside the output.
    fn is_beside(&self) -> bool {
        self.output.can_go_on() && State::is_beside(&self.path)
    }

    /// Writes what comes until there is no more. Whatever ends it, what was written by then is kept.
    pub(crate) async fn write_all(mut self, mut groups: mpsc::Receiver<Finished>) -> (Self, Result<(), Error>) {
        let written = self.write_groups(&mut groups).await;
        let recorded = self.record(true).await;
        self.tell();
        (self, written.and(recorded))
    }

    async fn write_groups(&mut self, groups: &mut mpsc::Receiver<Finished>) -> Result<(), Error> {
        let mut record = tokio::time::interval(RECORD_EVERY);
        record.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                group = groups.recv() => match group {
                    Some(group) => self.write(group).await?,
                    None => return Ok(()),
                },
                _ = record.tick() => {}
            }
            let mut must = self.must_record();
            if must && self.closing.is_some() {
                // It may be that this is all that is held: then what is written goes on to be a part of the full size.
                self.record_closed().await?;
                must = self.must_record();
            }
            if must || self.output.is_full() || self.recorded.elapsed() >= RECORD_EVERY {
                self.record(must).await?;
            }
            self.tell();
        }
    }

    /// Whether what is written is to be durable now: results stay in their stream until then, which must not fill for want of that.
    fn must_record(&self) -> bool {
        let held = self.unrecorded().map(|written| written.bytes).sum::<usize>();
        held >= self.most_held || self.streams.as_ref().is_some_and(|seen| seen.borrow().is_full)
    }

    async fn write(&mut self, mut group: Finished) -> Result<(), Error> {
        for space in std::mem::take(&mut group.spaces) {
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
        let mut rows = resolved(self.known.clone(), group.rows).await?;
        self.state.served.extend(group.served);
        may_write(self.keeper.as_ref(), &self.patience).await?;
        self.output.write(&mut rows).await?;
        for row in &rows {
            self.written.count(row, &self.files);
            self.written.came_again += u64::from(self.known.as_ref().is_some_and(|known| known.came_again(&row.label)));
        }
        self.written.windows.texts += group.windows.texts;
        self.written.windows.windows += group.windows.windows;
        self.written.end = Some(group.end);
        self.written.ids.extend(group.ids);
        self.written.bytes += group.bytes;
        self.check_errors()
    }

    /// Whether as many rows of this run have failed as may: what earlier runs have seen was seen when this one was begun.
    fn check_errors(&self) -> Result<(), Error> {
        let failed = self.total(self.state.failed, |written| written.failed) - self.failed_before;
        let rows = self.done().rows - self.rows_before;
        match self.max_errors {
            Some(most) if most.is_exceeded(failed, rows) => {
                let mut all = self.state.failures.clone();
                self.unrecorded().for_each(|written| failures::add(&mut all, written.failures.clone()));
                let output = self.can_go_on().map(|path| path.display().to_string());
                Err(Error::TooManyErrors { failed, rows, most, reasons: failures::first(&all), output })
            }
            _ => Ok(()),
        }
    }

    /// What is written and not recorded.
    fn unrecorded(&self) -> impl Iterator<Item = &Written> {
        self.closing.iter().chain([&self.written])
    }

    /// The input after the last row that is written.
    fn done(&self) -> Position {
        self.unrecorded().filter_map(|written| written.end).last().unwrap_or(self.state.done)
    }

    /// What is recorded, and what is not yet.
    fn total(&self, recorded: u64, of: fn(&Written) -> u64) -> u64 {
        recorded + self.unrecorded().map(of).sum::<u64>()
    }

    /// The output first, then the record of it, then the results that are no longer needed. `now`: whatever it costs; else what takes long is
    /// done while more is written.
    async fn record(&mut self, now: bool) -> Result<(), Error> {
        let is_full = self.output.is_full();
        if now || is_full || self.output.has_closed() {
            self.record_closed().await?;
        }
        if self.written.end.is_none() {
            return Ok(());
        }
        may_write(self.keeper.as_ref(), &self.patience).await?;
        if !now && is_full && self.output.close().await? {
            self.closing = Some(std::mem::take(&mut self.written));
            return Ok(());
        }
        if !self.output.settle(now).await? {
            return Ok(());
        }
        let written = std::mem::take(&mut self.written);
        self.note(written).await
    }

    /// Waits for what is on its way, and records it.
    async fn record_closed(&mut self) -> Result<(), Error> {
        if self.closing.is_none() {
            return Ok(());
        }
        may_write(self.keeper.as_ref(), &self.patience).await?;
        // Whatever comes of it, it is asked for once: what has failed is not to be taken for durable later.
        let written = self.closing.take().unwrap_or_default();
        self.output.closed().await?;
        self.note(written).await
    }

    /// Records what is durable now.
    async fn note(&mut self, written: Written) -> Result<(), Error> {
        let Some(done) = written.end else { return Ok(()) };
        let Written {
            end: _,
            stored,
            reused,
            came_again,
            failed,
            tokens,
            failures,
            skipped,
            truncated,
            windows,
            ids,
            bytes: _,
        } = written;
        self.state.done = done;
        self.state.mark = self.output.mark();
        self.state.stored += stored;
        self.state.reused += reused;
        self.state.came_again += came_again;
        self.state.failed += failed;
        self.state.truncated += truncated;
        self.state.split += windows.texts;
        self.state.windows += windows.windows;
        self.state.tokens += tokens;
        failures::add(&mut self.state.failures, failures);
        self.state.skipped.add(skipped);
        self.save().await?;
        if let Some(purger) = &self.purger {
            purger.remove(ids);
        }
        Ok(())
    }

    async fn save(&mut self) -> Result<(), Error> {
        self.recorded = Instant::now();
        self.state.saves += 1;
        if self.is_beside() {
            may_write(self.keeper.as_ref(), &self.patience).await?;
            self.state.save(&self.path)?;
        }
        match &self.keeper {
            Some(keeper) => keeper.save(&self.state, Live::of(&self.now()), &self.patience).await,
            None => Ok(()),
        }
    }

    fn tell(&self) {
        self.progress.send_replace(self.now());
    }

    fn now(&self) -> Progress {
        let done = self.done();
        Progress {
            rows: done.rows,
            rows_now: done.rows - self.rows_before,
            reused: self.total(self.state.reused, |written| written.reused),
            failed: self.total(self.state.failed, |written| written.failed),
            input_bytes: self.state.plan.bytes_before(done),
            input_size: self.state.plan.bytes(),
            tokens_now: self.total(self.state.tokens, |written| written.tokens) - self.tokens_before,
            in_flight: 0,
            waiting: None,
            is_held: false,
            elapsed: self.started.elapsed(),
        }
    }

    /// The end of a run. `finished`: the whole input is done.
    pub(crate) async fn close(mut self, finished: bool) -> Result<Summary, Error> {
        let asked = self.keeper.as_ref().map(Keeper::wish).filter(|wish| !finished && *wish != Wish::Run);
        if finished {
            may_write(self.keeper.as_ref(), &self.patience).await?;
            self.state.check_counts()?;
            let before = self.known.as_ref().and_then(|known| known.ids_before());
            self.state.removed = before.map(|before| before.saturating_sub(self.state.came_again));
            let may_write = may_write(self.keeper.as_ref(), &self.patience);
            self.output.finish(&self.state, may_write).await?;
            self.state.finished = true;
        }
        self.state.cancelled = asked == Some(Wish::Cancel);
        self.save().await?;
        let results_left = match self.purger.take() {
            Some(purger) if self.state.cancelled => purger.finish(true, perhaps_stored(&self.state)).await,
            Some(purger) => purger.finish(finished, Vec::new()).await,
            None => 0,
        };
        let progress = self.now();
        if let Some(keeper) = self.keeper.take() {
            keeper.close(&self.state, Live::of(&progress)).await;
        }
        let summary = self.state.summary(&self.path, progress.rows_now, progress.elapsed, results_left);
        Ok(Summary { asked, ..summary })
    }
}

/// How long a run waits for word of its lease.
pub(crate) fn patience(pace: &Pace) -> Patience {
    Patience { running: pace.stall_timeout, ending: CancellationToken::new() }
}

/// Waits until a run may write.
pub(crate) async fn may_write(keeper: Option<&Keeper>, patience: &Patience) -> Result<(), Error> {
    match keeper {
        Some(keeper) => keeper.may_write(patience).await,
        None => Ok(()),
    }
}

/// Rows with the vectors of those that were not embedded.
async fn resolved(known: Option<Arc<Known>>, rows: Vec<Row<Found>>) -> Result<Vec<Done>, Error> {
    let Some(known) = known else {
        let embedded = |found| match found {
            Found::Vectors(vectors) => vectors,
            Found::Known => unreachable!("nothing is known"),
        };
        return Ok(rows.into_iter().map(|row| row.with(|found| found.map(embedded))).collect());
    };
    // It may take long: a file is read.
    let resolved = tokio::task::spawn_blocking(move || known.resolve(rows)).await;
    resolved.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
}
