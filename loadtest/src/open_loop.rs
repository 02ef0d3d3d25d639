//! Online calls at a given rate, whatever the answers do.
//!
//! A latency counts from the moment at which the call was *meant* to leave. A generator that is held up, or that waited
//! for slow answers, would otherwise leave out just the calls that suffered most (coordinated omission).

use std::{
    collections::BTreeMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_nats::{Client, Request, RequestErrorKind};
use bytes::Bytes;
use embed_schemas::{Format, wire::decode_outcome};
use hdrhistogram::Histogram;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::pacing::Schedule;

/// Latencies are recorded in microseconds, up to this.
const LONGEST: Duration = Duration::from_secs(600);

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub subject: String,
    /// The payloads, in turn.
    pub payloads: Arc<[Bytes]>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Calls before this moment are made, but not counted.
    pub warm_up: Duration,
    /// Most calls under way; one that is due beyond it is counted as not sent.
    pub most_in_flight: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Tally {
    /// Latencies of answered calls, microseconds from the intended moment.
    pub latency: Histogram<u64>,
    /// Calls that were answered with vectors.
    pub answered: u64,
    /// Calls that were not, by error code, `timeout` or `no_responders`.
    pub errors: BTreeMap<String, u64>,
    /// Calls that were due, without those of the warm-up.
    pub due: u64,
    /// How late the generator itself was, microseconds.
    pub lateness: Histogram<u64>,
    /// From the first counted call being due to the last answer.
    pub took: Duration,
}

/// Runs a schedule to its end and waits for the last answer. `progress` hears of every call that is done.
///
/// # Errors
/// If the system refuses the pacing thread.
pub async fn run(client: Client, schedule: Schedule, load: Load, progress: impl Fn()) -> std::io::Result<Tally> {
    let (due, mut calls) = mpsc::unbounded_channel();
    let start = Instant::now();
    let (started, _ended) = oneshot::channel::<()>();
    // Timers of the runtime tick in milliseconds; a thread of its own sleeps to some 60 microseconds.
    thread::Builder::new().name("pacing".to_owned()).spawn(move || pace(schedule, start, &due, &started))?;

    let mut tally = Tally::new();
    let mut under_way = JoinSet::new();
    let mut next = 0;
    loop {
        tokio::select! {
            biased;
            Some(done) = under_way.join_next() => tally.count(done.expect("calls do not panic"), &progress),
            intended = calls.recv() => {
                let Some(intended) = intended else { break };
                let counted = intended - start >= load.warm_up;
                tally.due += u64::from(counted);
                if under_way.len() >= load.most_in_flight {
                    tally.count(Done { intended, counted, late: intended.elapsed(), outcome: Err("not_sent".to_owned()) }, &progress);
                    continue;
                }
                let payload = load.payloads[next % load.payloads.len()].clone();
                next += 1;
                under_way.spawn(call(client.clone(), load.subject.clone(), payload, load.timeout, intended, counted));
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        tally.count(done.expect("calls do not panic"), &progress);
    }
    tally.took = start.elapsed().saturating_sub(load.warm_up);
    Ok(tally)
}

fn pace(schedule: Schedule, start: Instant, due: &mpsc::UnboundedSender<Instant>, ended: &oneshot::Sender<()>) {
    for moment in schedule {
        let intended = start + moment;
        thread::sleep(intended.saturating_duration_since(Instant::now()));
        if ended.is_closed() || due.send(intended).is_err() {
            return;
        }
    }
}

struct Done {
    intended: Instant,
    counted: bool,
    late: Duration,
    outcome: Result<Duration, String>,
}

async fn call(
    client: Client,
    subject: String,
    payload: Bytes,
    timeout: Duration,
    intended: Instant,
    counted: bool,
) -> Done {
    let late = intended.elapsed();
    let answer = client.send_request(subject, Request::new().payload(payload).timeout(Some(timeout))).await;
    let latency = intended.elapsed();
    let outcome = match answer {
        Ok(message) => match decode_outcome(&message.payload).map(embed_schemas::Outcome::into_result) {
            Ok(Ok(result)) => match result.items.into_iter().find_map(|item| item.error) {
                None => Ok(latency),
                Some(error) => Err(error.code.to_string()),
            },
            Ok(Err(error)) => Err(error.code.to_string()),
            Err(_) => Err("not_an_answer".to_owned()),
        },
        Err(error) => Err(match error.kind() {
            RequestErrorKind::TimedOut => "timeout",
            RequestErrorKind::NoResponders => "no_responders",
            RequestErrorKind::MaxPayloadExceeded => "payload_too_large",
            _ => "connection",
        }
        .to_owned()),
    };
    Done { intended, counted, late, outcome }
}

impl Tally {
    fn new() -> Self {
        let histogram = || Histogram::new_with_max(LONGEST.as_micros() as u64, 3).expect("these bounds are valid");
        Self {
            latency: histogram(),
            answered: 0,
            errors: BTreeMap::new(),
            due: 0,
            lateness: histogram(),
            took: Duration::ZERO,
        }
    }

    fn count(&mut self, done: Done, progress: &impl Fn()) {
        progress();
        if !done.counted {
            return;
        }
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.lateness.saturating_record(micros(done.late));
        match done.outcome {
            Ok(latency) => {
                self.answered += 1;
                self.latency.saturating_record(micros(latency));
            }
            Err(code) => {
                // A call that failed was slow, not fast: leaving it out would make the rest look better.
                self.latency.saturating_record(micros(done.intended.elapsed()));
                *self.errors.entry(code).or_default() += 1;
            }
        }
    }
}

/// The payloads of calls with `per_call` texts each.
#[must_use]
pub fn payloads(texts: &[String], per_call: usize, format: Format) -> Arc<[Bytes]> {
    let mut turning = texts.iter().cycle();
    let calls = texts.len().div_ceil(per_call);
    let request = |_| embed_schemas::EmbedRequest::new(turning.by_ref().take(per_call).map(String::as_str));
    (0..calls).map(request).map(|request| format.encode(&request)).collect()
}
