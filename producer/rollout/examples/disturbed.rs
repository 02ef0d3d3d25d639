//! What the rule `guarded`, with its defaults, makes of evidence that is hard to read: work that had been waiting, reports that come late, and
//! workers whose clocks are wrong; and what became of it if everything counted as it is reported.
//!
//! `cargo run --release -p embed-rollout --example disturbed [-- RUNS]` prints the table of ARCHITECTURE.md.
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::{error::Error, time::Duration};

use embed_rollout::{
    Config, Decision, Rule,
    simulation::{Disturbance, Quality, Scenario},
};

fn main() -> Result<(), Box<dyn Error>> {
    let runs: u32 = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let rule = Rule::new(Config::default())?;
    let (none, minutes) = (Disturbance::default(), |n: u64| Duration::from_secs(60 * n));
    let backlog = [minutes(10), Duration::ZERO];
    let all = Disturbance { backlog, late: 0.05, clock: Duration::from_secs(30), naive: false };
    let disturbances = [
        ("none", none),
        ("10 min of backlog at the baseline", Disturbance { backlog, ..none }),
        ("10 min of backlog at both", Disturbance { backlog: [minutes(10); 2], ..none }),
        ("one report of 20 up to a minute late", Disturbance { late: 0.05, ..none }),
        ("clocks up to 30 s off", Disturbance { clock: Duration::from_secs(30), ..none }),
        ("backlog at the baseline, late reports, clocks", all),
    ];
    let equal = Quality::default();
    let candidates = [
        ("equal", equal),
        ("20 % slower", Quality { slowness: 1.2, ..equal }),
        ("errors 0.1 % -> 0.6 %", Quality { error_rate: 0.006, ..equal }),
    ];
    println!("promoted / rolled back of {runs} runs at 25 % of 100 requests/s; the rest paused\n");
    println!("| disturbance | counted | {} |", candidates.map(|(name, _)| name).join(" | "));
    println!("|---|---|---|---|---|");
    for (name, disturbance) in disturbances {
        for (counted, naive) in [("since the step began, by the server's time", false), ("as reported", true)] {
            let disturbance = Disturbance { naive, ..disturbance };
            let cells = candidates.map(|(_, candidate)| {
                let scenario = Scenario { candidate, ..Scenario::default() };
                let (mut promoted, mut back) = (0, 0);
                for seed in 0..runs {
                    match scenario.run_disturbed(&rule, &disturbance, u64::from(seed)).verdict.decision {
                        Decision::RollBack => back += 1,
                        decision => promoted += u32::from(decision.is_promotion()),
                    }
                }
                let percent = |n: u32| format!("{:.1} %", 100.0 * f64::from(n) / f64::from(runs));
                format!("{} / {}", percent(promoted), percent(back))
            });
            println!("| {name} | {counted} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}
