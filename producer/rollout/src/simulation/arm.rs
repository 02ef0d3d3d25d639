//! One arm of a simulated step, window by window.

use embed_schemas::{ErrorCode, WindowCounts};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp1, Poisson, StandardNormal};
use rand_pcg::Pcg64;

use super::{Quality, Scenario};

/// Median latency of a batch in microseconds, and the spread of its logarithm.
const MEDIAN_US: f64 = 6_000.0;
const SPREAD: f64 = 0.4;
/// Share of batches that meet a hiccup, and what it multiplies their latency by.
const HICCUPS: (f64, f64) = (0.02, 2.5);
/// Standard deviation of the drift that both arms share.
const COMMON_DRIFT: f64 = 0.15;
/// Normal quantile above which a batch is among the slowest tenth.
const SLOWEST_TENTH: f64 = 1.2816;

pub(super) struct Generator {
    requests: Option<Poisson<f64>>,
    /// Requests in a batch beyond the first.
    companions: Option<Poisson<f64>>,
    quality: Quality,
    scenario: Scenario,
    drift: f64,
    rng: Pcg64,
}

impl Generator {
    pub(super) fn new(per_window: f64, quality: Quality, scenario: &Scenario, seed: u64) -> Self {
        let (requests, companions) = (Poisson::new(per_window).ok(), Poisson::new(scenario.batch - 1.0).ok());
        Self { requests, companions, quality, scenario: scenario.clone(), drift: 0.0, rng: Pcg64::seed_from_u64(seed) }
    }

    pub(super) fn window(&mut self, at: usize, common: f64) -> WindowCounts {
        let noise: f64 = self.rng.sample(StandardNormal);
        let correlation = self.scenario.correlation;
        self.drift = correlation * self.drift + (1.0 - correlation * correlation).sqrt() * noise;
        let pace = (self.drift * self.scenario.drift + common * COMMON_DRIFT).exp() * self.quality.slowness;
        // Exponential with mean 1: some windows are bad, most are not.
        let badness: f64 = self.rng.sample(Exp1);
        let error_rate = if at < self.quality.errors_from { self.scenario.error_rate } else { self.quality.error_rate };
        let error_rate = (error_rate * if error_rate < 0.05 { badness } else { 1.0 }).min(1.0);
        // A request fails with its batch or by itself, both equally likely.
        let failing = 1.0 - (1.0 - error_rate).sqrt();

        let mut window = WindowCounts::default();
        let mut left = self.requests.map_or(0.0, |p| p.sample(&mut self.rng)) as u64;
        let mut latencies: Vec<(u64, u64)> = Vec::new();
        while left > 0 {
            let size = (1 + self.companions.map_or(0.0, |p| p.sample(&mut self.rng)) as u64).min(left);
            left -= size;
            window.requests += size;
            let failed = if self.rng.random_bool(failing) {
                size
            } else {
                (0..size).filter(|_| self.rng.random_bool(failing)).count() as u64
            };
            if failed > 0 {
                *window.errors.entry(ErrorCode::EngineFailed).or_default() += failed;
            }
            let answered = size - failed;
            if answered == 0 {
                continue;
            }
            let z: f64 = self.rng.sample(StandardNormal);
            let tail = if z > SLOWEST_TENTH { self.quality.tail_slowness } else { 1.0 };
            let hiccup =
                if self.rng.random_bool(HICCUPS.0) { HICCUPS.1 * self.quality.tail_slowness / tail } else { 1.0 };
            latencies.push(((MEDIAN_US * (SPREAD * z).exp() * tail * hiccup * pace) as u64, answered));
            window.texts += answered;
            window.batches += 1;
            window.batch_texts += answered;
            window.tokens += answered * 40;
            window.busy_us += (answered as f64 * 250.0 * pace * (0.1 * z).exp() / self.quality.throughput) as u64;
        }
        latencies.sort_unstable();
        latencies.into_iter().for_each(|(us, n)| window.latency_us.record_n(us, n));
        window
    }
}
