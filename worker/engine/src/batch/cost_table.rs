//! What a run costs in each form it can take, and which form is the cheaper one.

use std::time::Duration;

use super::cost::CostModel;
use crate::shape::{Form, Padding, Shape};

/// A run that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// What was run.
    pub shape: Shape,
    /// How.
    pub form: Form,
    /// How long it took.
    pub took: Duration,
}

/// Estimates run times of batches.
#[derive(Debug, Clone)]
pub struct CostTable {
    padded: CostModel,
    /// `None` where there is no graph for it.
    packed: Option<CostModel>,
    /// `None` where no run has several cores.
    spread: Option<CostModel>,
    padding: Padding,
}

impl Default for CostTable {
    fn default() -> Self {
        Self::new(&[], Padding::default())
    }
}

impl CostTable {
    /// A table from measured runs. Batches can run packed if one of them was. Without any, a guess that the first runs
    /// correct.
    #[must_use]
    pub fn new(measured: &[Measured], padding: Padding) -> Self {
        let in_form = |form| {
            let runs = measured.iter().filter(|run| run.form == form);
            runs.map(|run| (in_engine(&padding, form, &run.shape), run.took)).collect::<Vec<_>>()
        };
        let model = |runs: Vec<_>| (!runs.is_empty()).then(|| CostModel::new(&runs));
        let (packed, spread) = (model(in_form(Form::Packed)), model(in_form(Form::Spread)));
        Self { padded: CostModel::new(&in_form(Form::Padded)), packed, spread, padding }
    }

    /// From now on no run has several cores.
    pub fn drop_spread(&mut self) {
        self.spread = None;
    }

    /// The cheaper form for a batch, and the microseconds that it is expected to take.
    ///
    /// Which is cheaper is told by the runs that were measured alone. What runs take later includes what others do on the device
    /// meanwhile: it would make the form that is in use look dear, and the other one cheap, in turn.
    #[must_use]
    pub fn cheapest(&self, shape: &Shape) -> (Form, f64) {
        let full = in_engine(&self.padding, Form::Padded, shape);
        match &self.packed {
            Some(packed) if packed.alone(shape) < self.padded.alone(&full) => (Form::Packed, packed.micros(shape)),
            _ => (Form::Padded, self.padded.micros(&full)),
        }
    }

    /// Microseconds that a batch is expected to take, in the cheaper form.
    #[must_use]
    pub fn micros(&self, shape: &Shape) -> f64 {
        self.cheapest(shape).1
    }

    /// What a batch is expected to take if all cores compute it, over what it takes otherwise. `None` where no run has several cores.
    #[must_use]
    pub fn spread_ratio(&self, shape: &Shape) -> Option<f64> {
        Some(self.spread.as_ref()?.micros(shape) / self.micros(shape))
    }

    /// Tokens that a batch of so many texts, the longest of this width, has in memory when it runs.
    #[must_use]
    pub fn tokens_in_memory(&self, rows: usize, width: usize) -> usize {
        let (rows, width) = self.padding.of(rows, width);
        rows * width
    }

    /// Notes what a run took.
    pub fn record(&mut self, run: Measured) {
        let shape = in_engine(&self.padding, run.form, &run.shape);
        match run.form {
            Form::Padded => self.padded.record(&shape, run.took),
            Form::Packed => self.packed.iter_mut().for_each(|packed| packed.record(&shape, run.took)),
            Form::Spread => self.spread.iter_mut().for_each(|spread| spread.record(&shape, run.took)),
        }
    }
}

/// What the engine computes for a batch.
fn in_engine(padding: &Padding, form: Form, shape: &Shape) -> Shape {
    match form {
        Form::Padded | Form::Spread => {
            let (rows, width) = padding.of(shape.rows, shape.width);
            Shape::full(rows, width)
        }
        Form::Packed => *shape,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(form: Form, shape: Shape, micros: f64) -> Measured {
        Measured { shape, form, took: Duration::from_secs_f64(micros / 1e6) }
    }

    /// A device on which a packed token costs more than a padded one, but padding costs nothing when packed.
    fn measured() -> Vec<Measured> {
        let shapes = [(1, 16), (1, 128), (64, 32), (64, 128), (256, 64), (512, 128)];
        let run = |(rows, width)| {
            let (full, half) = (Shape::full(rows, width), Shape::of((0..rows).map(|i| width / (1 + i % 2))));
            let padded = run(Form::Padded, full, 300.0 + full.tokens as f64 * 0.1 + full.pairs as f64 * 1e-5);
            let packed = run(Form::Packed, half, 350.0 + half.tokens as f64 * 0.12 + half.pairs as f64 * 1e-5);
            [padded, packed]
        };
        shapes.into_iter().flat_map(run).collect()
    }

    proptest! {
        #[test]
        fn the_cheaper_form_is_chosen(lengths in prop::collection::vec(2usize..256, 1..600)) {
            let padding = Padding::new(vec![(512, 8)], vec![(8, 1), (4096, 8)], 512);
            let (both, runs) = (CostTable::new(&measured(), padding.clone()), measured());
            let alone = |form| runs.iter().filter(|run| run.form == form).copied().collect::<Vec<_>>();
            let shape = Shape::of(lengths);
            let padded = CostTable::new(&alone(Form::Padded), padding.clone()).cheapest(&shape);
            let (form, micros) = both.cheapest(&shape);
            prop_assert_eq!(padded.0, Form::Padded, "without a packed graph there is no choice");
            prop_assert!(micros <= padded.1);
            prop_assert_eq!(form == Form::Packed, micros < padded.1);
            prop_assert!(micros.is_finite() && micros > 0.0);
        }

        #[test]
        fn what_others_do_meanwhile_does_not_turn_the_choice(length in 2usize..256, rows in 64usize..512) {
            let mut table = CostTable::new(&measured(), Padding::default());
            let shape = Shape::full(rows, length);
            prop_assert_eq!(table.cheapest(&shape).0, Form::Padded, "full rows have no padding to save");
            let slow = table.micros(&shape) * 1.9;
            for _ in 0..60 {
                table.record(run(Form::Padded, shape, slow));
            }
            let (form, micros) = table.cheapest(&shape);
            prop_assert_eq!(form, Form::Padded);
            prop_assert!((micros / slow - 1.0).abs() < 0.1, "but its time is followed: {} {}", micros, slow);
        }
    }

    #[test]
    fn padding_decides_for_packed() {
        let table = CostTable::new(&measured(), Padding::default());
        let ragged = Shape::of((0..256).map(|i| if i == 0 { 256 } else { 16 }));
        assert_eq!(table.cheapest(&ragged).0, Form::Packed);
    }
}
