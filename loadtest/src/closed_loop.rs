//! Callers that wait for each answer before they ask again: how much is answered when nothing is ever late.
//!
//! Only for finding out the capacity. Latencies of a closed loop say nothing about callers who do not wait.

use std::time::{Duration, Instant};

use async_nats::Client;
use tokio::task::JoinSet;

use crate::{
    call::{Load, call},
    tally::Outcome,
};

/// Calls answered per second, with so many callers, over `duration` after the load's warm-up.
pub async fn capacity(client: &Client, load: &Load, callers: usize, duration: Duration) -> f64 {
    let start = Instant::now();
    let end = load.warm_up + duration;
    let mut all = JoinSet::new();
    for caller in 0..callers {
        let (client, load) = (client.clone(), load.clone());
        all.spawn(async move {
            let mut answered = 0u32;
            // Callers begin at different texts, so that not all ask the same.
            for n in (caller..).step_by(callers) {
                let outcome =
                    call(&client, load.subject.clone(), load.payload(n), load.timeout, Instant::now()).await.1;
                let now = start.elapsed();
                answered += u32::from(matches!(outcome, Outcome::Answered(_)) && now >= load.warm_up && now < end);
                if now >= end {
                    break;
                }
                if !matches!(outcome, Outcome::Answered(_)) {
                    // Whoever is refused does not ask again at once.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            answered
        });
    }
    f64::from(all.join_all().await.into_iter().sum::<u32>()) / duration.as_secs_f64()
}
