//! The error probabilities that the rule `guarded` declares, and its power, by simulation. Seeds are fixed, so the outcome is too.

use std::thread;

use embed_rollout::{
    Config, Decision, Metric, Rule,
    config::Guarded,
    simulation::{Quality, Run, Scenario},
};
use statrs::distribution::{Binomial, DiscreteCDF};

const RUNS: u64 = 1_000;

/// What became of many runs.
#[derive(Debug, Default)]
struct Ends {
    promoted: u64,
    rolled_back: u64,
}

fn simulate(config: &Config, scenario: &Scenario, runs: u64, until: impl Fn(&Run) + Sync) -> Ends {
    let rule = Rule::new(config.clone()).unwrap();
    let half = |from: u64| {
        let mut ends = Ends::default();
        for seed in (from..runs).step_by(2) {
            let run = scenario.run(&rule, seed);
            until(&run);
            ends.promoted += u64::from(run.verdict.decision.is_promotion());
            ends.rolled_back += u64::from(run.verdict.decision == Decision::RollBack);
        }
        ends
    };
    let [a, b] = thread::scope(|s| [0, 1].map(|from| s.spawn(move || half(from))).map(|t| t.join().unwrap()));
    Ends { promoted: a.promoted + b.promoted, rolled_back: a.rolled_back + b.rolled_back }
}

/// `count` of `runs` does not contradict a probability of at most `alpha`.
fn assert_at_most(what: &str, count: u64, runs: u64, alpha: f64) {
    eprintln!("{what}: {count} of {runs}, declared {alpha:.4}");
    let most = Binomial::new(alpha, runs).unwrap().inverse_cdf(0.999);
    assert!(count <= most, "{what}: {count} of {runs} is more than chance allows ({most}) at a probability of {alpha}");
}

/// `count` of `runs` does not contradict a probability of at least `power`.
fn assert_at_least(what: &str, count: u64, runs: u64, power: f64) {
    eprintln!("{what}: {count} of {runs}, wanted {power}");
    let least = Binomial::new(power, runs).unwrap().inverse_cdf(0.001);
    assert!(count >= least, "{what}: {count} of {runs} is less than chance allows ({least}) at a power of {power}");
}

/// What of the rollback probability one step gets.
fn step_alpha(config: &Config) -> f64 {
    config.guarded.rollback_alpha / config.plan.comparisons() as f64
}

#[test]
fn an_equal_candidate_is_not_rolled_back() {
    let config = Config::default();
    let scenario = Scenario { requests_per_second: 60.0, ..Scenario::default() };
    let ends = simulate(&config, &scenario, RUNS, |_| {});
    assert_at_most("equal, rolled back", ends.rolled_back, RUNS, step_alpha(&config) + config.fast.alpha / 4.0);
    assert_at_least("equal, promoted", ends.promoted, RUNS, 0.8);
}

/// The worst of the acceptable candidates: exactly at the margin of the one metric that is compared.
fn at_the_margin(metric: Metric, candidate: Quality, scenario: &Scenario) {
    let guarded = Guarded { metrics: vec![metric], ..Guarded::default() };
    let config = Config { guarded, ..Config::default() };
    let scenario = Scenario { candidate, ..scenario.clone() };
    let ends = simulate(&config, &scenario, RUNS, |_| {});
    assert_at_most(&format!("{metric} at the margin, promoted"), ends.promoted, RUNS, config.guarded.promote_alpha);
    assert_at_most(&format!("{metric} at the margin, rolled back"), ends.rolled_back, RUNS, step_alpha(&config));
}

#[test]
fn p50_at_the_margin() {
    at_the_margin(Metric::P50, Quality { slowness: 1.1, ..Quality::default() }, &Scenario::default());
}

#[test]
fn p95_at_the_margin() {
    at_the_margin(Metric::P95, Quality { slowness: 1.1, ..Quality::default() }, &Scenario::default());
}

#[test]
fn p99_at_the_margin() {
    at_the_margin(Metric::P99, Quality { slowness: 1.2, ..Quality::default() }, &Scenario::default());
}

#[test]
fn errors_at_the_margin() {
    at_the_margin(Metric::Errors, Quality { error_rate: 0.003, ..Quality::default() }, &Scenario::default());
}

#[test]
fn throughput_at_the_margin() {
    at_the_margin(Metric::Throughput, Quality { throughput: 0.9, ..Quality::default() }, &Scenario::default());
}
