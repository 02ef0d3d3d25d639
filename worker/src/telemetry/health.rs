//! Readiness: a worker is ready if it can answer itself, through the server, with a real inference.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Client;
use embed_schemas::{EmbedRequest, Format, Lane, metrics as names, subjects, wire::decode_outcome};
use metrics::gauge;
use tokio::sync::Mutex;

use crate::{
    intake::PullStatus,
    serving::{Activities, Lineup, Member, Pipeline, Variant},
};

/// A test that was passed is not repeated within this time, however often it is asked for.
const REUSE: Duration = Duration::from_secs(1);

/// What `/readyz` knows.
#[derive(Debug)]
pub struct Health {
    worker: String,
    client: Client,
    lineup: Lineup,
    activities: Activities,
    timeout: Duration,
    started: AtomicBool,
    stopping: AtomicBool,
    /// When the worker last passed.
    last: Mutex<Option<Instant>>,
}

/// The result of a self-test.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// What is missing, for a person. Empty if ready.
    pub reasons: Vec<String>,
    /// What does not keep the worker from serving, and yet is not as it should be.
    pub notes: Vec<String>,
}

impl Health {
    /// Health of a worker that is starting, and will serve these variants.
    pub fn new(worker: String, client: Client, lineup: Lineup, activities: Activities, timeout: Duration) -> Self {
        let (started, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { worker, client, lineup, activities, timeout, started, stopping, last: Mutex::new(None) }
    }

    /// From now on, everything that is needed is loaded.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// From now on not ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        gauge!(names::READY).set(0.0);
    }

    /// The variants.
    pub const fn lineup(&self) -> &Lineup {
        &self.lineup
    }

    /// Tests the worker: one call to itself for each variant that the configuration names and that is loaded, all the way
    /// through NATS and the engine.
    pub async fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness { reasons: vec!["the worker is stopping".to_owned()], notes: Vec::new() };
        }
        if !self.started.load(Ordering::Relaxed) {
            let mut reasons = vec!["the worker is starting".to_owned()];
            reasons.extend(self.activities.describe());
            return Readiness { reasons, notes: Vec::new() };
        }
        let notes = self.notes();
        let mut last = self.last.lock().await;
        if last.is_some_and(|when| when.elapsed() < REUSE) {
            return Readiness { reasons: Vec::new(), notes };
        }
        let mut reasons = Vec::new();
        for member in self.lineup.members().iter().filter(|member| member.required) {
            let variant = &member.served.variant;
            for puller in &member.pullers {
                match puller.status() {
                    PullStatus::Pulling => {}
                    PullStatus::Starting => reasons.push("jobs are not being pulled yet".to_owned()),
                    PullStatus::Failed(reason) => reasons.push(reason),
                }
            }
            // What is not loaded is loaded when somebody asks for it, and this is not somebody.
            if member.served.peek().is_some()
                && let Err(reason) = self.probe(variant).await
            {
                reasons.push(format!("{} {}: {reason}", variant.model, variant.name));
            }
        }
        let readiness = Readiness { reasons, notes };
        gauge!(names::READY).set(if readiness.reasons.is_empty() { 1.0 } else { 0.0 });
        *last = readiness.reasons.is_empty().then(Instant::now);
        readiness
    }

    /// Variants that do not run where they should.
    fn notes(&self) -> Vec<String> {
        let note = |pipeline: Arc<Pipeline>| {
            let running = &pipeline.version.running;
            let skipped = running.skipped.iter().map(|one| format!("not on {}: {}", one.provider, one.reason));
            let skipped = skipped.collect::<Vec<_>>().join("; ");
            let Variant { model, name, .. } = &*pipeline.variant;
            (!skipped.is_empty()).then(|| format!("{model} {name} runs on {}, {skipped}", running.provider))
        };
        let elsewhere = self.lineup.live().into_iter().filter_map(note);
        elsewhere.chain(self.activities.describe()).collect()
    }

    async fn probe(&self, variant: &Variant) -> Result<(), String> {
        let subject = subjects::probe(&self.worker, &variant.model, &variant.name);
        // An own inbox: the shared one would remember a request that is never answered.
        let request = async_nats::Request::new()
            .payload(Format::MessagePack.encode(&EmbedRequest::new(["ready?"])))
            .inbox(self.client.new_inbox())
            .timeout(Some(self.timeout));
        let answer = self.client.send_request(subject, request).await;
        let answer = answer.map_err(|e| format!("the worker's call to itself through NATS failed: {e}"))?;
        let outcome = decode_outcome(&answer.payload).map_err(|e| e.to_string())?;
        let result = outcome.into_result().map_err(|e| e.to_string())?;
        result.vector(0).map(|_| ()).map_err(|e| e.to_string())
    }

    /// How much is being worked on: for the log while the worker stops.
    pub fn texts_in_flight(&self) -> usize {
        let lanes =
            |member: &Arc<Member>| Lane::ALL.map(|lane| member.served.variant.in_flight(lane)).iter().sum::<usize>();
        self.lineup.members().iter().map(lanes).sum()
    }
}
