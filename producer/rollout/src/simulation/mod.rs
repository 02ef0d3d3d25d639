//! Simulated rollouts: what the rules do with arms of known quality. For tests, and for asking beforehand what
//! a given traffic can decide.
//!
//! The traffic is made as unpleasant as production is: requests of a batch share its latency, latencies are skewed with a heavy tail, the
//! arms drift from window to window (each on its own, and both together), and errors come in batches and in bad windows. A [`Disturbance`]
//! adds what had been waiting before, reports that come late, and workers whose clocks are wrong.

mod arm;
mod disturbed;

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use rand_pcg::Pcg64;

use crate::{Arm, Check, Decision, Evidence, Rule, Verdict, evidence::Backlog, plan::Plan};

use arm::Generator;
pub use disturbed::Disturbance;

/// What an arm is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Factor on all latencies.
    pub slowness: f64,
    /// Factor on the slowest tenth of the batches alone: moves p95 and p99, and leaves the median.
    pub tail_slowness: f64,
    /// Share of requests that fail.
    pub error_rate: f64,
    /// Window from which on `error_rate` holds; before it, the scenario's. 0: from the beginning.
    pub errors_from: usize,
    /// Factor on tokens per engine second.
    pub throughput: f64,
}

/// A step of a rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Requests per second, both arms together.
    pub requests_per_second: f64,
    /// The candidate's share in percent.
    pub candidate_percent: f64,
    /// Requests in a batch, on average.
    pub batch: f64,
    /// Error rate of the baseline.
    pub error_rate: f64,
    /// Correlation of neighbouring windows' drift, each arm on its own.
    pub correlation: f64,
    /// Standard deviation of that drift, of the logarithm of the latency.
    pub drift: f64,
    /// The candidate.
    pub candidate: Quality,
}

impl Default for Quality {
    fn default() -> Self {
        Self { slowness: 1.0, tail_slowness: 1.0, error_rate: 0.001, errors_from: 0, throughput: 1.0 }
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            requests_per_second: 100.0,
            candidate_percent: 25.0,
            batch: 4.0,
            error_rate: 0.001,
            correlation: 0.5,
            drift: 0.05,
            candidate: Quality::default(),
        }
    }
}

/// How a simulated step ended.
#[derive(Debug, Clone)]
pub struct Run {
    /// The verdict that ended it.
    pub verdict: Verdict,
    /// Windows that had passed.
    pub windows: usize,
}

impl Scenario {
    /// Lives through one step: every window is checked, every look is looked at, until something is decided.
    #[must_use]
    pub fn run(&self, rule: &Rule, seed: u64) -> Run {
        let plan = &rule.config().plan;
        let mut source = Source::new(self, plan, seed);
        let mut evidence = source.empty();
        let mut look = 1;
        loop {
            source.extend(&mut evidence);
            let windows = evidence.windows();
            let due = windows >= plan.windows_at(look) as usize;
            let check = if due { Check::Look(look) } else { Check::Window };
            look += u32::from(due);
            let verdict = rule.verdict(&evidence, check, seed);
            if verdict.decision != Decision::Hold {
                return Run { verdict, windows };
            }
        }
    }

    /// The evidence of so many windows.
    #[must_use]
    pub fn evidence(&self, plan: &Plan, windows: usize, seed: u64) -> Evidence {
        let mut source = Source::new(self, plan, seed);
        let mut evidence = source.empty();
        (0..windows).for_each(|_| source.extend(&mut evidence));
        evidence
    }
}

/// Makes the windows of both arms.
struct Source {
    scenario: Scenario,
    window_ms: u32,
    rng: Pcg64,
    /// Drift that both arms share.
    common: f64,
    arms: [Generator; 2],
}

impl Source {
    fn new(scenario: &Scenario, plan: &Plan, seed: u64) -> Self {
        let window_ms = u32::try_from(plan.window.as_millis()).unwrap_or(u32::MAX);
        let share = scenario.candidate_percent / 100.0;
        let per_window = scenario.requests_per_second * plan.window.as_secs_f64();
        let same = Quality { error_rate: scenario.error_rate, ..Quality::default() };
        let arms = [
            Generator::new(per_window * (1.0 - share), same, scenario, seed ^ 0x9e37_79b9_7f4a_7c15),
            Generator::new(per_window * share, scenario.candidate, scenario, seed ^ 0x2545_f491_4f6c_dd1d),
        ];
        Self { scenario: scenario.clone(), window_ms, rng: Pcg64::seed_from_u64(seed), common: 0.0, arms }
    }

    fn empty(&self) -> Evidence {
        let arm = |name: &str| Arm { variant: name.parse().expect("a slug"), windows: Vec::new(), backlog: Vec::new() };
        Evidence {
            candidate_percent: self.scenario.candidate_percent,
            from_ms: 0,
            window_ms: self.window_ms,
            baseline: arm("baseline"),
            candidate: arm("candidate"),
            probes: Some(vec![0.998; 32]),
            reference: None,
        }
    }

    fn extend(&mut self, evidence: &mut Evidence) {
        let noise: f64 = self.rng.sample(StandardNormal);
        self.common = 0.9 * self.common + 0.19f64.sqrt() * noise;
        let at = evidence.windows();
        let [baseline, candidate] = &mut self.arms;
        evidence.baseline.windows.push(baseline.window(at, self.common));
        evidence.candidate.windows.push(candidate.window(at, self.common));
        evidence.baseline.backlog.push(Backlog::default());
        evidence.candidate.backlog.push(Backlog::default());
    }
}
