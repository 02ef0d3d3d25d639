//! What a run of a shape costs: a model fitted to measured runs, kept current from what runs really take.

use std::time::Duration;

use crate::shape::Shape;

/// Buckets of rows: powers of two.
const ROW_BUCKETS: usize = 13;
/// Buckets of tokens a row: half powers of two.
const WIDTH_BUCKETS: usize = 24;
/// Weight of a new observation.
const FRESH: f64 = 0.1;
/// A run that took this many times as long as expected was held up by something else; it counts as this much.
const OUTLIER: f64 = 2.0;

/// Estimates run times of one graph.
///
/// The base is a model with three parts: what every run costs (the weights pass through the caches once), what a token
/// costs, and what a pair of tokens of one row costs (attention). On top, each bucket of shapes has a correction that
/// follows what runs of that shape really take.
#[derive(Debug, Clone)]
pub(super) struct CostModel {
    /// Microseconds a run, a token, a pair of tokens.
    base: [f64; 3],
    /// Observed over modelled, by bucket; `None` where nothing was observed.
    corrections: [[Option<f64>; WIDTH_BUCKETS]; ROW_BUCKETS],
    /// The same over all shapes, for those that were not observed.
    drift: f64,
}

impl CostModel {
    /// From measured runs: the model that has the least relative error over them. Without any, a guess that the first
    /// runs correct.
    pub(super) fn new(measured: &[(Shape, Duration)]) -> Self {
        let base = fit(measured).unwrap_or([2_000.0, 200.0, 0.0]);
        Self { base, corrections: [[None; WIDTH_BUCKETS]; ROW_BUCKETS], drift: 1.0 }
    }

    /// Microseconds that a run of this shape is expected to take.
    pub(super) fn micros(&self, shape: &Shape) -> f64 {
        let (row, column) = bucket(shape);
        self.model(shape) * self.corrections[row][column].unwrap_or(self.drift)
    }

    /// Microseconds of such a run as it was measured alone, before others ran beside it.
    pub(super) fn alone(&self, shape: &Shape) -> f64 {
        self.model(shape)
    }

    /// Notes what a run took.
    pub(super) fn record(&mut self, shape: &Shape, took: Duration) {
        let ratio = micros(took) / self.model(shape);
        let (row, column) = bucket(shape);
        let cell = self.corrections[row][column].get_or_insert(self.drift);
        *cell += FRESH * (ratio.min(*cell * OUTLIER) - *cell);
        self.drift += FRESH * FRESH * (ratio.min(self.drift * OUTLIER) - self.drift);
    }

    fn model(&self, shape: &Shape) -> f64 {
        let features = features(shape);
        (0..3).map(|i| self.base[i] * features[i]).sum::<f64>().max(1.0)
    }
}

