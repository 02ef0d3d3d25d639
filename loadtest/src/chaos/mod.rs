//! Faults on real processes, under load of all lanes, from a seed; and whether every job that was accepted is stored, once.
//!
//! | module | does |
//! |---|---|
//! | `kinds`, `act` | which faults there are, and what they are made of: a table |
//! | `plan` | which come when, from a seed |
//! | `stage` | the stack: servers, relays, workers, a registry; does what faults are made of |
//! | `traffic`, `ledger` | clients of all lanes, and what they did and saw |
//! | `vectors`, `collector` | the right vectors, and what is stored |
//! | `recovery` | how long it takes until everything works again |
//! | `judge` | what was accepted against what is stored |
//! | `summary` | what it came to, as a report |
//! | `hostile` | instead of faults: input as no client library would send it |

pub mod act;
pub mod collector;
pub mod hostile;
pub mod judge;
pub mod kinds;
pub mod ledger;
pub mod plan;
pub mod recovery;
pub mod stage;
mod summary;
pub mod traffic;
pub mod vectors;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use embed_schemas::{EmbedRequest, Format, Lane, subjects, wire::decode_outcome};
use serde::Serialize;

use self::{
    collector::Collector,
    judge::{Judgement, judge},
    kinds::Kind,
    ledger::{Ledger, Seen},
    plan::{Fault, Plan, Step},
    recovery::Recovery,
    stage::{Beside, PATIENCE, Stage},
    traffic::{Clients, RATES},
    vectors::References,
};
pub use self::{stage::Setting, summary::fill};
use crate::{end::End, texts};

/// Texts whose vectors are known.
const TEXTS: usize = 400;
/// Texts in one call for them.
const TEXTS_PER_CALL: usize = 16;
/// Before the first fault.
const WARM_UP: Duration = Duration::from_secs(3);
/// Within which everything must work again, besides a few ack waits. A machine may be slow and busy.
const RECOVERY: Duration = Duration::from_secs(120);
/// In ack waits.
const REDELIVERIES: u32 = 4;

/// What to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Decides on everything that is random.
    pub seed: u64,
    /// No fault begins after this.
    pub duration: Option<Duration>,
    /// No more faults than this.
    pub faults: Option<usize>,
    /// The kinds to choose from.
    pub kinds: Vec<&'static Kind>,
    /// How many times the usual load.
    pub load: f64,
}

/// A fault, or two that overlapped, as it went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    /// What was done.
    pub fault: Fault,
    /// What was done beside it.
    pub beside: Option<Fault>,
    /// Seconds from the start of the run.
    pub began: f64,
    /// The same.
    pub ended: f64,
    /// Why it, or part of it, could not be done.
    pub problem: Option<String>,
    /// How everything came back.
    pub recovery: Recovery,
}

impl Played {
    /// The kind, or both.
    #[must_use]
    pub fn name(&self) -> String {
        let beside = self.beside.map(|fault| format!(" + {}", fault.kind.name));
        self.fault.kind.name.to_owned() + &beside.unwrap_or_default()
    }
}

/// What was seen.
#[derive(Debug)]
pub struct Observed {
    /// The faults.
    pub played: Vec<Played>,
    /// What became of the jobs.
    pub judgement: Judgement,
    /// What clients saw.
    pub seen: Seen,
    /// When outcomes were stored, seconds from the start.
    pub stored: Vec<f64>,
    /// What happened that nobody had planned.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a kind cannot be had with this setting on this machine; `None` if it can.
#[must_use]
pub fn lacks(kind: &Kind, setting: &Setting) -> Option<&'static str> {
    Stage::lacks(kind.needs, setting)
}

