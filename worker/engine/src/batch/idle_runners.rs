//! Which runners wait for work, by what they compute on. Pure.

use crate::shape::Unit;

/// Runners that wait, and those that were woken but do not run yet.
#[derive(Debug, Default)]
pub(super) struct IdleRunners {
    units: Vec<UnitState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct UnitState {
    runners: usize,
    waiting: usize,
    woken: usize,
}

impl IdleRunners {
    /// None of the runners of these units waits yet.
    pub(super) fn new(runners: &[Unit]) -> Self {
        let mut units = vec![UnitState::default(); runners.iter().map(|unit| unit.0 + 1).max().unwrap_or_default()];
        runners.iter().for_each(|unit| units[unit.0].runners += 1);
        Self { units }
    }

    pub(super) const fn units(&self) -> usize {
        self.units.len()
    }

    /// A runner begins to wait.
    pub(super) fn park(&mut self, unit: Unit) {
        self.units[unit.0].waiting += 1;
    }

    /// A runner waits no longer, because it was woken, or because its time is up.
    pub(super) fn unpark(&mut self, unit: Unit) {
        let state = &mut self.units[unit.0];
        // It may be one whose time is up, just when another one of its unit was woken. Only their number counts, so it takes that
        // one's place, and the other one's later.
        if state.woken > 0 { state.woken -= 1 } else { state.waiting -= 1 }
    }

    /// Chooses a runner to wake, of the unit that has the fewest at work. `None` if nobody waits.
    pub(super) fn wake_one(&mut self) -> Option<Unit> {
        let waiting = self.units.iter_mut().enumerate().filter(|(_, state)| state.waiting > 0);
        let (unit, state) = waiting.min_by_key(|(_, state)| state.runners - state.waiting)?;
        state.waiting -= 1;
        state.woken += 1;
        Some(Unit(unit))
    }

    /// Runners that wait, and were not woken.
    pub(super) fn waiting(&self) -> usize {
        self.units.iter().map(|state| state.waiting).sum()
    }

    /// Other units on which nothing runs.
    pub(super) fn free_beside(&self, unit: Unit) -> usize {
        let free = |state: &UnitState| state.runners > 0 && state.waiting + state.woken == state.runners;
        self.units.iter().enumerate().filter(|(other, state)| *other != unit.0 && free(state)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_free_device_is_woken_before_a_second_runner_of_a_busy_one() {
        let mut idle = IdleRunners::new(&[Unit(0), Unit(0), Unit(1), Unit(1)]);
        for unit in [0, 0, 1, 1] {
            idle.park(Unit(unit));
        }
        let (first, second) = (idle.wake_one().unwrap(), idle.wake_one().unwrap());
        assert_ne!(first, second);
        idle.unpark(first);
        assert_eq!(idle.free_beside(second), 0, "the other device has begun");
        assert_eq!(idle.free_beside(first), 1, "it was woken, and has not begun");
    }

    proptest! {
        #[test]
        fn every_runner_is_counted(steps in prop::collection::vec((0usize..3, 0u8..3), 0..200)) {
            let all = [Unit(0), Unit(1), Unit(1), Unit(2), Unit(2), Unit(2)];
            let mut idle = IdleRunners::new(&all);
            let mut parked = [0usize; 3];
            for (unit, step) in steps {
                let runners = all.iter().filter(|one| one.0 == unit).count();
                match step {
                    0 if parked[unit] < runners => {
                        idle.park(Unit(unit));
                        parked[unit] += 1;
                    }
                    1 if parked[unit] > 0 => {
                        idle.unpark(Unit(unit));
                        parked[unit] -= 1;
                    }
                    _ => {
                        let not_woken: usize = idle.units.iter().map(|unit| unit.waiting).sum();
                        prop_assert_eq!(idle.wake_one().is_some(), not_woken > 0);
                    }
                }
                for (unit, parked) in idle.units.iter().zip(parked) {
                    prop_assert_eq!(unit.waiting + unit.woken, parked);
                }
            }
        }
    }
}
