//! Online calls, bulk jobs and watched processes, all at once.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use embed_producer::Client;

use crate::{
    bulk::{self, BulkLoad, BulkTally},
    call::Load,
    memory::{self, Process},
    open_loop,
    pacing::Schedule,
    tally::{Done, Tally},
};

/// When a run ends: after a time, or when somebody says so.
#[derive(Debug, Clone)]
pub struct End {
    after: Duration,
    called: Arc<OnceLock<Instant>>,
}

impl End {
    /// After so long, the warm-up not counted.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self { after: duration, called: Arc::default() }
    }

    /// When [`End::call`] is called.
    #[must_use]
    pub fn when_called() -> Self {
        Self::after(Duration::MAX)
    }

    /// Ends the run now. The first call counts.
    pub fn call(&self) {
        let _ = self.called.set(Instant::now());
    }

    /// Whether it is over, for a run that began at `start` with a warm-up.
    #[must_use]
    pub fn is_over(&self, start: Instant, warm_up: Duration) -> bool {
        self.called.get().is_some() || start.elapsed() >= self.after.saturating_add(warm_up)
    }

    /// How long it was, the warm-up not counted.
    #[must_use]
    pub fn length(&self, start: Instant, warm_up: Duration) -> Duration {
        self.called.get().map_or(self.after, |at| at.saturating_duration_since(start + warm_up))
    }
}

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
        let schedule = schedule.take_while(move |_| over.called.get().is_none());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_after_its_time_or_when_called() {
        let (start, warm_up) = (Instant::now(), Duration::from_secs(1000));
        assert!(
            !End::after(Duration::ZERO).is_over(start, warm_up)
                && End::after(Duration::ZERO).is_over(start, Duration::ZERO)
        );
        let end = End::when_called();
        assert!(!end.is_over(start, warm_up));
        end.clone().call();
        assert!(end.is_over(start, warm_up));
        assert_eq!(end.length(start, warm_up), Duration::ZERO, "it was called in the warm-up");
    }
}
