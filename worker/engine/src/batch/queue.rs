//! The planner behind a lock, for threads: tokenizers push, engine runners take. The only place that asks the clock.

mod state;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use embed_schemas::Lane;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::state::{RUNS_UNTIL_OVERDUE, Refusal, Running, State, Urgent};
use super::{
    cost_table::{CostTable, Measured},
    idle_runners::IdleRunners,
    plan::{Action, Batch, Entry, Reason},
    planner::Planner,
};
use crate::{
    settings::BatchConfig,
    shape::{Form, Shape, Unit},
    threads::{CoreUse, CoresUsed},
};

/// A queue of texts that hands out batches.
#[derive(Debug)]
pub struct BatchQueue<T> {
    state: Mutex<State<T>>,
    /// One for each unit, so that a free one is woken before one that already has work.
    changed: Vec<Condvar>,
    /// For runners whose engine fails whatever it is given. Apart from the others, so that waking a free runner does not wake
    /// one of them instead.
    ended: Condvar,
    /// For the runner beside all others.
    beside: Condvar,
    /// For runners that take calls alone.
    urgent: Condvar,
    runners: usize,
    /// Engines whose place a run takes that has several cores.
    spread: usize,
    cores: CoreUse,
}

/// While all cores compute a call that is expected to be done within this, others wait for its end: beside it, both would take longer.
const SOON_DONE: Duration = Duration::from_millis(5);

/// Texts that a queue did not take, or gives back, and why.
#[derive(Debug)]
pub struct Refused<T> {
    /// Why, for a person.
    pub reason: String,
    /// The texts.
    pub entries: Vec<Entry<T>>,
}

