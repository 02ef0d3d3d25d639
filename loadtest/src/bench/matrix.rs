//! The matrix: full batches of one shape, on all runners at the same time.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use embed_engine::{
    engine::{Engine, EngineError, Input},
    shape::Form,
};
use embed_schemas::model::GraphForm;
use fastrand::Rng;
use serde::Serialize;

use super::{runners::Runners, stats::quantile_ms, subject::Subject};

/// The figures of one shape.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    /// What ran.
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// Texts in a run.
    pub(super) batch: usize,
    /// Tokens of each text.
    pub(super) length: usize,
    /// Runs that were counted, of all runners.
    pub(super) runs: usize,
    /// Texts a second, all runners together.
    pub(super) texts_per_second: f64,
    /// Tokens a second, all runners together.
    pub(super) tokens_per_second: f64,
    /// Milliseconds of a run, median.
    pub(super) p50_ms: f64,
    /// Milliseconds of a run, 95 %.
    pub(super) p95_ms: f64,
}

/// Ids to make texts of.
#[derive(Debug)]
pub(super) struct Ids {
    /// The special token that opens a text.
    pub(super) opening: u32,
    /// The special token that closes a text.
    pub(super) closing: u32,
    /// Tokens between them.
    pub(super) vocabulary: Vec<u32>,
}

impl Ids {
    /// A full batch of random texts, `length` tokens each.
    fn batch(&self, batch: usize, length: usize, rng: &mut Rng) -> Input {
        let text = |_| {
            let mut ids = vec![self.opening];
            ids.extend((2..length).map(|_| self.vocabulary[rng.usize(..self.vocabulary.len())]));
            ids.push(self.closing);
            ids
        };
        let rows: Vec<Vec<u32>> = (0..batch).map(text).collect();
        let mut input = Input::default();
        input.fill(rows.iter().map(Vec::as_slice));
        input
    }
}

/// Runs one shape on all engines for about this long, after one run that does not count.
///
/// # Errors
/// If a run fails.
pub(super) fn measure<E: Engine + 'static>(
    runners: &Runners<E>,
    ids: &Ids,
    subject: &Subject,
    (batch, length): (usize, usize),
    time: Duration,
    seed: u64,
) -> Result<Cell, EngineError> {
    let all_warm = Arc::new(Barrier::new(runners.len()));
    let outcomes: Vec<Result<Vec<Duration>, EngineError>> = runners.on_each(|i| {
        let mut input = ids.batch(batch, length, &mut Rng::with_seed(seed.wrapping_add(i as u64)));
        input.form = if subject.form == GraphForm::Packed { Form::Packed } else { Form::Padded };
        let all_warm = Arc::clone(&all_warm);
        move |engine: &mut E| run(engine, &input, &all_warm, time)
    });
    let (mut took, mut texts_per_second) = (Vec::new(), 0.0);
    for runs in outcomes {
        let runs = runs?;
        // Each runner's own rate: one that ends later must not make the others look idle.
        let seconds: f64 = runs.iter().map(Duration::as_secs_f64).sum();
        texts_per_second += (runs.len() * batch) as f64 / seconds;
        took.extend(runs);
    }
    took.sort_unstable();
    Ok(Cell {
        subject: subject.clone(),
        batch,
        length,
        runs: took.len(),
        texts_per_second,
        tokens_per_second: texts_per_second * length as f64,
        p50_ms: quantile_ms(&took, 0.5),
        p95_ms: quantile_ms(&took, 0.95),
    })
}

fn run(
    engine: &mut impl Engine,
    input: &Input,
    all_warm: &Barrier,
    time: Duration,
) -> Result<Vec<Duration>, EngineError> {
    let warm = engine.embed(input);
    // Also after a failure, since the others wait here.
    all_warm.wait();
    warm?;
    let mut took = Vec::new();
    let started = Instant::now();
    while took.is_empty() || started.elapsed() < time {
        let run_started = Instant::now();
        engine.embed(input)?;
        took.push(run_started.elapsed());
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: fn() -> Ids = || Ids { opening: 101, closing: 102, vocabulary: vec![7, 8, 9] };

    #[test]
    fn texts_are_full_and_the_same_for_the_same_seed() {
        let input = IDS().batch(3, 5, &mut Rng::with_seed(1));
        assert_eq!((input.rows, input.width), (3, 5));
        assert!(input.mask.iter().all(|bit| *bit == 1));
        for row in input.ids.chunks(5) {
            assert_eq!((row[0], row[4]), (101, 102));
            assert!(row[1..4].iter().all(|id| (7..=9).contains(id)));
        }
        assert_eq!(input.ids, IDS().batch(3, 5, &mut Rng::with_seed(1)).ids);
        assert_eq!(IDS().batch(1, 2, &mut Rng::with_seed(1)).ids, [101, 102]);
    }
}
