//! Tells the server that jobs are still being worked on, before it gives them to another worker.

use std::{
    sync::{Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::{job::Job, publish::Reply};

/// The stored jobs of one consumer that are in the worker.
#[derive(Debug, Default)]
pub(super) struct InProgress {
    jobs: Mutex<Vec<Weak<Job>>>,
}

impl InProgress {
    pub(super) fn add(&self, job: Weak<Job>) {
        self.lock().push(job);
    }

    /// Jobs that are still in the worker.
    fn alive(&self) -> Vec<std::sync::Arc<Job>> {
        let mut jobs = self.lock();
        jobs.retain(|job| job.strong_count() > 0);
        jobs.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports three times within each `ack_wait`, for ever.
    pub(super) async fn report(&self, ack_wait: Duration) {
        let period = (ack_wait / 3).max(Duration::from_millis(100));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for job in self.alive() {
                if let Reply::Stored(delivery) = &job.reply
                    && job.ask.received.elapsed() > period / 2
                {
                    delivery.in_progress().await;
                }
            }
        }
    }

    /// Gives back everything that is still in the worker: another may have it at once.
    pub(super) async fn give_back(&self) -> usize {
        let alive = self.alive();
        for job in &alive {
            if let Reply::Stored(delivery) = &job.reply {
                delivery.nak(Duration::ZERO).await;
            }
        }
        alive.len()
    }
}