/// A run under way, until it is dropped: it decides what may begin beside it.
#[derive(Debug)]
pub struct Run<'a, T> {
    queue: &'a BatchQueue<T>,
    alone: bool,
    /// Whether it has several cores.
    spread: bool,
    /// Whose calls it has.
    senders: Vec<(u64, bool)>,
    /// Whether it has anything but calls.
    stored: bool,
    cores: Option<CoresUsed>,
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
        let idle = IdleRunners::new(runners);
        let changed = (0..idle.units()).map(|_| Condvar::new()).collect();
        let state = State {
            planner: Planner::new(config, costs),
            idle,
            closed: false,
            alone: VecDeque::new(),
            running: Running::default(),
            served_alone: false,
            spread_until: None,
            broken: 0,
            urgent: Urgent::new(&[], Duration::ZERO, config.online_run * RUNS_UNTIL_OVERDUE),
            refusal: None,
        };
        let [ended, beside, urgent] = [(); 3].map(|()| Condvar::new());
        let (runners, cores) = (runners.len(), CoreUse::default());
        Self { state: Mutex::new(state), changed, ended, beside, urgent, runners, spread: 1, cores }
    }

    /// The same with a runner more for each of these units, for calls alone, see [`BatchQueue::next_call`]. Other runs take no longer than this while calls come in.
    #[must_use]
    pub fn with_urgent(self, units: &[Unit], beside_calls: Duration) -> Self {
        let mut state = self.state.lock();
        state.urgent = Urgent::new(units, beside_calls, state.urgent.overdue);
        state.set_urgent(units.len());
        drop(state);
        self
    }

    /// The same, on cores that others use as well. A run that is spread over them is on so many.
    #[must_use]
    pub fn on_cores(self, cores: CoreUse, spread: usize) -> Self {
        Self { cores, spread: spread.clamp(1, self.runners.max(1)), ..self }
    }

    /// Engines whose place a run of this form takes.
    #[must_use]
    pub const fn engines_of(&self, form: Form) -> usize {
        if matches!(form, Form::Spread) { self.spread } else { 1 }
    }

    /// Takes texts in and wakes a free runner, if there is one. That one wakes the next if it leaves some.
    ///
    /// # Errors
    /// If the engines fail whatever they are given, or are gone: the texts come back.
    pub fn push(&self, entries: impl IntoIterator<Item = Entry<T>>) -> Result<(), Refused<T>> {
        let mut state = self.state.lock();
        if let Some(Refusal { reason, .. }) = &state.refusal {
            return Err(Refused { reason: reason.clone(), entries: entries.into_iter().collect() });
        }
        let (mut beside, mut calls, mut others) = (false, false, false);
        for entry in entries {
            let is_call = entry.lane == Lane::Rpc;
            beside |= is_call && !state.running.excludes(entry.owner, self.runners);
            *(if is_call && entry.alone.is_none() { &mut calls } else { &mut others }) = true;
            if entry.alone.is_some() { state.alone.push_back(entry) } else { state.planner.push(entry) }
        }
        others |= calls && !self.wake_urgent(&mut state);
        if others && !self.wake(&mut state) && beside {
            self.beside.notify_one();
        }
        Ok(())
    }

    /// Wakes a runner that waits for calls alone. `false` if there is none.
    fn wake_urgent(&self, state: &mut State<T>) -> bool {
        let woken = state.urgent.idle.wake_one().is_some();
        if woken {
            self.urgent.notify_one();
        }
        woken
    }

    /// Wakes a free runner. `false` if there is none.
    fn wake(&self, state: &mut State<T>) -> bool {
        let woken = state.idle.wake_one();
        if let Some(Unit(unit)) = woken {
            self.changed[unit].notify_one();
        }
        woken.is_some()
    }

    fn wake_all(&self) {
        for changed in &self.changed {
            changed.notify_all();
        }
        self.ended.notify_all();
        self.beside.notify_all();
        self.urgent.notify_all();
    }

    /// The next batch for a runner of this unit, as soon as there is one. `None` once the queue is closed and empty, or its engines
    /// are gone.
    ///
    /// `on_expired` gets the texts that were dropped because their deadline had passed; it runs outside the lock.
    pub fn next(&self, unit: Unit, on_expired: impl Fn(Vec<Entry<T>>)) -> Option<(Batch<T>, Run<'_, T>)> {
        let mut state = self.state.lock();
        loop {
            if state.refusal.as_ref().is_some_and(|refusal| refusal.for_good) {
                return None;
            }
            let now = Instant::now();
            let (expired, action) = self.step(&mut state, unit, now);
            if !expired.is_empty() {
                let run = match action {
                    Action::Run(batch) => Some(self.begun(&mut state, batch)),
                    _ => None,
                };
                drop(state);
                on_expired(expired);
                if run.is_some() {
                    return run;
                }
                // Something may have arrived while the lock was free: ask again.
                state = self.state.lock();
                continue;
            }
            let until = match action {
                Action::Run(batch) => {
                    let run = self.begun(&mut state, batch);
                    // What is left is for another runner.
                    let calls = state.planner.len(Lane::Rpc) > 0;
                    let urgent = calls && self.wake_urgent(&mut state);
                    if !state.is_empty() && !self.wake(&mut state) && calls && !urgent {
                        self.beside.notify_one();
                    }
                    return Some(run);
                }
                Action::Idle if state.closed && state.is_empty() => return None,
                Action::Idle => None,
                Action::WaitUntil(when) => Some(when),
            };
            self.wait(&mut state, unit, until);
        }
    }

    /// The next short run for the one runner beside all others, see [`Planner::beside`], as soon as all of those are at work and there is
    /// one. `None` once the queue is closed, or its engines are gone.
    pub fn next_beside(&self, on_expired: impl Fn(Vec<Entry<T>>)) -> Option<(Batch<T>, Run<'_, T>)> {
        let step = |state: &mut State<T>| state.step_beside(self.runners, Instant::now());
        self.next_apart(false, step, on_expired, |state, until| match until {
            None => self.beside.wait(state),
            Some(until) => drop(self.beside.wait_until(state, until)),
        })
    }

    /// The next batch for a runner that takes calls alone, as soon as there is one. `None` once the queue is closed, or its engines are gone: what is left is
    /// for the others.
    pub fn next_call(&self, on_expired: impl Fn(Vec<Entry<T>>)) -> Option<(Batch<T>, Run<'_, T>)> {
        let step = |state: &mut State<T>| state.step_urgent(Instant::now());
        self.next_apart(true, step, on_expired, |state, _| {
            state.urgent.idle.park(Urgent::UNIT);
            self.urgent.wait(state);
            state.urgent.idle.unpark(Urgent::UNIT);
        })
    }

    /// What runners get that have nothing to finish when the queue is closed. `wakes`: what they leave is for usual runners as well.
    fn next_apart(
        &self,
        wakes: bool,
        step: impl Fn(&mut State<T>) -> (Vec<Entry<T>>, Action<T>),
        on_expired: impl Fn(Vec<Entry<T>>),
        wait: impl Fn(&mut MutexGuard<'_, State<T>>, Option<Instant>),
    ) -> Option<(Batch<T>, Run<'_, T>)> {
        let mut state = self.state.lock();
        loop {
            if state.closed || state.refusal.as_ref().is_some_and(|refusal| refusal.for_good) {
                return None;
            }
            let (expired, action) = step(&mut state);
            let until = match action {
                Action::WaitUntil(until) => Some(until),
                _ => None,
            };
            let run = match action {
                Action::Run(batch) => Some(self.begun(&mut state, batch)),
                _ => None,
            };
            // What is left is for another, if there is one.
            if run.is_some() && state.planner.len(Lane::Rpc) > 0 && !self.wake_urgent(&mut state) && wakes {
                self.wake(&mut state);
            }
            let asks_again = !expired.is_empty();
            if asks_again {
                drop(state);
                on_expired(expired);
                state = self.state.lock();
            }
            if run.is_some() {
                return run;
            }
            // Something may have arrived while the lock was free.
            if !asks_again {
                wait(&mut state, until);
            }
        }
    }

    /// A runner for calls alone has an engine that fails whatever it is given (`false`), or that runs again. Without any, calls are for all runners.
    pub fn urgent_runs(&self, runs: bool) {
        let mut state = self.state.lock();
        let runners = if runs { state.urgent.runners + 1 } else { state.urgent.runners.saturating_sub(1) };
        state.set_urgent(runners);
        drop(state);
        self.wake_all();
    }

    /// Runners for calls alone whose engines run.
    pub fn runs_calls_apart(&self) -> usize {
        self.state.lock().urgent.runners
    }

    /// What a runner of this unit is to do now. A call that comes while nothing is being computed gets all cores.
    fn step(&self, state: &mut State<T>, unit: Unit, now: Instant) -> (Vec<Entry<T>>, Action<T>) {
        let (expired, mut action) = state.step(unit, now);
        if let Action::Run(batch) = &mut action
            && !matches!(batch.reason, Reason::Alone)
            && self.cores.is_none()
            && let Some(takes) = state.planner.spread(batch)
        {
            // As long as others have cores of their own, they need not wait.
            let waits = takes <= SOON_DONE && self.spread == self.runners;
            state.spread_until = waits.then(|| now + takes);
        }
        (expired, action)
    }

    fn begun(&self, state: &mut State<T>, batch: Batch<T>) -> (Batch<T>, Run<'_, T>) {
        let alone = matches!(batch.reason, Reason::Alone);
        let running = &mut state.running;
        *(if alone { &mut running.alone } else { &mut running.together }) += 1;
        let sender = |entry: &Entry<T>| (entry.owner.sender, entry.owner.newcomer);
        let mut senders: Vec<_> = match batch.entries.first() {
            Some(entry) if entry.lane == Lane::Rpc => batch.entries.iter().map(sender).collect(),
            _ => Vec::new(),
        };
        senders.sort_unstable();
        senders.dedup();
        running.senders.extend_from_slice(&senders);
        let spread = batch.form == Form::Spread;
        let stored = batch.entries.first().is_some_and(|entry| entry.lane != Lane::Rpc);
        running.stored += usize::from(stored);
        (batch, Run { queue: self, alone, spread, senders, stored, cores: Some(self.cores.begin()) })
    }

    fn wait(&self, state: &mut MutexGuard<'_, State<T>>, unit: Unit, until: Option<Instant>) {
        state.idle.park(unit);
        let changed = &self.changed[unit.0];
        match until {
            None => changed.wait(state),
            Some(until) => drop(changed.wait_until(state, until)),
        }
        state.idle.unpark(unit);
    }

    /// Notes what a run took, if that tells what such runs cost, with the lanes and arrivals of its texts. Returns the most tokens of a batch, padding included, if that
    /// has grown again after [`BatchQueue::too_large`].
    pub fn ran(&self, run: Option<Measured>, texts: impl Iterator<Item = (Lane, Instant)>) -> Option<usize> {
        self.state.lock().planner.ran(Instant::now(), run, texts)
    }

    /// Notes that a device had too little memory for a run. Returns the tokens, padding included, that are the most now.
    pub fn too_large(&self, run: &Shape) -> usize {
        self.state.lock().planner.too_large(Instant::now(), run)
    }

    /// Stops handing out batches, for good: no engine will run any more. Returns all that waits; what comes later is refused.
    #[must_use]
    pub fn halt(&self, reason: &str) -> Vec<Entry<T>> {
        let mut state = self.state.lock();
        state.refusal = Some(Refusal { reason: reason.to_owned(), for_good: true });
        let waiting = state.take_all();
        drop(state);
        self.wake_all();
        waiting
    }

    /// Notes that a runner's engine fails whatever it is given. When that is so for all, nothing is taken in until
    /// [`BatchQueue::mended`], and what waits comes back.
    #[must_use]
    pub fn broken(&self, reason: &str) -> Vec<Entry<T>> {
        let mut state = self.state.lock();
        state.broken += 1;
        if state.broken < self.runners || state.refusal.is_some() {
            return Vec::new();
        }
        state.refusal = Some(Refusal { reason: reason.to_owned(), for_good: false });
        state.take_all()
    }

    /// Notes that a runner's engine runs again.
    pub fn mended(&self) {
        let mut state = self.state.lock();
        state.broken -= 1;
        state.refusal.take_if(|refusal| !refusal.for_good);
    }

    /// Why nothing is taken in, if that is so.
    #[must_use]
    pub fn refuses(&self) -> Option<String> {
        self.state.lock().refusal.as_ref().map(|refusal| refusal.reason.clone())
    }

    /// Waits for so long, or until the queue ends: then it is `true`.
    pub fn ends_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        loop {
            if state.closed || state.refusal.as_ref().is_some_and(|refusal| refusal.for_good) {
                return true;
            }
            if self.ended.wait_until(&mut state, until).timed_out() {
                return false;
            }
        }
    }

    /// From now on nothing waits for company.
    pub fn drain(&self) {
        self.state.lock().planner.drain();
        self.wake_all();
    }

    /// Lets [`BatchQueue::next`] end when nothing is left.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.planner.drain();
        state.closed = true;
        drop(state);
        self.wake_all();
    }

    /// How much waits in a lane.
    pub fn depth(&self, lane: Lane) -> Depth {
        let mut state = self.state.lock();
        let alone = || state.alone.iter().filter(|entry| entry.lane == lane);
        let (texts, first) = (alone().count(), alone().map(|entry| entry.arrival).min());
        let oldest = state.planner.oldest_arrival(lane).into_iter().chain(first).min();
        Depth {
            texts: state.planner.len(lane) + texts,
            oldest: oldest.map(|arrival| arrival.elapsed()).unwrap_or_default(),
        }
    }
}

impl<T> Drop for Run<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        // Before anybody is woken who looks whether they are free, and not before the lock: whoever begins then would be taken for this run.
        drop(self.cores.take());
        let running = &mut state.running;
        for sender in &self.senders {
            if let Some(place) = running.senders.iter().position(|one| one == sender) {
                running.senders.swap_remove(place);
            }
        }
        running.stored -= usize::from(self.stored);
        let count = if self.alone { &mut running.alone } else { &mut running.together };
        *count -= 1;
        // Whoever waited for the engines to be free, or for this text to be out of them.
        let waited_for = *count == 0 && (self.alone || !state.alone.is_empty());
        if self.spread && state.spread_until.take().is_some() && !waited_for && !state.is_empty() {
            // That one wakes the next if it leaves some.
            self.queue.wake(&mut state);
        }
        drop(state);
        if waited_for {
            self.queue.wake_all();
        }
    }
}

#[cfg(test)]
mod tests;
