//! The planner behind a lock, for threads: tokenizers push, engine runners take. The only place that asks the clock.

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use embed_schemas::Lane;

use super::{Action, Batch, CostTable, Entry, Measured, Planner, Shape, seats::Seats};
use crate::config::BatchConfig;

/// What computes: a device, or on the CPU a core. Runners of one unit share its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit(pub usize);

/// A queue of texts that hands out batches.
#[derive(Debug)]
pub struct BatchQueue<T> {
    state: Mutex<State<T>>,
    /// One for each unit, so that a free one is woken before one that already has work.
    changed: Vec<Condvar>,
}

#[derive(Debug)]
struct State<T> {
    planner: Planner<T>,
    seats: Seats,
    closed: bool,
    halted: bool,
    /// What came to nothing when the queue was halted. Whoever it belongs to can still give it back, as long as it is here.
    kept: Vec<Entry<T>>,
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
    /// An empty queue for runners of these units, each of which has to be named once for every runner.
    #[must_use]
    pub fn new(config: &BatchConfig, costs: CostTable, runners: &[Unit]) -> Self {
        let seats = Seats::new(runners);
        let changed = (0..seats.units()).map(|_| Condvar::new()).collect();
        let state =
            State { planner: Planner::new(config, costs), seats, closed: false, halted: false, kept: Vec::new() };
        Self { state: Mutex::new(state), changed }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic under this lock is a bug in the planner; the runner that panicked has already stopped the worker.
        self.state.lock().expect("the planner does not panic")
    }

    /// Takes texts in and wakes a free runner, if there is one. That one wakes the next if it leaves some.
    pub fn push(&self, entries: impl IntoIterator<Item = Entry<T>>) {
        let mut state = self.lock();
        if state.halted {
            state.kept.extend(entries);
            return;
        }
        for entry in entries {
            state.planner.push(entry);
        }
        self.wake(&mut state);
    }

    fn wake(&self, state: &mut State<T>) {
        if let Some(Unit(unit)) = state.seats.call() {
            self.changed[unit].notify_one();
        }
    }

    fn wake_all(&self) {
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// The next batch for a runner of this unit, as soon as there is one. `None` once the queue is closed and empty.
    ///
    /// `on_expired` gets the texts that were dropped because their deadline had passed; it runs outside the lock.
    pub fn next(&self, unit: Unit, on_expired: impl Fn(Vec<Entry<T>>)) -> Option<Batch<T>> {
        let mut state = self.lock();
        loop {
            if state.halted {
                return None;
            }
            let now = Instant::now();
            let others = state.seats.free_beside(unit);
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
                    if !state.planner.is_empty() {
                        // What is left is for another runner.
                        self.wake(&mut state);
                    }
                    return Some(batch);
                }
                Action::Idle if state.closed && state.planner.is_empty() => return None,
                Action::Idle => None,
                Action::WaitUntil(when) => Some(when.saturating_duration_since(now)),
            };
            state.seats.sit(unit);
            let changed = &self.changed[unit.0];
            state = match wait {
                None => changed.wait(state).expect("the planner does not panic"),
                Some(wait) => changed.wait_timeout(state, wait).expect("the planner does not panic").0,
            };
            state.seats.rise(unit);
        }
    }

    /// Notes what a run took, with the lanes and arrivals of its texts.
    pub fn ran(&self, run: Measured, texts: impl Iterator<Item = (Lane, Instant)>) {
        self.lock().planner.ran(Instant::now(), run, texts);
    }

    /// Notes that a device had too little memory for a run. Returns the tokens, padding included, that are the most now.
    pub fn too_large(&self, run: &Shape) -> usize {
        self.lock().planner.too_large(run)
    }

    /// Stops handing out batches, for good. Returns the online calls among `entries` and all that wait; what is stored
    /// elsewhere is kept, to be given back.
    pub fn halt(&self, entries: Vec<Entry<T>>) -> Vec<Entry<T>> {
        let mut state = self.lock();
        state.halted = true;
        let waiting = state.planner.take_all();
        let (calls, stored) = entries.into_iter().chain(waiting).partition(|entry| entry.lane == Lane::Rpc);
        state.kept.extend::<Vec<_>>(stored);
        drop(state);
        self.wake_all();
        calls
    }

    /// From now on nothing waits for company.
    pub fn drain(&self) {
        self.lock().planner.drain();
        self.wake_all();
    }

    /// Lets [`BatchQueue::next`] end when nothing is left.
    pub fn close(&self) {
        let mut state = self.lock();
        state.planner.drain();
        state.closed = true;
        drop(state);
        self.wake_all();
    }

    /// How much waits in a lane.
    pub fn depth(&self, lane: Lane) -> Depth {
        let mut state = self.lock();
        let oldest = state.planner.oldest_arrival(lane).map(|arrival| arrival.elapsed()).unwrap_or_default();
        Depth { texts: state.planner.len(lane), oldest }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    /// Callers push a few texts and wait for all of them before they push more: if a runner slept while a text waits, this
    /// would never end.
    #[test]
    fn no_text_waits_while_runners_of_several_devices_sleep() {
        const ROUNDS: usize = 500;
        let units = [0, 0, 1, 1, 2, 2].map(Unit);
        let queue = BatchQueue::<mpsc::Sender<()>>::new(&BatchConfig::default(), CostTable::default(), &units);
        thread::scope(|scope| {
            let runners = units.map(|unit| {
                let queue = &queue;
                scope.spawn(move || {
                    while let Some(batch) = queue.next(unit, |_| ()) {
                        batch.entries.iter().for_each(|entry| entry.payload.send(()).unwrap());
                    }
                })
            });
            let callers = [Lane::Rpc, Lane::Job, Lane::Bulk].map(|lane| {
                let queue = &queue;
                scope.spawn(move || {
                    let (done, taken) = mpsc::channel();
                    for round in 0..ROUNDS {
                        let texts = 1 + round % 4;
                        for text in 0..texts {
                            let (length, arrival) = (1 + (round + text) % 9, Instant::now());
                            queue.push([Entry { lane, length, arrival, deadline: None, payload: done.clone() }]);
                        }
                        taken.iter().take(texts).for_each(drop);
                    }
                })
            });
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            queue.close();
            runners.into_iter().for_each(|runner| runner.join().unwrap());
        });
    }
}
