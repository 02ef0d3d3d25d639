//! What the planner itself costs, without an engine.

use std::time::{Duration, Instant};

use embed_engine::{
    batch::{CostTable, Planner},
    settings::BatchConfig,
};
use serde::Serialize;

use super::{feed, lengths};

/// Numbers of waiting texts.
const WAITING: [usize; 4] = [100, 1_000, 10_000, 100_000];

/// How long each is measured.
const TAKES: Duration = Duration::from_millis(200);

/// The planner's time at a number of waiting texts.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PlannerCost {
    /// Texts that wait.
    pub(super) waiting: usize,
    /// Microseconds for one text: its push, and its share of the call that takes its batch.
    pub(super) us_per_text: f64,
    /// Texts in a batch, on average.
    pub(super) texts_per_batch: f64,
}

/// Measures the planner with each number of waiting texts, of mixed lengths.
pub(super) fn measure(config: &BatchConfig, seed: u64) -> Vec<PlannerCost> {
    WAITING.into_iter().map(|waiting| measure_one(config, waiting, seed)).collect()
}

fn measure_one(config: &BatchConfig, waiting: usize, seed: u64) -> PlannerCost {
    let lengths = lengths::lengths(waiting, seed);
    let mut arrivals = (0..).zip(lengths.iter().copied().cycle());
    let now = Instant::now();
    let mut planner = Planner::new(config, CostTable::default());
    let mut push = |planner: &mut Planner<usize>, count: usize| {
        for (text, length) in arrivals.by_ref().take(count) {
            planner.push(feed::entry(text, length, now));
        }
    };
    push(&mut planner, waiting);
    let (mut texts, mut batches) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < TAKES {
        let Some(batch) = feed::next(&mut planner, now) else { break };
        texts += batch.entries.len();
        batches += 1;
        push(&mut planner, batch.entries.len());
    }
    let took = started.elapsed();
    PlannerCost {
        waiting,
        us_per_text: took.as_secs_f64() * 1e6 / texts as f64,
        texts_per_batch: texts as f64 / f64::from(batches),
    }
}
