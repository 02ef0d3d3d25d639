//! The error probabilities that the rule `guarded` declares, and its power, by simulation. Seeds are fixed, so the outcome is too.

use std::thread;

use embed_rollout::{
    Config, Decision, Finding, Metric, Rule,
    config::Guarded,
    simulation::{Disturbance, Quality, Run, Scenario},
    spending::Spending,
};
use statrs::distribution::{Binomial, DiscreteCDF};

const RUNS: u64 = 1_000;

/// What became of many runs.
#[derive(Debug, Default)]
struct Ends {
    promoted: u64,
    rolled_back: u64,
}

fn simulate(config: &Config, scenario: &Scenario, runs: u64, see: impl Fn(&Run) + Sync) -> Ends {
    let rule = Rule::new(config.clone()).unwrap();
    let half = |from: u64| {
        let mut ends = Ends::default();
        for seed in (from..runs).step_by(2) {
            let run = scenario.run(&rule, seed);
            see(&run);
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
    let config = Config { guarded: Guarded { resamples: 200, ..Guarded::default() }, ..Config::default() };
    let scenario = Scenario { requests_per_second: 60.0, ..Scenario::default() };
    let ends = simulate(&config, &scenario, RUNS, |_| {});
    assert_at_most("equal, rolled back", ends.rolled_back, RUNS, step_alpha(&config) + config.fast.alpha / 4.0);
    assert_at_least("equal, promoted", ends.promoted, RUNS, 0.8);
}

/// The worst of the acceptable candidates: exactly at the margin of the one metric that is compared.
fn at_the_margin(metric: Metric, candidate: Quality, requests_per_second: f64) {
    let guarded = Guarded { metrics: vec![metric], resamples: 200, ..Guarded::default() };
    let config = Config { guarded, ..Config::default() };
    let scenario = Scenario { requests_per_second, candidate, ..Scenario::default() };
    let ends = simulate(&config, &scenario, RUNS, |_| {});
    assert_at_most(&format!("{metric} at the margin, promoted"), ends.promoted, RUNS, config.guarded.promote_alpha);
    assert_at_most(&format!("{metric} at the margin, rolled back"), ends.rolled_back, RUNS, step_alpha(&config));
}

#[test]
fn p50_at_the_margin() {
    at_the_margin(Metric::P50, Quality { slowness: 1.1, ..Quality::default() }, 40.0);
}

#[test]
fn p95_at_the_margin() {
    at_the_margin(Metric::P95, Quality { slowness: 1.1, ..Quality::default() }, 40.0);
}

#[test]
fn p99_at_the_margin() {
    at_the_margin(Metric::P99, Quality { slowness: 1.2, ..Quality::default() }, 40.0);
}

#[test]
fn errors_at_the_margin() {
    at_the_margin(Metric::Errors, Quality { error_rate: 0.003, ..Quality::default() }, 60.0);
}

#[test]
fn throughput_at_the_margin() {
    at_the_margin(Metric::Throughput, Quality { throughput: 0.9, ..Quality::default() }, 40.0);
}

/// Promotions from half of the hold on, O'Brien-Fleming and Pocock: looking more often promotes no more of the bad ones.
#[test]
fn early_promotions_at_the_margin() {
    for promote_spending in [Spending::ObrienFleming, Spending::Pocock] {
        let metrics = vec![Metric::P50];
        let guarded = Guarded { metrics, resamples: 200, promote_from: 0.5, promote_spending, ..Guarded::default() };
        let config = Config { guarded, ..Config::default() };
        let candidate = Quality { slowness: 1.1, ..Quality::default() };
        let scenario = Scenario { requests_per_second: 30.0, candidate, ..Scenario::default() };
        let ends = simulate(&config, &scenario, RUNS / 2, |_| {});
        let what = format!("{promote_spending:?} from half of the hold on, promoted");
        assert_at_most(&what, ends.promoted, RUNS / 2, config.guarded.promote_alpha);

        // And a good one goes early.
        let scenario = Scenario { requests_per_second: 30.0, ..Scenario::default() };
        let early = std::sync::atomic::AtomicU64::new(0);
        let ends = simulate(&config, &scenario, 50, |run| {
            let early_one = run.verdict.decision.is_promotion() && run.windows < 360;
            early.fetch_add(u64::from(early_one), std::sync::atomic::Ordering::Relaxed);
        });
        assert_at_least("equal, promoted", ends.promoted, 50, 0.8);
        assert_at_least("equal, promoted early", early.into_inner(), 50, 0.5);
    }
}

/// Power at 25 % of 100 requests a second.
fn power(candidate: Quality, runs: u64, see: impl Fn(&Run) + Sync) -> Ends {
    let scenario = Scenario { candidate, ..Scenario::default() };
    simulate(&Config::default(), &scenario, runs, see)
}

fn blamed(run: &Run, metrics: &[Metric]) {
    if run.verdict.decision == Decision::RollBack {
        let failed = run.verdict.reasons.iter().filter(|r| r.finding == Finding::Fail);
        let failed: Vec<Metric> = failed.map(|r| r.metric).collect();
        assert!(failed.iter().any(|m| metrics.contains(m)), "{failed:?}: {}", run.verdict.sentence);
    }
}

#[test]
fn a_slower_candidate_is_rolled_back() {
    let slower = Quality { slowness: 1.2, ..Quality::default() };
    let ends = power(slower, 100, |run| blamed(run, &[Metric::P50, Metric::P95, Metric::Throughput]));
    assert_at_least("20 % slower, rolled back", ends.rolled_back, 100, 0.95);
    assert_eq!(ends.promoted, 0);
}

#[test]
fn a_slower_tail_is_rolled_back() {
    let slower = Quality { tail_slowness: 1.2, ..Quality::default() };
    let ends = power(slower, 100, |run| blamed(run, &[Metric::P95, Metric::P99]));
    assert_at_least("20 % slower tail, rolled back", ends.rolled_back, 100, 0.8);
    assert_eq!(ends.promoted, 0);
}

#[test]
fn more_errors_are_rolled_back() {
    let failing = Quality { error_rate: 0.006, ..Quality::default() };
    let ends = power(failing, 100, |run| blamed(run, &[Metric::Errors]));
    assert_at_least("0.5 points more errors, rolled back", ends.rolled_back, 100, 0.8);
    assert_eq!(ends.promoted, 0);
}

#[test]
fn a_slower_engine_is_rolled_back() {
    let slower = Quality { throughput: 0.75, ..Quality::default() };
    let ends = power(slower, 50, |run| blamed(run, &[Metric::Throughput]));
    assert_at_least("a quarter less throughput, rolled back", ends.rolled_back, 50, 0.9);
}

#[test]
fn an_error_spike_is_rolled_back_within_two_windows() {
    let spike = Quality { error_rate: 0.5, errors_from: 50, ..Quality::default() };
    let ends = power(spike, 100, |run| {
        blamed(run, &[Metric::Spike]);
        assert!(run.windows > 50, "before the spike, at {}", run.windows);
        assert!(run.windows <= 52, "only at window {}: {}", run.windows, run.verdict.sentence);
    });
    assert_eq!(ends.rolled_back, 100);
}

/// Everything at once: work that had been waiting at the baseline, late reports, and clocks that are off by as much as a lease.
#[test]
fn disturbed_evidence_is_read_rightly() {
    let rule = Rule::new(Config::default()).unwrap();
    let disturbance = Disturbance {
        backlog: [std::time::Duration::from_secs(600), std::time::Duration::ZERO],
        late: 0.05,
        clock: std::time::Duration::from_secs(30),
        naive: false,
    };
    let ends = |candidate: Quality, disturbance: &Disturbance| {
        let scenario = Scenario { candidate, ..Scenario::default() };
        let mut ends = Ends::default();
        for seed in 0..20 {
            let decision = scenario.run_disturbed(&rule, disturbance, seed).verdict.decision;
            ends.promoted += u64::from(decision.is_promotion());
            ends.rolled_back += u64::from(decision == Decision::RollBack);
        }
        ends
    };
    let equal = ends(Quality::default(), &disturbance);
    assert_at_least("equal, promoted", equal.promoted, 20, 0.8);
    assert_at_most("equal, rolled back", equal.rolled_back, 20, 0.02);
    let slower = Quality { slowness: 1.2, ..Quality::default() };
    assert_at_least("20 % slower, rolled back", ends(slower, &disturbance).rolled_back, 20, 0.9);
    // If all counted as it is reported, what had been waiting would hide that.
    let naive = Disturbance { naive: true, ..disturbance };
    assert_eq!(ends(Quality::default(), &naive).promoted, 0);
}
