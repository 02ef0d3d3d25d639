//! Which runners wait for work, by what they compute on. Pure.

use crate::shape::Unit;

/// Runners that wait, and those that were called but have not risen yet.
#[derive(Debug, Default)]
pub(super) struct IdleRunners {
    units: Vec<UnitState>,
}

#[derive(Debug, Default, Clone, Copy)]
struct UnitState {
    runners: usize,
    waiting: usize,
    called: usize,
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
    pub(super) fn sit(&mut self, unit: Unit) {
        self.units[unit.0].waiting += 1;
    }

    /// A runner waits no longer, because it was called, or for reasons of its own.
    pub(super) fn rise(&mut self, unit: Unit) {
        let state = &mut self.units[unit.0];
        // It may take the call of another one of its unit: that one then rises as if nobody had called it.
        if state.called > 0 { state.called -= 1 } else { state.waiting -= 1 }
    }

    /// Calls a runner, of the unit that has the fewest at work. `None` if nobody waits.
    pub(super) fn call(&mut self) -> Option<Unit> {
        let waiting = self.units.iter_mut().enumerate().filter(|(_, state)| state.waiting > 0);
        let (unit, state) = waiting.min_by_key(|(_, state)| state.runners - state.waiting)?;
        state.waiting -= 1;
        state.called += 1;
        Some(Unit(unit))
    }

    /// Other units on which nothing runs.
    pub(super) fn free_beside(&self, unit: Unit) -> usize {
        let free = |state: &UnitState| state.runners > 0 && state.waiting + state.called == state.runners;
        self.units.iter().enumerate().filter(|(other, state)| *other != unit.0 && free(state)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_free_device_is_called_before_a_second_runner_of_a_busy_one() {
        let mut idle = IdleRunners::new(&[Unit(0), Unit(0), Unit(1), Unit(1)]);
        for unit in [0, 0, 1, 1] {
            idle.sit(Unit(unit));
        }
        let (first, second) = (idle.call().unwrap(), idle.call().unwrap());
        assert_ne!(first, second);
        idle.rise(first);
        assert_eq!(idle.free_beside(second), 0, "the other device has begun");
        assert_eq!(idle.free_beside(first), 1, "it was called, and has not begun");
    }

    proptest! {
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0usize..3, 0u8..3), 0..200)) {
            let all = [Unit(0), Unit(1), Unit(1), Unit(2), Unit(2), Unit(2)];
            let mut idle = IdleRunners::new(&all);
            let mut sitting = [0usize; 3];
            for (unit, step) in steps {
                let runners = all.iter().filter(|one| one.0 == unit).count();
                match step {
                    0 if sitting[unit] < runners => {
                        idle.sit(Unit(unit));
                        sitting[unit] += 1;
                    }
                    1 if sitting[unit] > 0 => {
                        idle.rise(Unit(unit));
                        sitting[unit] -= 1;
                    }
                    _ => {
                        let uncalled: usize = idle.units.iter().map(|unit| unit.waiting).sum();
                        prop_assert_eq!(idle.call().is_some(), uncalled > 0);
                    }
                }
                for (unit, sitting) in idle.units.iter().zip(sitting) {
                    prop_assert_eq!(unit.waiting + unit.called, sitting);
                }
            }
        }
    }
}
