//! The planner behind a lock, for threads: tokenizers push, engine runners take. The only place that asks the clock.

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use embed_schemas::Lane;

use super::{Action, Batch, CostTable, Entry, Measured, Planner};
use crate::config::BatchConfig;

/// A queue of texts that hands out batches.
#[derive(Debug)]
pub struct BatchQueue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    planner: Planner<T>,
    /// Runners that wait for a batch.
    free: usize,
    closed: bool,
}

/// How much waits in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Texts.
    pub texts: usize,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

impl<T> BatchQueue<T> {
    /// An empty queue.
    #[must_use]
    pub fn new(config: &BatchConfig, costs: CostTable) -> Self {
        let state = State { planner: Planner::new(config, costs), free: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic under this lock is a bug in the planner; the runner that panicked has already stopped the worker.
        self.state.lock().expect("the planner does not panic")
    }

    /// Takes texts in and wakes a free runner, if there is one. That one wakes the next if it leaves some.
    pub fn push(&self, entries: impl IntoIterator<Item = Entry<T>>) {
        let mut state = self.lock();
        for entry in entries {
            state.planner.push(entry);
        }
        let free = state.free > 0;
        drop(state);
        if free {
            self.changed.notify_one();
        }
    }

    /// The next batch, as soon as there is one. `None` once the queue is closed and empty.
    ///
    /// `on_expired` gets the texts that were dropped because their deadline had passed; it runs outside the lock.
    pub fn next(&self, on_expired: impl Fn(Vec<Entry<T>>)) -> Option<Batch<T>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let others = state.free;
            let step = state.planner.next(now, others);
            if !step.expired.is_empty() {
                drop(state);
                on_expired(step.expired);
                if let Action::Run(batch) = step.action {
                    return Some(batch);
                }
                // Something may have arrived while the lock was free: ask again.
                state = self.lock();
                continue;
            }
            let wait = match step.action {
                Action::Run(batch) => {
                    if others > 0 && !state.planner.is_empty() {
                        // What is left is for another runner.
                        self.changed.notify_one();
                    }
                    return Some(batch);
                }
                Action::Idle if state.closed && state.planner.is_empty() => return None,
                Action::Idle => None,
                Action::WaitUntil(when) => Some(when.saturating_duration_since(now)),
            };
            state.free += 1;
            state = match wait {
                None => self.changed.wait(state).expect("the planner does not panic"),
                Some(wait) => self.changed.wait_timeout(state, wait).expect("the planner does not panic").0,
            };
            state.free -= 1;
        }
    }

    /// Notes what a run took, with the lanes and arrivals of its texts.
    pub fn ran(&self, run: Measured, texts: impl Iterator<Item = (Lane, Instant)>) {
        self.lock().planner.ran(Instant::now(), run, texts);
    }

    /// From now on nothing waits for company.
    pub fn drain(&self) {
        self.lock().planner.drain();
        self.changed.notify_all();
    }

    /// Lets [`BatchQueue::next`] end when nothing is left.
    pub fn close(&self) {
        let mut state = self.lock();
        state.planner.drain();
        state.closed = true;
        drop(state);
        self.changed.notify_all();
    }

    /// How much waits in a lane.
    pub fn depth(&self, lane: Lane) -> Depth {
        let mut state = self.lock();
        let oldest = state.planner.oldest_arrival(lane).map(|arrival| arrival.elapsed()).unwrap_or_default();
        Depth { texts: state.planner.len(lane), oldest }
    }
}
