//! What the rule `guarded`, with its defaults, does with candidates of known quality, by traffic and step; and how often it is
//! wrong about the worst acceptable one, which is exactly at the margin of the one metric that is compared.
//!
//! `cargo run --release -p embed-rollout --example power [-- RUNS]` prints the tables of the README.
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::error::Error;

use embed_rollout::{
    Config, Decision, Metric, Rule,
    config::Guarded,
    simulation::{Quality, Scenario},
};

/// Rates of promotion and rollback in `runs` runs, and the median time until a rollback, in parentheses.
fn simulate(rule: &Rule, scenario: &Scenario, runs: u32) -> [String; 3] {
    let (mut promoted, mut times) = (0, Vec::new());
    for seed in 0..runs {
        let run = scenario.run(rule, u64::from(seed));
        match run.verdict.decision {
            Decision::RollBack => times.push(run.windows as u64 * rule.config().plan.window.as_secs()),
            decision => promoted += usize::from(decision.is_promotion()),
        }
    }
    times.sort_unstable();
    let percent = |n: usize| format!("{:.1} %", 100.0 * n as f64 / f64::from(runs));
    let median = times.get(times.len() / 2).map_or(String::new(), |s| format!(" ({}:{:02})", s / 60, s % 60));
    [percent(promoted), percent(times.len()), median]
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs: u32 = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let rule = Rule::new(Config::default())?;
    let plan = &rule.config().plan;
    println!("{runs} runs each; hold {} min, {} looks\n", plan.hold.as_secs() / 60, plan.looks);
    let equal = Quality::default();
    let candidates = [
        ("equal", equal),
        ("20 % slower", Quality { slowness: 1.2, ..equal }),
        ("20 % slower in the tail only", Quality { tail_slowness: 1.2, ..equal }),
        ("errors 0.1 % -> 0.6 %", Quality { error_rate: 0.006, ..equal }),
        ("twice as slow", Quality { slowness: 2.0, ..equal }),
        ("half of the requests fail from 10:00 on", Quality { error_rate: 0.5, errors_from: 120, ..equal }),
    ];
    println!("promoted / rolled back (median time until then); the rest paused\n");
    println!("| candidate | requests/s | step 5 % | 25 % | 50 % |");
    println!("|---|---|---|---|---|");
    for (name, candidate) in candidates {
        for requests_per_second in [20.0, 100.0, 500.0] {
            let cells = [5.0, 25.0, 50.0].map(|candidate_percent| {
                let scenario = Scenario { requests_per_second, candidate_percent, candidate, ..Scenario::default() };
                let [promoted, rolled_back, median] = simulate(&rule, &scenario, runs);
                format!("{promoted} / {rolled_back}{median}")
            });
            println!("| {name} | {requests_per_second} | {} |", cells.join(" | "));
        }
    }

    println!("\n{} runs each\n", 5 * runs);
    println!("\n| exactly at the margin of | requests/s | correlation | promoted | rolled back |");
    println!("|---|---|---|---|---|");
    let margins = [
        (Metric::P50, Quality { slowness: 1.1, ..equal }),
        (Metric::P95, Quality { slowness: 1.1, ..equal }),
        (Metric::P99, Quality { slowness: 1.2, ..equal }),
        (Metric::Errors, Quality { error_rate: 0.003, ..equal }),
        (Metric::Throughput, Quality { throughput: 0.9, ..equal }),
    ];
    for (metric, candidate) in margins {
        let guarded = Guarded { metrics: vec![metric], ..Guarded::default() };
        let rule = Rule::new(Config { guarded, ..Config::default() })?;
        for (requests_per_second, correlation) in [(100.0, 0.5), (500.0, 0.5), (100.0, 0.8)] {
            let scenario = Scenario { requests_per_second, correlation, candidate, ..Scenario::default() };
            let [promoted, rolled_back, ..] = simulate(&rule, &scenario, 5 * runs);
            println!("| {metric} | {requests_per_second} | {correlation} | {promoted} | {rolled_back} |");
        }
    }
    Ok(())
}
