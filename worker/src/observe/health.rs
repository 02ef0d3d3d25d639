//! Readiness: a worker is ready if it can answer itself, through the server, with a real inference.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::Client;
use embed_engine::model::Activities;
use embed_schemas::{
    EmbedRequest, Format, Lane, metrics as names,
    serving::{FailedVersion, VariantState, VariantStatus},
    subjects,
    wire::decode_outcome,
};
use futures::future::join_all;
use metrics::gauge;
use tokio::sync::Mutex;

use crate::{
    intake::PullStatus,
    metrics::SET_GAUGES,
    publish::StoreTrouble,
    serving::{ServedVariant, ServedVariants},
    variant::{Deployment, ServedVersion, Variant},
};

/// A test is not repeated within this time, however often it is asked for, and whoever asks while one runs waits for that one: a server that
/// is away costs each test its whole time-out.
const REUSE: Duration = Duration::from_secs(1);

/// What `/readyz` knows.
#[derive(Debug)]
pub struct Health {
    served: ServedVariants,
    trouble: StoreTrouble,
    activities: Activities,
    started: AtomicBool,
    stopping: AtomicBool,
    prober: Prober,
}

/// Asks the worker for vectors, through the server. Clones are the same.
#[derive(Debug, Clone)]
struct Prober {
    worker: String,
    client: Client,
    timeout: Duration,
    last: Arc<Mutex<Option<Tested>>>,
}

/// What became of variants that were to answer.
#[derive(Debug)]
struct Tested {
    of: Vec<String>,
    /// Why some did not.
    failed: Vec<String>,
    when: Instant,
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
    #[must_use]
    pub fn new(
        worker: String,
        client: Client,
        served: ServedVariants,
        trouble: StoreTrouble,
        activities: Activities,
        timeout: Duration,
    ) -> Self {
        let (started, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        let prober = Prober { worker, client, timeout, last: Arc::default() };
        Self { served, trouble, activities, started, stopping, prober }
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

    /// Tests the worker again and again, so that its metric is true though nobody asks.
    pub async fn keep_testing(&self) -> std::convert::Infallible {
        let mut ticks = tokio::time::interval(SET_GAUGES);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.readiness().await;
        }
    }

    /// Tests the worker: one call to itself for each variant that the configuration names and that is loaded, all the way
    /// through NATS and the engine.
    pub async fn readiness(&self) -> Readiness {
        let readiness = self.test().await;
        gauge!(names::READY).set(if readiness.reasons.is_empty() { 1.0 } else { 0.0 });
        readiness
    }

    async fn test(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness { reasons: vec!["the worker is stopping".to_owned()], notes: Vec::new() };
        }
        if !self.started.load(Ordering::Relaxed) {
            let mut reasons = vec!["the worker is starting".to_owned()];
            reasons.extend(self.activities.describe());
            return Readiness { reasons, notes: Vec::new() };
        }
        let notes = self.notes();
        let mut reasons = self.trouble.reasons();
        reasons.extend(self.unnamed(true));
        let required = self.served.all().into_iter().filter(|one| one.required);
        let (mut probes, mut failing) = (Vec::new(), Vec::new());
        for one in required {
            let variant = &one.deployment.variant;
            for intake in &one.jobs {
                match intake.status() {
                    PullStatus::Pulling => {}
                    PullStatus::Starting => reasons.push("jobs are not being pulled yet".to_owned()),
                    PullStatus::Failed(reason) if !reasons.contains(&reason) => reasons.push(reason),
                    PullStatus::Failed(_) => {}
                }
            }
            if let Some(pause) = one.deployment.pause() {
                failing.push(format!("{} {}: {}", variant.model, variant.name, pause.reason()));
            }
            if one.deployment.peek().is_some() {
                probes.push(Arc::clone(variant));
            } else if let Some(failed) =
                loading_again(one.deployment.status()).filter(|_| one.deployment.pause().is_none())
            {
                failing.push(format!(
                    "{} {}: loading, since version {} failed",
                    variant.model, variant.name, failed.version
                ));
            }
            // What else is not loaded is loaded when somebody asks for it, and this is not somebody.
        }
        reasons.extend(
            failing
                .into_iter()
                .filter(|one| !reasons.iter().any(|known| one.ends_with(known.as_str())))
                .collect::<Vec<_>>(),
        );
        // A task of its own: whoever asks may give up, and what is found is kept all the same.
        let failing = tokio::spawn(self.prober.clone().failing(probes, !reasons.is_empty())).await;
        reasons.extend(failing.unwrap_or_else(|error| vec![format!("the worker cannot test itself: {error}")]));
        Readiness { reasons, notes }
    }

