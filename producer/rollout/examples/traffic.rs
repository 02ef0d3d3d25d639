//! What a step can decide, by traffic, share and hold: how often a candidate that is just as good is promoted by the rule `guarded` with its
//! defaults.
//!
//! `cargo run --release -p embed-rollout --example traffic` prints the table of the README.
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::{error::Error, time::Duration};

use embed_rollout::{
    Config,
    plan::Plan,
    power::{Traffic, power},
};

fn main() -> Result<(), Box<dyn Error>> {
    let holds = [10, 30, 120, 480];
    println!("| requests/s | step | {} |", holds.map(|minutes| format!("held {minutes} min")).join(" | "));
    println!("|---|---|{}", "---|".repeat(holds.len()));
    for requests_per_second in [1.0, 5.0, 20.0, 100.0, 500.0] {
        for percent in [5.0, 25.0, 50.0] {
            let mut cells = Vec::new();
            for minutes in holds {
                let hold = Duration::from_secs(60 * minutes);
                let config =
                    Config { plan: Plan { steps: vec![percent], hold, ..Plan::default() }, ..Config::default() };
                let traffic = Traffic { requests_per_second, batch: 4.0, error_rate: 0.001 };
                cells.push(format!("{:.0} %", 100.0 * power(&config, 0, traffic)?.promoted));
            }
            println!("| {requests_per_second} | {percent} % | {} |", cells.join(" | "));
        }
    }
    Ok(())
}
