//! Online calls, bulk jobs and watched processes, all at once.

use std::time::{Duration, Instant};

use embed_client::Client;

use crate::{
    bulk::{self, BulkLoad, BulkTally},
    call::Load,
    end::End,
    memory::{self, Process},
    open_loop,
    pacing::Schedule,
    tally::{Done, Tally},
};

/// What to do.
#[derive(Debug)]
pub struct Scenario {
    /// When calls leave; the warm-up included.
    pub schedule: Schedule,
    /// The calls.
    pub load: Load,
    /// Bulk jobs beside them.
    pub bulk: Option<BulkLoad>,
    /// Whose memory to look at.
    pub processes: Vec<Process>,
    /// When it ends.
    pub end: End,
}

/// What was seen.
#[derive(Debug)]
pub struct Observed {
    /// The calls.
    pub tally: Tally,
    /// The bulk jobs.
    pub bulk: Option<BulkTally>,
    /// The processes.
    pub processes: Vec<Process>,
    /// How long it took, without the warm-up.
    pub duration: Duration,
}

impl Scenario {
    /// Plays it from `start` on, calls over one connection and bulk jobs over another, on which no answer waits behind their results.
    /// `on_done` hears of every call that is done.
    ///
    /// # Errors
    /// If no stream takes bulk jobs for the model, or the system refuses a thread.
    pub async fn play(
        self,
        caller: &Client,
        publisher: &Client,
        start: Instant,
        on_done: impl FnMut(&Done),
    ) -> anyhow::Result<Observed> {
        let Self { schedule, load, bulk, processes, end } = self;
        let warm_up = load.warm_up;
        let over = end.clone();
        let schedule = schedule.take_while(move |_| !over.is_called());
        let calls = async { Ok(open_loop::run(caller.nats().clone(), schedule, load, start, on_done).await?) };
        let jobs = async {
            match bulk {
                Some(bulk) => anyhow::Ok(Some(bulk::run(publisher, bulk, start, warm_up, &end).await?)),
                None => Ok(None),
            }
        };
        let watching = async { Ok(memory::watch(processes, start, warm_up, &end).await) };
        let (tally, bulk, processes) = tokio::try_join!(calls, jobs, watching)?;
        Ok(Observed { tally, bulk, processes, duration: end.length(start, warm_up) })
    }
}
