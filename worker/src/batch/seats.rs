//! Which runners wait for work, by what they compute on. Pure.

use super::Unit;

/// Runners that wait, and those that were called but have not risen yet.
#[derive(Debug, Default)]
pub(super) struct Seats {
    units: Vec<Seat>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seat {
    runners: usize,
    waiting: usize,
    called: usize,
}

impl Seats {
    /// Seats for runners of these units.
    pub(super) fn new(runners: &[Unit]) -> Self {
        let mut units = vec![Seat::default(); runners.iter().map(|unit| unit.0 + 1).max().unwrap_or_default()];
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
        let seat = &mut self.units[unit.0];
        // It may take the call of another one of its unit: that one then rises as if nobody had called it.
        if seat.called > 0 { seat.called -= 1 } else { seat.waiting -= 1 }
    }

    /// Calls a runner, of the unit that has the fewest at work. `None` if nobody waits.
    pub(super) fn call(&mut self) -> Option<Unit> {
        let waiting = self.units.iter_mut().enumerate().filter(|(_, seat)| seat.waiting > 0);
        let (unit, seat) = waiting.min_by_key(|(_, seat)| seat.runners - seat.waiting)?;
        seat.waiting -= 1;
        seat.called += 1;
        Some(Unit(unit))
    }

    /// Other units on which nothing runs.
    pub(super) fn free_beside(&self, unit: Unit) -> usize {
        let free = |seat: &Seat| seat.runners > 0 && seat.waiting + seat.called == seat.runners;
        self.units.iter().enumerate().filter(|(other, seat)| *other != unit.0 && free(seat)).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_free_device_is_called_before_a_second_runner_of_a_busy_one() {
        let mut seats = Seats::new(&[Unit(0), Unit(0), Unit(1), Unit(1)]);
        for unit in [0, 0, 1, 1] {
            seats.sit(Unit(unit));
        }
        let (first, second) = (seats.call().unwrap(), seats.call().unwrap());
        assert_ne!(first, second);
        seats.rise(first);
        assert_eq!(seats.free_beside(second), 0, "the other device has begun");
        assert_eq!(seats.free_beside(first), 1, "it was called, and has not begun");
    }

    proptest! {
        #[test]
        fn nobody_is_lost(steps in prop::collection::vec((0usize..3, 0u8..3), 0..200)) {
            let all = [Unit(0), Unit(1), Unit(1), Unit(2), Unit(2), Unit(2)];
            let mut seats = Seats::new(&all);
            let mut sitting = [0usize; 3];
            for (unit, step) in steps {
                let runners = all.iter().filter(|one| one.0 == unit).count();
                match step {
                    0 if sitting[unit] < runners => {
                        seats.sit(Unit(unit));
                        sitting[unit] += 1;
                    }
                    1 if sitting[unit] > 0 => {
                        seats.rise(Unit(unit));
                        sitting[unit] -= 1;
                    }
                    _ => {
                        let uncalled: usize = seats.units.iter().map(|seat| seat.waiting).sum();
                        prop_assert_eq!(seats.call().is_some(), uncalled > 0);
                    }
                }
                for (seat, sitting) in seats.units.iter().zip(sitting) {
                    prop_assert_eq!(seat.waiting + seat.called, sitting);
                }
            }
        }
    }
}