    /// Variants that do not run where they should, and versions that do not run at all.
    pub(super) fn notes(&self) -> Vec<String> {
        let note = |(deployment, version): (Arc<Deployment>, Arc<ServedVersion>)| {
            let report = version.report();
            let skipped = report.skipped.iter().map(|one| format!("not on {}: {}", one.provider, one.reason));
            let on_one = |reason| format!("a call that is alone on one core as all others: {reason}");
            let behind = |reason| format!("calls wait for the runs before them: {reason}");
            let without = |reason| format!("without the worker's own operators: {reason}");
            let skipped = skipped.chain(report.spread_refused.as_ref().map(on_one));
            let skipped = skipped.chain(report.urgent_refused.as_ref().map(behind));
            let skipped = skipped.chain(report.kernels_refused.as_ref().map(without)).collect::<Vec<_>>().join("; ");
            let Variant { model, name, .. } = &*deployment.variant;
            (!skipped.is_empty()).then(|| format!("{model} {name} runs on {}, {skipped}", report.provider))
        };
        let elsewhere = self.served.live().into_iter().filter_map(note);
        elsewhere.chain(self.not_served()).chain(self.unnamed(false)).chain(self.activities.describe()).collect()
    }

    /// What is not served since it has no name yet, of what the worker is not ready without, or of the rest.
    fn unnamed(&self, required: bool) -> Vec<String> {
        let unnamed = self.served.unnamed().into_iter().filter(|one| one.required == required);
        unnamed.map(|one| one.to_string()).collect()
    }

    /// Versions that cannot be served, whether another is in their place or none. What the worker is not ready without is told elsewhere.
    fn not_served(&self) -> Vec<String> {
        let note = |one: Arc<ServedVariant>| {
            let VariantStatus { live, failed, .. } = one.deployment.status();
            let FailedVersion { version, reason, .. } = failed.filter(|_| live.is_some() || !one.required)?;
            let Variant { model, name, .. } = &*one.deployment.variant;
            let instead = live.map_or_else(String::new, |live| format!(" (version {} is)", live.version));
            Some(format!("{model} {name}: version {version} is not served{instead}: {reason}"))
        };
        self.served.all().into_iter().filter_map(note).collect()
    }

    /// How much is being worked on: for the log while the worker stops.
    pub fn texts_in_flight(&self) -> usize {
        let texts = |variant: &Variant| Lane::ALL.map(|lane| variant.admission.in_flight(lane)).iter().sum::<usize>();
        self.served.all().iter().map(|one| texts(&one.deployment.variant)).sum()
    }
}

impl Prober {
    /// Why some of these do not answer, as it is, or was within [`REUSE`]. `is_troubled`: something else is wrong, so that having passed
    /// tells nothing any more.
    async fn failing(self, variants: Vec<Arc<Variant>>, is_troubled: bool) -> Vec<String> {
        let of: Vec<String> = variants.iter().map(|variant| format!("{} {}", variant.model, variant.name)).collect();
        let mut last = self.last.lock().await;
        let holds = |tested: &&Tested| {
            tested.of == of && tested.when.elapsed() < REUSE && !(is_troubled && tested.failed.is_empty())
        };
        if let Some(tested) = last.as_ref().filter(holds) {
            return tested.failed.clone();
        }
        let answers = join_all(variants.iter().map(|variant| self.probe(variant))).await;
        let failed = of.iter().zip(answers).filter_map(|(name, answer)| Some(format!("{name}: {}", answer.err()?)));
        let failed: Vec<String> = failed.collect();
        *last = Some(Tested { failed: failed.clone(), of, when: Instant::now() });
        failed
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
}

/// The version that failed, where something is being loaded again; one that was evicted waits until somebody asks.
fn loading_again(status: VariantStatus) -> Option<FailedVersion> {
    status.failed.filter(|_| status.state == VariantState::Loading)
}
