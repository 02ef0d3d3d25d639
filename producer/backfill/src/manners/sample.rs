//! A sample: the first rows of the input, through the queue as a backfill takes them, and nowhere else.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use embed_client::Client;
use embed_schemas::{JobId, removal::RemovalKey};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{Estimate, Extent, Rate, Retry, Sampled, Selected};
use crate::{
    Error, Pace, Parameters, Plan, Position, State,
    chunk::{self, Chunk, Chunks},
    driver::jobs_of,
    input::Carry,
    queue::{Finished, Jobs, Purger, perhaps_stored},
    row::Found,
    windows,
};

/// Rows of a sample, about.
const ROWS: usize = 2_048;
/// For how long something new is begun.
const TIME: Duration = Duration::from_secs(30);

/// Embeds a sample of the input and says what all of it would take. Nothing is written, and nothing stays in the streams. `price`: for an
/// hour.
///
/// # Errors
/// If the input cannot be read, or nothing can be embedded; [`Error::Stalled`] if no result comes.
pub async fn estimate(
    client: &Client,
    parameters: Parameters,
    pace: &Pace,
    price: Option<f64>,
) -> Result<Estimate, Error> {
    let retry = parameters.retry.clone().map(Retry::look).transpose()?;
    let parameters = Parameters { retry, ..parameters };
    let plan = Plan::make(&parameters, Carry::Json).await?;
    let long = windows::settle(client, &parameters, pace.registry.as_deref()).await?;
    let parameters = Parameters { long, ..parameters };
    let state = State::new(RemovalKey::from_random(rand::random()), parameters, plan);
    let cutter = windows::cutter(&state.parameters, pace.registry.as_deref()).await?;
    let jobs = jobs_of(client, &state, pace, false);
    let rows = Selected::of(state.plan.rows(&state.parameters, state.done)?, &state)?;
    let chunks = chunk::read(Chunks::new(rows, jobs.budget, None).with_cutter(cutter));
    let purger = Purger::start(client, &state);
    let mut taken = Taken::default();
    let worked = taken.embed(&jobs, chunks, pace).await;
    purger.remove(std::mem::take(&mut taken.ids));
    purger.finish(true, perhaps_stored(&state)).await;
    let reading = &state.parameters.reading;
    let count = state.plan.count(&state.parameters, taken.end).await;
    let share = match (worked?, count, state.plan.bytes()) {
        (true, ..) => Some(1.0),
        // Precise up to 2^53.
        (false, Some((among, all)), _) => Some(among as f64 / all as f64),
        (false, None, Some(bytes)) => Some(state.plan.bytes_before(taken.end) as f64 / bytes as f64),
        (false, None, None) => None,
    };
    let takes_all = reading.filters.is_empty() && reading.sample.is_none() && state.parameters.retry.is_none();
    let counted = count.filter(|_| takes_all).map(|(_, all)| all);
    let extent = Extent { share, counted, limit: reading.limit, rate: pace.manners.rate };
    Ok(Estimate::of(taken.sample, extent, price))
}

/// What came.
#[derive(Default)]
struct Taken {
    sample: Sampled,
    /// The input after it.
    end: Position,
    ids: Vec<JobId>,
}

impl Taken {
    fn take(&mut self, finished: Finished) {
        for row in &finished.rows {
            self.sample.rows += 1;
            match &row.content {
                Ok(Found::Known) => {}
                Ok(Found::Vectors(vectors)) => {
                    self.sample.tokens += vectors.iter().map(|v| u64::from(v.tokens)).sum::<u64>();
                }
                Err(_) => self.sample.failed += 1,
            }
        }
        if finished.end.rows > self.end.rows {
            self.end = finished.end;
        }
        self.ids.extend(finished.ids);
    }

    /// Returns whether that was all there is.
    async fn embed(
        &mut self,
        jobs: &Arc<Jobs>,
        mut chunks: mpsc::Receiver<Result<Chunk, Error>>,
        pace: &Pace,
    ) -> Result<bool, Error> {
        let stalled = |_| Error::Stalled {
            after: pace.stall_timeout,
            waiting: 1,
            first: jobs.id.clone(),
            trouble: jobs.trouble.lock().unwrap_or_else(PoisonError::into_inner).take(),
            output: None,
        };
        let Some(first) = chunks.recv().await.transpose()? else { return Ok(true) };
        let mut asked = first.rows.len();
        let mut begun = Instant::now();
        // No faster than all of it may go, either.
        let clock = begun;
        let mut rate = pace.manners.rate.map(Rate::new);
        rate.iter_mut().for_each(|rate| rate.take(asked, Duration::ZERO));
        let finished = tokio::time::timeout(pace.stall_timeout, jobs.clone().run(first)).await.map_err(stalled)?;
        self.take(finished?);
        let mut second = chunks.recv().await.transpose()?;
        if second.is_some() {
            // Without the first, for which a worker may have had to get ready.
            begun = Instant::now();
        }
        let untimed = if second.is_some() { self.sample.rows } else { 0 };
        let mut in_flight = FuturesUnordered::new();
        let is_whole = loop {
            while in_flight.len() < pace.window.max(1) && asked < ROWS && begun.elapsed() < TIME {
                let ready = rate.as_ref().map_or(Duration::ZERO, Rate::ready);
                if ready >= TIME {
                    break;
                }
                tokio::time::sleep_until(clock + ready).await;
                let next = match second.take() {
                    Some(second) => Some(second),
                    None => chunks.recv().await.transpose()?,
                };
                let Some(chunk) = next else { break };
                asked += chunk.rows.len();
                rate.iter_mut().for_each(|rate| rate.take(chunk.rows.len(), clock.elapsed()));
                in_flight.push(AbortOnDropHandle::new(tokio::spawn(jobs.clone().run(chunk))));
            }
            let Ok(finished) =
                tokio::time::timeout(pace.stall_timeout, in_flight.next()).await.map_err(stalled)?.transpose()
            else {
                return Err(Error::Backfill("a task failed".into()));
            };
            match finished {
                Some(finished) => self.take(finished?),
                None => break second.is_none() && chunks.recv().await.is_none(),
            }
        };
        self.sample.timed_rows = self.sample.rows - untimed;
        self.sample.seconds = begun.elapsed().as_secs_f64();
        Ok(is_whole)
    }
}
