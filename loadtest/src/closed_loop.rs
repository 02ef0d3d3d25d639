//! Callers who wait for each answer before they ask again: how much is answered when nothing is ever late.
//!
//! Latencies of a closed loop say nothing about callers who do not wait: when answers get slow, fewer are asked for.

use std::time::{Duration, Instant};

use async_nats::Client;
use tokio::task::JoinSet;

use crate::{
    call::{Load, call},
    tally::{Done, Outcome, Tally},
};

/// Whoever is refused does not ask again at once.
const PAUSE: Duration = Duration::from_millis(10);

/// What so many callers got over `duration` after the load's warm-up.
pub async fn run(client: &Client, load: &Load, callers: usize, duration: Duration) -> Tally {
    let start = Instant::now();
    let end = load.warm_up + duration;
    let mut all = JoinSet::new();
    for caller in 0..callers {
        let (client, load) = (client.clone(), load.clone());
        all.spawn(async move {
            let mut calls = Vec::new();
            // Callers begin at different texts, so that not all ask the same.
            for n in (caller..).step_by(callers) {
                let due = start.elapsed();
                if due >= end {
                    break;
                }
                let asked = call(&client, load.subject.clone(), load.payload(n), load.timeout, Instant::now());
                let (latency, outcome) = asked.await;
                let answered = matches!(outcome, Outcome::Answered { .. });
                calls.push(Done { due, late: Duration::ZERO, latency, outcome });
                if !answered {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            calls
        });
    }
    let mut tally = Tally::new(load.warm_up, load.slo);
    all.join_all().await.iter().flatten().for_each(|done| tally.count(done));
    tally
}

/// Calls answered per second, with so many callers, over `duration` after the load's warm-up.
pub async fn capacity(client: &Client, load: &Load, callers: usize, duration: Duration) -> f64 {
    let tally = run(client, load, callers, duration).await;
    tally.total(|second| second.answered) as f64 / duration.as_secs_f64()
}