fn features(shape: &Shape) -> [f64; 3] {
    [1.0, shape.tokens as f64, shape.pairs as f64]
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

fn bucket(shape: &Shape) -> (usize, usize) {
    let rows = shape.rows.max(1);
    let row = rows.ilog2() as usize;
    let column = (2.0 * ((shape.tokens as f64 / rows as f64).max(1.0)).log2()) as usize;
    (row.min(ROW_BUCKETS - 1), column.min(WIDTH_BUCKETS - 1))
}

/// Least squares of the relative error with no part negative: of all sets of parts, the best whose solution is.
fn fit(measured: &[(Shape, Duration)]) -> Option<[f64; 3]> {
    let error = |base: &[f64; 3]| -> f64 {
        let relative = |(shape, took): &(Shape, Duration)| {
            let features = features(shape);
            let expected: f64 = (0..3).map(|i| base[i] * features[i]).sum();
            (expected / micros(*took) - 1.0).powi(2)
        };
        measured.iter().map(relative).sum()
    };
    (1u8..8)
        .filter_map(|set| solve(measured, |part| set >> part & 1 == 1))
        .filter(|base| base.iter().all(|part| *part >= 0.0))
        .min_by(|a, b| error(a).total_cmp(&error(b)))
}

/// The normal equations over the parts that are used, by Gaussian elimination.
fn solve(measured: &[(Shape, Duration)], used: impl Fn(usize) -> bool) -> Option<[f64; 3]> {
    let mut equations = [[0.0; 4]; 3];
    for (shape, took) in measured.iter().filter(|(_, took)| !took.is_zero()) {
        let features = features(shape).map(|feature| feature / micros(*took));
        for i in (0..3).filter(|i| used(*i)) {
            for j in (0..3).filter(|j| used(*j)) {
                equations[i][j] += features[i] * features[j];
            }
            equations[i][3] += features[i];
        }
    }
    for (i, equation) in equations.iter_mut().enumerate().filter(|(i, _)| !used(*i)) {
        equation[i] = 1.0;
    }
    for i in 0..3 {
        let pivot = (i..3).max_by(|a, b| equations[*a][i].abs().total_cmp(&equations[*b][i].abs()))?;
        equations.swap(i, pivot);
        let head = equations[i][i];
        if head.abs() < 1e-12 {
            return None;
        }
        for column in &mut equations[i] {
            *column /= head;
        }
        let row = equations[i];
        for other in (0..3).filter(|other| *other != i) {
            let factor = equations[other][i];
            for (to, from) in equations[other].iter_mut().zip(row) {
                *to -= factor * from;
            }
        }
    }
    Some([equations[0][3], equations[1][3], equations[2][3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(rows: usize, width: usize, micros: f64) -> (Shape, Duration) {
        (Shape::full(rows, width), Duration::from_secs_f64(micros / 1e6))
    }

    fn shapes() -> impl Iterator<Item = (usize, usize)> {
        [(1, 16), (1, 64), (1, 256), (8, 16), (4, 64)].into_iter()
    }

    proptest! {
        #[test]
        fn a_machine_that_follows_the_model_is_learnt(
            fixed in 100.0..5000.0, token in 1.0..300.0, pair in 0.0..1.0, rows in 1usize..100, width in 2usize..512,
        ) {
            let cost = |rows: usize, width: usize| {
                let [one, tokens, pairs] = features(&Shape::full(rows, width));
                fixed * one + token * tokens + pair * pairs
            };
            let measured: Vec<_> = shapes().map(|(rows, width)| run(rows, width, cost(rows, width))).collect();
            let table = CostModel::new(&measured);
            prop_assert!((table.micros(&Shape::full(rows, width)) / cost(rows, width) - 1.0).abs() < 0.01);
        }

        #[test]
        fn estimates_are_positive_whatever_was_measured(
            times in prop::collection::vec(0.0..1e6, 5), rows in 1usize..5000, width in 1usize..5000,
        ) {
            let measured: Vec<_> = shapes().zip(times).map(|((rows, width), time)| run(rows, width, time)).collect();
            let mut table = CostModel::new(&measured);
            prop_assert!(table.micros(&Shape::full(rows, width)) >= 0.0 && table.micros(&Shape::full(rows, width)).is_finite());
            let (shape, took) = run(rows, width, 123.0);
            table.record(&shape, took);
            prop_assert!(table.micros(&Shape::full(rows, width)).is_finite());
        }
    }

    #[test]
    fn what_runs_really_take_is_followed_and_outliers_are_not() {
        let mut table = CostModel::new(&shapes().map(|(r, w)| run(r, w, 100.0 * (r * w) as f64)).collect::<Vec<_>>());
        for _ in 0..100 {
            table.record(&Shape::full(8, 32), Duration::from_micros(50 * 256));
        }
        assert!((table.micros(&Shape::full(8, 32)) / (50.0 * 256.0) - 1.0).abs() < 0.02);
        table.record(&Shape::full(8, 32), Duration::from_secs(1000));
        assert!(table.micros(&Shape::full(8, 32)) < 60.0 * 256.0, "one run that was held up changes little");
        assert!(table.micros(&Shape::full(64, 16)) < 100.0 * 1024.0, "other shapes follow slowly");
    }
}