/// Plays faults, on the calling thread: processes die with the thread that started them. `say` hears what is going on.
///
/// # Errors
/// If the stack cannot be set up, or what is stored cannot be read.
pub async fn run(setting: Setting, orders: &Orders, say: impl Fn(&str)) -> anyhow::Result<Observed> {
    let start = Instant::now();
    let ack_wait = setting.ack_wait;
    say(&format!("{} servers, {} workers", setting.servers, setting.workers));
    let mut stage = Stage::build(setting.clone(), start).await?;
    let calls = stage.connect("embed-loadtest chaos calls").await?;
    let mut jobs = embed_connect::jetstream(&stage.connect("embed-loadtest chaos jobs").await?);
    jobs.set_timeout(traffic::PATIENCE);
    let mut clients = Clients {
        calls,
        jobs,
        model: setting.model.clone(),
        run: format!("chaos-{}", orders.seed),
        references: Arc::default(),
        ledger: Arc::new(Ledger::new(start)),
    };
    clients.references = Arc::new(references(&mut stage, &clients, orders.seed).await?);
    let context = embed_connect::jetstream(&stage.connect("embed-loadtest chaos results").await?);
    let collector = Collector::start(context, setting.model, Arc::clone(&clients.references), start);

    let end = End::when_called();
    let traffic = tokio::spawn(clients.clone().run(RATES.times(orders.load), end.clone()));
    stage.wait(WARM_UP).await;
    let mut played: Vec<Played> = Vec::new();
    let begun = Instant::now();
    for step in Plan::new(orders.seed, &orders.kinds, ack_wait) {
        let is_late = orders.duration.is_some_and(|duration| begun.elapsed() >= duration);
        if is_late || orders.faults.is_some_and(|faults| played.len() >= faults) {
            break;
        }
        stage.wait(step.calm).await;
        played.push(play(&mut stage, &step, &clients, &collector, ack_wait, &say).await);
    }
    end.call();
    finish(&mut stage, traffic, ack_wait, &say).await;
    let times = collector.times();
    collector.read_again(PATIENCE).await?;
    let (stored, dead) = collector.everything();
    stage.keep_logs();
    Ok(Observed {
        played,
        judgement: judge(&clients.ledger.jobs(), &stored, &dead),
        seen: clients.ledger.seen(),
        stored: times,
        notes: stage.notes(),
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Lets everything that was accepted be done, for as long as anything may take.
async fn finish(stage: &mut Stage, traffic: tokio::task::JoinHandle<()>, ack_wait: Duration, say: &impl Fn(&str)) {
    while !traffic.is_finished() {
        stage.pause().await;
    }
    let (begun, longest) = (Instant::now(), RECOVERY + ack_wait * REDELIVERIES);
    loop {
        let left = stage.backlog().await;
        if left.as_ref().is_ok_and(|left| *left == 0) {
            return say("all jobs are done");
        }
        if begun.elapsed() > longest {
            let left = left.map_or_else(|error| error.to_string(), |left| left.to_string());
            stage.note(&format!("{left} jobs are left {longest:?} after the last fault"));
            return;
        }
        stage.pause().await;
    }
}

/// Takes the vectors of texts, from workers that nothing has happened to.
pub(crate) async fn references(stage: &mut Stage, clients: &Clients, seed: u64) -> anyhow::Result<References> {
    let texts: Vec<String> = texts::load(None, seed)?.into_iter().take(TEXTS).collect();
    let subject = subjects::bare(Lane::Rpc, &clients.model);
    let begun = Instant::now();
    let mut all = Vec::new();
    for some in texts.chunks(TEXTS_PER_CALL) {
        let payload = Format::MessagePack.encode(&EmbedRequest::new(some));
        let result = loop {
            let answer = clients.calls.request(subject.clone(), payload.clone()).await.map_err(anyhow::Error::new);
            let answer = answer.and_then(|answer| Ok(decode_outcome(&answer.payload)?.into_result()?));
            match answer {
                Ok(result) => break result,
                Err(error) => anyhow::ensure!(begun.elapsed() < PATIENCE, "no worker answers: {error}"),
            }
            stage.pause().await;
        };
        for (row, text) in some.iter().enumerate() {
            all.push((text.clone(), result.vector(row)?));
        }
    }
    let references = References::new(all);
    anyhow::ensure!(references.len() >= TEXTS / 2, "of {TEXTS} texts, only {} can be told apart", references.len());
    Ok(references)
}

/// Lets a fault begin and end, perhaps with another in between, and waits until everything works again.
async fn play(
    stage: &mut Stage,
    step: &Step,
    clients: &Clients,
    collector: &Arc<Collector>,
    ack_wait: Duration,
    say: &impl Fn(&str),
) -> Played {
    let now = || clients.ledger.now();
    let beside = Beside { clients, collector };
    let mut played = Played {
        fault: step.fault,
        beside: step.beside,
        began: now(),
        ended: 0.0,
        problem: None,
        recovery: Recovery::default(),
    };
    say(&format!("{:7.1} s  {} for {} s", now(), played.name(), step.fault.lasts));
    let (outer, inner) = step.nested();
    let seconds = Duration::from_secs_f64;
    let mut problems = Vec::new();
    problems.extend(perform(stage, &outer, outer.kind.begin, &beside).await);
    match inner {
        Some(inner) => {
            let before = outer.lasts / 2.0;
            stage.wait(seconds(before)).await;
            problems.extend(perform(stage, &inner, inner.kind.begin, &beside).await);
            stage.wait(seconds(inner.lasts)).await;
            problems.extend(perform(stage, &inner, inner.kind.end, &beside).await);
            stage.wait(seconds((before - inner.lasts).max(0.0))).await;
        }
        None => stage.wait(seconds(outer.lasts)).await,
    }
    problems.extend(perform(stage, &outer, outer.kind.end, &beside).await);
    for fault in [Some(outer), inner].into_iter().flatten() {
        problems.extend(perform(stage, &fault, fault.kind.after, &beside).await);
    }
    played.ended = now();
    played.problem = (!problems.is_empty()).then(|| problems.join("; "));
    let watching =
        tokio::spawn(recovery::watch(clients.clone(), Arc::clone(collector), RECOVERY + ack_wait * REDELIVERIES));
    while !watching.is_finished() {
        stage.pause().await;
    }
    played.recovery = watching.await.unwrap_or_default();
    say(&format!("{:7.1} s    {}", now(), summary::told(&played)));
    played
}

/// What could not be done, if anything: what follows is done all the same, so that the stack is whole again.
async fn perform(stage: &mut Stage, fault: &Fault, acts: &[act::Act], beside: &Beside<'_>) -> Option<String> {
    let mut problem = None;
    for act in acts {
        if let Err(error) = stage.perform(*act, fault.target, beside).await {
            problem.get_or_insert(format!("{}: {error:#}", fault.kind.name));
        }
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::{kinds::Needs, *};

    #[test]
    fn kinds_that_a_setting_does_not_have_say_why() {
        let setting = Setting {
            registry: "s3://bucket".into(),
            model: "m".parse().unwrap(),
            servers: 1,
            workers: 1,
            ack_wait: Duration::from_secs(1),
            programs: "/".into(),
            logs: None,
        };
        assert_eq!(Stage::lacks(Needs::Nothing, &setting), None);
        assert!(Stage::lacks(Needs::Cluster, &setting).unwrap().contains("--servers 3"));
        assert!(Stage::lacks(Needs::Registry, &setting).is_some());
    }
}
