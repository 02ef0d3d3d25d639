//! Honest traffic: calls and jobs as they should be, at a steady rate, and how the calls fare.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use embed_schemas::Lane;
use hdrhistogram::Histogram;
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    chaos::{
        ledger::ANSWERED,
        stage::Stage,
        traffic::{Clients, Sort},
    },
    end::End,
    report::Quantiles,
};

/// Between two calls.
const EVERY: Duration = Duration::from_millis(100);
/// A job with every so many of them.
const JOBS: u64 = 2;

/// How honest calls fared.
#[derive(Debug, Clone)]
pub struct Fared {
    /// Latencies of those that were answered.
    pub latency: Quantiles,
    /// All, by what came of them.
    pub calls: BTreeMap<String, u64>,
}

impl Fared {
    /// Those that were answered, and all.
    #[must_use]
    pub fn answered(&self) -> (u64, u64) {
        (self.calls.get(ANSWERED).copied().unwrap_or_default(), self.calls.values().sum())
    }
}

/// Traffic that is going on.
#[derive(Debug)]
pub(super) struct Honest {
    clients: Clients,
    end: End,
    traffic: JoinHandle<()>,
    /// Microseconds.
    latencies: Arc<Mutex<Histogram<u64>>>,
}

impl Honest {
    /// Begins, with jobs or without.
    pub(super) fn begin(clients: Clients, with_jobs: bool) -> Self {
        let (end, latencies) = (End::when_called(), Arc::new(Mutex::new(Histogram::new(3).expect("3 digits"))));
        let (all, until, recorded) = (clients.clone(), end.clone(), Arc::clone(&latencies));
        let traffic = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut waiting = JoinSet::new();
            for n in 0u64.. {
                ticks.tick().await;
                if until.is_called() {
                    break;
                }
                while waiting.try_join_next().is_some() {}
                if with_jobs && n.is_multiple_of(JOBS) {
                    let all = all.clone();
                    waiting.spawn(async move { drop(all.publish(Lane::Job, true, Sort::Good).await) });
                }
                let (all, recorded) = (all.clone(), Arc::clone(&recorded));
                waiting.spawn(async move {
                    let begun = Instant::now();
                    if all.call(n).await {
                        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                        // It grows as far as it has to.
                        let _ = recorded.lock().unwrap_or_else(PoisonError::into_inner).record(took);
                    }
                });
            }
            while waiting.join_next().await.is_some() {}
        });
        Self { clients, end, traffic, latencies }
    }

    /// Ends, and waits for what is under way.
    pub(super) async fn end(self, stage: &mut Stage) -> Fared {
        self.end.call();
        while !self.traffic.is_finished() {
            stage.pause().await;
        }
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        Fared { latency: Quantiles::of(&latencies), calls: self.clients.ledger.seen().calls }
    }
}
