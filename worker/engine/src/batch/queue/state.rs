//! What runs, and what is to run next, behind the queue's lock. It is told what time it is.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use embed_schemas::Lane;

use super::super::{
    idle_runners::IdleRunners,
    plan::{Action, Entry},
    planner::Planner,
    turns::Owner,
};
use crate::shape::Unit;

/// Why nothing is taken in.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether that will not change.
    pub(super) for_good: bool,
}

#[derive(Debug)]
pub(super) struct State<T> {
    pub(super) planner: Planner<T>,
    pub(super) idle: IdleRunners,
    pub(super) closed: bool,
    /// Texts that nothing else may run beside, the oldest first.
    pub(super) alone: VecDeque<Entry<T>>,
    /// Runs of other texts under way, and runs of those in `alone`.
    pub(super) running: Running,
    /// Whether the last run was one of `alone`: online calls that wait come next.
    pub(super) served_alone: bool,
    /// A call has all cores, as far as can be told until then.
    pub(super) spread_until: Option<Instant>,
    /// Runners whose engine fails whatever it is given.
    pub(super) broken: usize,
    pub(super) urgent: Urgent,
    pub(super) refusal: Option<Refusal>,
}

/// A call that has waited for so many of the longest runs of calls finds runners for calls alone that have more than they can do.
pub(super) const RUNS_UNTIL_OVERDUE: u32 = 4;

/// Runners for calls alone, whose runs go before those of the others.
#[derive(Debug)]
pub(super) struct Urgent {
    /// Those whose engines run.
    pub(super) runners: usize,
    /// The devices that they share.
    devices: usize,
    /// Those that wait for a call.
    pub(super) idle: IdleRunners,
    /// The longest run of anything else while calls come in.
    pub(super) beside_calls: Duration,
    /// Calls that have waited for longer are for all runners.
    pub(super) overdue: Duration,
}

impl Urgent {
    /// The unit of all of them: which device a call comes to does not matter.
    pub(super) const UNIT: Unit = Unit(0);

    pub(super) fn new(units: &[Unit], beside_calls: Duration, overdue: Duration) -> Self {
        let (runners, devices) = (units.len(), units.iter().collect::<HashSet<_>>().len());
        Self { runners, devices, idle: IdleRunners::new(&vec![Self::UNIT; runners]), beside_calls, overdue }
    }
}

#[derive(Debug, Default)]
pub(super) struct Running {
    pub(super) together: usize,
    /// Of all of them, those of what are no calls.
    pub(super) stored: usize,
    pub(super) alone: usize,
    /// Whose calls they have, once for each run, and whether those are newcomers.
    pub(super) senders: Vec<(u64, bool)>,
}

impl Running {
    /// Whether somebody may not have a run beside all others, of which there are so many: it has one of them, or it is one of many who were
    /// never served before, which may all be the same.
    pub(super) fn excludes(&self, owner: Owner, runners: usize) -> bool {
        let newcomers = || self.senders.iter().filter(|(_, newcomer)| *newcomer).count();
        self.senders.iter().any(|(sender, _)| *sender == owner.sender) || (owner.newcomer && newcomers() > runners)
    }
}

impl<T> State<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.planner.is_empty() && self.alone.is_empty()
    }

    pub(super) fn take_all(&mut self) -> Vec<Entry<T>> {
        let mut all = self.planner.take_all();
        all.extend(self.alone.drain(..));
        all
    }

    /// What a runner of this unit is to do now.
    pub(super) fn step(&mut self, unit: Unit, now: Instant) -> (Vec<Entry<T>>, Action<T>) {
        if let Some(until) = self.spread_until.filter(|until| now < *until) {
            return (Vec::new(), Action::WaitUntil(until));
        }
        // Calls that wait go between two runs of what runs alone: it may be a large job.
        let calls_first = self.served_alone && self.planner.len(Lane::Rpc) > 0;
        if !self.alone.is_empty() && !calls_first {
            if self.running.together > 0 || self.running.alone > 0 {
                return (Vec::new(), Action::Idle);
            }
            let (expired, batch) = self.planner.alone(&mut self.alone, now);
            let Some(batch) = batch else { return (expired, Action::Idle) };
            self.served_alone = true;
            return (expired, Action::Run(batch));
        }
        if self.running.alone > 0 {
            return (Vec::new(), Action::Idle);
        }
        let others = self.idle.free_beside(unit);
        let calls = calls_first || self.takes_calls(now);
        let step = if calls { self.planner.next(now, others) } else { self.planner.next_stored(now, others) };
        if matches!(step.action, Action::Run(_)) {
            self.served_alone = false;
        }
        (step.expired, step.action)
    }

    /// Whether a usual runner takes calls. Where others are there for them, it does only if it has nothing else to do, since beside a long run of its kind a call
    /// would wait, or if those have more than they can do: calls go before all else.
    fn takes_calls(&mut self, now: Instant) -> bool {
        let stored = || Lane::STORED.into_iter().map(|lane| self.planner.len(lane)).sum::<usize>();
        if self.urgent.runners == 0 || self.closed || (self.running.stored == 0 && stored() == 0) {
            return true;
        }
        let oldest = self.planner.oldest_arrival(Lane::Rpc);
        oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) > self.urgent.overdue)
    }

    /// How many runners for calls alone there are from now on.
    pub(super) fn set_urgent(&mut self, runners: usize) {
        self.urgent.runners = runners;
        self.planner.beside_calls((runners > 0).then_some(self.urgent.beside_calls));
    }

    /// What a runner for calls alone is to do now.
    pub(super) fn step_urgent(&mut self, now: Instant) -> (Vec<Entry<T>>, Action<T>) {
        if !self.alone.is_empty() || self.running.alone > 0 {
            return (Vec::new(), Action::Idle);
        }
        // Runners of one device share its time: in two of them, halves of a call are done no sooner than it is in one.
        let others = self.urgent.idle.waiting().min(self.urgent.devices.saturating_sub(1));
        let step = self.planner.next_call(now, others);
        (step.expired, step.action)
    }

    /// What the runner beside all others, of which there are so many, is to do now.
    pub(super) fn step_beside(&mut self, runners: usize, now: Instant) -> (Vec<Entry<T>>, Action<T>) {
        if self.running.together < runners || !self.alone.is_empty() {
            return (Vec::new(), Action::Idle);
        }
        if let Some(until) = self.spread_until.filter(|until| now < *until) {
            return (Vec::new(), Action::WaitUntil(until));
        }
        let running = &self.running;
        let step = self.planner.beside(now, |owner| running.excludes(owner, runners));
        (step.expired, step.action)
    }
}
