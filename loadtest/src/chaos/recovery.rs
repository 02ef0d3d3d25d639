//! How long it takes until everything works again, after a fault has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use embed_schemas::Lane;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    collector::Collector,
    judge::Expect,
    traffic::{Clients, Sort},
};

/// How often what is stored is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Before another call is made, whether the one before was answered or not.
const PAUSE: Duration = Duration::from_millis(250);
/// Calls of ours begin at this number, so that their texts are not always the same.
const FIRST_CALL: u64 = 1000;

/// Seconds from the end of a fault; `None` where it did not come to that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Recovery {
    /// Until a new call was answered.
    pub call: Option<f64>,
    /// Until a new job was stored.
    pub job: Option<f64>,
    /// Until the first of the jobs that were waiting when the fault ended was stored; 0 if none was.
    pub backlog_moves: Option<f64>,
    /// Until all of them were.
    pub backlog: Option<f64>,
}

impl Recovery {
    /// Whether everything works again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.call.is_some() && self.job.is_some() && self.backlog.is_some()
    }

    /// The longest of all, if everything works again.
    #[must_use]
    pub fn longest(&self) -> Option<f64> {
        Some(self.call?.max(self.job?).max(self.backlog?))
    }
}

/// Waits for it, but no longer than this.
pub async fn watch(clients: Clients, collector: Arc<Collector>, within: Duration) -> Recovery {
    let begun = Instant::now();
    let waiting: Vec<String> = waiting(&clients, &collector);
    let call = async {
        // One after the other would be as late as the first of them is lost for.
        let mut calls = JoinSet::new();
        for n in FIRST_CALL.. {
            let clients = clients.clone();
            calls.spawn(async move { clients.call(n).await });
            let next = tokio::time::Instant::now() + PAUSE;
            // Those that failed are left behind; the first that is answered ends it.
            while let Ok(done) = tokio::time::timeout_at(next, calls.join_next()).await {
                match done {
                    Some(Ok(true)) => return begun.elapsed().as_secs_f64(),
                    Some(_) => {}
                    None => break,
                }
            }
            tokio::time::sleep_until(next).await;
        }
        f64::NAN
    };
    let job = async {
        // As with calls: one that was lost with the server that it went to is told of after seconds.
        let mut jobs = JoinSet::new();
        loop {
            let (clients, collector) = (clients.clone(), Arc::clone(&collector));
            jobs.spawn(async move {
                match clients.publish(Lane::Job, true, Sort::Good).await {
                    (true, Some(id)) => {
                        until(|| collector.has(&id)).await;
                        true
                    }
                    _ => false,
                }
            });
            let next = tokio::time::Instant::now() + PAUSE;
            while let Ok(Some(done)) = tokio::time::timeout_at(next, jobs.join_next()).await {
                if matches!(done, Ok(true)) {
                    let took = begun.elapsed().as_secs_f64();
                    // What was accepted is to be written down, whenever that is told.
                    while jobs.join_next().await.is_some() {}
                    return took;
                }
            }
            tokio::time::sleep_until(next).await;
        }
    };
    let moves = async {
        until(|| waiting.is_empty() || waiting.iter().any(|id| collector.has(id))).await;
        if waiting.is_empty() { 0.0 } else { begun.elapsed().as_secs_f64() }
    };
    let backlog = async {
        until(|| waiting.iter().all(|id| collector.has(id))).await;
        if waiting.is_empty() { 0.0 } else { begun.elapsed().as_secs_f64() }
    };
    let (call, job, backlog_moves, backlog) = tokio::join!(
        tokio::time::timeout(within, call),
        tokio::time::timeout(within, job),
        tokio::time::timeout(within, moves),
        tokio::time::timeout(within, backlog)
    );
    Recovery { call: call.ok(), job: job.ok(), backlog_moves: backlog_moves.ok(), backlog: backlog.ok() }
}

/// Jobs that were accepted and whose results are not there. Those without an id are not told apart until all is over.
fn waiting(clients: &Clients, collector: &Collector) -> Vec<String> {
    let jobs = clients.ledger.jobs().into_iter().filter(|job| job.accepted && job.expect == Expect::Vectors);
    jobs.filter_map(|job| job.id).filter(|id| !collector.has(id)).collect()
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_whole_when_all_of_it_is() {
        let whole = Recovery { call: Some(1.0), job: Some(2.0), backlog_moves: Some(0.5), backlog: Some(3.0) };
        assert!(whole.is_whole() && whole.longest() == Some(3.0));
        let part = Recovery { job: None, ..whole };
        assert!(!part.is_whole() && part.longest().is_none());
    }
}
