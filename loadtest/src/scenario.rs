//! Online calls, bulk jobs and watched processes, all at once.

use std::time::{Duration, Instant};

use embed_producer::Client;

use crate::{
    bulk::{self, BulkLoad, BulkTally},
    call::Load,
    memory::{self, Process},
    open_loop,
    pacing::Schedule,
    tally::Tally,
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
    /// How long it takes, without the warm-up.
    pub duration: Duration,
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
    /// Plays it. `progress` hears of every call that is done.
    ///
    /// # Errors
    /// If no stream takes bulk jobs for the model, or the system refuses a thread.
    pub async fn play(self, client: &Client, progress: impl Fn()) -> anyhow::Result<Observed> {
        let Self { schedule, load, bulk, processes, duration } = self;
        let start = Instant::now();
        let warm_up = load.warm_up;
        let calls = async { Ok(open_loop::run(client.nats().clone(), schedule, load, start, progress).await?) };
        let jobs = async {
            match bulk {
                Some(bulk) => anyhow::Ok(Some(bulk::run(client, bulk, start, warm_up, duration).await?)),
                None => Ok(None),
            }
        };
        let watching = async { Ok(memory::watch(processes, start, warm_up + duration).await) };
        let (tally, bulk, processes) = tokio::try_join!(calls, jobs, watching)?;
        Ok(Observed { tally, bulk, processes, duration })
    }
}
