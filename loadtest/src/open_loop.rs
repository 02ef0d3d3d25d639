//! Online calls at given moments, whatever the answers do.
//!
//! A latency counts from the moment at which the call was *meant* to leave. A generator that is held up, or that waited
//! for slow answers, would otherwise leave out just the calls that suffered most (coordinated omission).

use std::{
    thread,
    time::{Duration, Instant},
};

use async_nats::Client;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use crate::{
    call::{Load, call},
    tally::{Done, Outcome, Tally},
};

/// Runs a schedule to its end and waits for the last answer. `on_done` hears of every call that is done.
///
/// # Errors
/// If the system refuses the pacing thread.
pub async fn run(
    client: Client,
    schedule: impl Iterator<Item = Duration> + Send + 'static,
    load: Load,
    start: Instant,
    mut on_done: impl FnMut(&Done),
) -> std::io::Result<Tally> {
    let (due, mut calls) = mpsc::unbounded_channel();
    let (started, _ended) = oneshot::channel::<()>();
    // Timers of the runtime tick in milliseconds; a thread of its own sleeps to some 60 microseconds.
    thread::Builder::new().name("pacing".to_owned()).spawn(move || pace(schedule, start, &due, &started))?;

    let mut tally = Tally::new(load.warm_up, load.slo);
    let mut count = |done: &Done| {
        tally.count(done);
        on_done(done);
    };
    // Not tasks of their own: what wakes other threads for each call takes the time of the cores that the worker may share with us.
    let mut under_way = FuturesUnordered::new();
    let mut next = 0;
    loop {
        tokio::select! {
            biased;
            Some(done) = under_way.next() => count(&done),
            intended = calls.recv() => {
                let Some(intended) = intended else { break };
                let (due, late) = (intended - start, intended.elapsed());
                if under_way.len() >= load.most_in_flight {
                    // Nobody would have been answered sooner than one who waited in vain.
                    count(&Done { due, late, latency: load.timeout, outcome: Outcome::Failed("not_sent".to_owned()) });
                    continue;
                }
                let (client, subject, payload) = (client.clone(), load.subject.clone(), load.payload(next));
                next += 1;
                under_way.push(async move {
                    let late = intended.elapsed();
                    let (latency, outcome) = call(&client, subject, payload, load.timeout, intended).await;
                    Done { due, late, latency, outcome }
                });
            }
        }
    }
    while let Some(done) = under_way.next().await {
        count(&done);
    }
    Ok(tally)
}

fn pace(
    schedule: impl Iterator<Item = Duration>,
    start: Instant,
    due: &mpsc::UnboundedSender<Instant>,
    ended: &oneshot::Sender<()>,
) {
    for moment in schedule {
        let intended = start + moment;
        thread::sleep(intended.saturating_duration_since(Instant::now()));
        if ended.is_closed() || due.send(intended).is_err() {
            return;
        }
    }
}
