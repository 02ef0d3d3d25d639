//! Takes groups of rows in order, writes them, records what is durable, and has the results removed that are no longer needed.

use std::path::{Path, PathBuf};

use embed_client::Client;
use embed_schemas::JobId;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant},
};

use crate::{
    Error, Failures, MaxErrors, Pace, Position, Progress, State, Summary, failures,
    output::Output,
    queue::{Finished, Purger},
    row::Done,
};

/// How often progress is recorded, at most.
const RECORD_EVERY: Duration = Duration::from_secs(1);

/// The output and what is recorded of it.
pub(crate) struct Books {
    /// What is durable, and recorded.
    pub(crate) state: State,
    path: PathBuf,
    output: Output,
    /// What is written and perhaps not durable yet.
    written: Written,
    recorded: Instant,
    purger: Option<Purger>,
    started: Instant,
    rows_before: u64,
    failed_before: u64,
    tokens_before: u64,
    max_errors: Option<MaxErrors>,
    progress: watch::Sender<Progress>,
}

/// Rows that are written and not yet recorded.
#[derive(Debug, Default)]
struct Written {
    /// The input after them; `None` if there are none.
    end: Option<Position>,
    stored: u64,
    failed: u64,
    tokens: u64,
    failures: Failures,
    ids: Vec<JobId>,
}

impl Written {
    fn count(&mut self, row: &Done) {
        match &row.content {
            Ok(vectors) => {
                self.stored += 1;
                self.tokens += vectors.iter().map(|vector| u64::from(vector.tokens)).sum::<u64>();
            }
            Err(error) => {
                self.failed += 1;
                failures::count(&mut self.failures, row.end.lines, error);
            }
        }
    }
}

impl Books {
    /// Of a backfill that begins, or goes on from its state.
    pub(crate) fn new(client: &Client, state: State, path: &Path, output: Output, pace: &Pace) -> Self {
        let now = Instant::now();
        let rows_before = state.done.rows;
        let progress = Progress {
            rows: rows_before,
            rows_now: 0,
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
            state,
            path: path.to_owned(),
            output,
            written: Written::default(),
            recorded: now,
            started: now,
            rows_before,
            progress: watch::Sender::new(progress),
        }
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Where a run can go on, if it can.
    pub(crate) fn can_go_on(&self) -> Option<PathBuf> {
        (self.state.plan.can_be_read_again() && self.output.can_go_on()).then(|| self.path.clone())
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
            if self.recorded.elapsed() >= RECORD_EVERY {
                self.record(false).await?;
            }
            self.tell();
        }
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
        self.output.write(&mut group.rows).await?;
        group.rows.iter().for_each(|row| self.written.count(row));
        self.written.end = Some(group.end);
        self.written.ids.extend(group.ids);
        self.check_errors()
    }

    /// Whether as many rows of this run have failed as may: what earlier runs have seen was seen when this one was begun.
    fn check_errors(&self) -> Result<(), Error> {
        let failed = self.state.failed + self.written.failed - self.failed_before;
        let rows = self.written.end.unwrap_or(self.state.done).rows - self.rows_before;
        match self.max_errors {
            Some(most) if most.is_exceeded(failed, rows) => {
                let mut all = self.state.failures.clone();
                failures::add(&mut all, self.written.failures.clone());
                let output = self.can_go_on().map(|path| path.display().to_string());
                Err(Error::TooManyErrors { failed, rows, most, reasons: failures::first(&all), output })
            }
            _ => Ok(()),
        }
    }

    /// The output first, then the record of it, then the results that are no longer needed. `now`: whatever it costs.
    async fn record(&mut self, now: bool) -> Result<(), Error> {
        let Some(end) = self.written.end else { return Ok(()) };
        if !self.output.settle(now).await? {
            return Ok(());
        }
        let Written { stored, failed, tokens, failures, ids, .. } = std::mem::take(&mut self.written);
        self.state.done = end;
        self.state.mark = self.output.mark();
        self.state.stored += stored;
        self.state.failed += failed;
        self.state.tokens += tokens;
        failures::add(&mut self.state.failures, failures);
        self.save()?;
        if let Some(purger) = &self.purger {
            purger.remove(ids);
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        self.recorded = Instant::now();
        if self.output.can_go_on() { self.state.save(&self.path) } else { Ok(()) }
    }

    fn tell(&self) {
        let done = self.written.end.unwrap_or(self.state.done);
        self.progress.send_replace(Progress {
            rows: done.rows,
            rows_now: done.rows - self.rows_before,
            failed: self.state.failed + self.written.failed,
            input_bytes: self.state.plan.bytes_before(done),
            input_size: self.state.plan.bytes(),
            tokens_now: self.state.tokens + self.written.tokens - self.tokens_before,
            in_flight: 0,
            waiting: None,
            is_held: false,
            elapsed: self.started.elapsed(),
        });
    }

    /// The end of a run. `finished`: the whole input is done.
    pub(crate) async fn close(mut self, finished: bool) -> Result<Summary, Error> {
        if finished {
            self.output.finish(&self.state).await?;
            self.state.finished = true;
        }
        self.save()?;
        let results_left = match self.purger.take() {
            Some(purger) => purger.finish(finished).await,
            None => 0,
        };
        let rows_now = self.state.done.rows - self.rows_before;
        Ok(self.state.summary(&self.path, rows_now, self.started.elapsed(), results_left))
    }
}
