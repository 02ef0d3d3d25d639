//! Hostile input on real processes: calls and jobs as no client library would send them, from raw sockets, with honest traffic beside them;
//! whether every job is accounted for, nobody dies of it, and nobody else is harmed.
//!
//! | module | does |
//! |---|---|
//! | `messages` | what is sent, from a seed |
//! | `sender` | sends it, and hears what becomes of it |
//! | `honest` | the traffic beside it, and how it fares |
//! | `account` | what was accepted against what was heard |
//! | `summary` | what it came to, as a report |

pub mod account;
mod honest;
pub mod messages;
pub mod sender;
mod summary;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use self::{
    account::{Fate, account},
    honest::Honest,
    messages::Kind,
    sender::{Heard, Progress, Sent, Volley},
};
pub use self::{honest::Fared, summary::fill};
use super::{
    collector::Collector,
    judge::{Judgement, judge},
    ledger::Ledger,
    references,
    stage::{PATIENCE, Setting, Stage},
    traffic::{self, Clients},
};
use crate::{
    end::End,
    memory::{self, Process},
};

/// How long honest traffic is alone, for comparison.
const ALONE: Duration = Duration::from_secs(8);
/// Between two lines about how far it is.
const TELL: Duration = Duration::from_secs(15);
/// If nothing has been done for so long, nothing will be.
const STALLED: Duration = Duration::from_secs(90);

/// Sends so many messages, until it is told to stop.
type Send = fn(&Volley, u64, &Progress, &AtomicBool) -> std::io::Result<Sent>;

/// What to do.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Decides on every message.
    pub seed: u64,
    /// Calls.
    pub calls: u64,
    /// Jobs.
    pub jobs: u64,
}

/// What was seen.
#[derive(Debug)]
pub struct Observed {
    /// What was sent, and what came back.
    pub sent: Sent,
    /// What became of the jobs.
    pub fates: BTreeMap<Kind, Fate>,
    /// The numbers of those of which nothing did.
    pub lost: Vec<u64>,
    /// Results that no worker has stored.
    pub forged: u64,
    /// Jobs that are left in their stream.
    pub left: u64,
    /// How honest calls fared alone, and with the others.
    pub honest: [Fared; 2],
    /// What became of honest jobs.
    pub judgement: Judgement,
    /// Workers that have ended, though nobody wanted them to.
    pub ended: usize,
    /// The workers' memory, from when the others began.
    pub processes: Vec<Process>,
    /// How long the others were there.
    pub length: Duration,
    /// What happened that nobody had planned.
    pub notes: Vec<String>,
}

/// Threads that send and listen. Told to end when dropped.
struct Threads {
    stop: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<std::io::Result<Sent>>>,
    listener: Option<JoinHandle<std::io::Result<Heard>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// Sends all of it, on a stack of its own. On the main thread: processes die with the one that started them. `say` hears what is going on.
///
/// # Errors
/// If the stack cannot be set up, or a connection cannot be had.
pub async fn run(setting: Setting, orders: &Orders, say: impl Fn(&str)) -> anyhow::Result<Observed> {
    let start = Instant::now();
    let mut stage = Stage::build(setting.clone(), start).await?;
    let mut jobs = embed_connect::jetstream(&stage.connect("embed-loadtest honest jobs").await?);
    jobs.set_timeout(traffic::PATIENCE);
    let mut clients = Clients {
        calls: stage.connect("embed-loadtest honest calls").await?,
        jobs,
        model: setting.model.clone(),
        run: format!("honest-{}", orders.seed),
        references: Arc::default(),
        ledger: Arc::new(Ledger::new(start)),
    };
    clients.references = Arc::new(references(&mut stage, &clients, orders.seed).await?);
    let context = embed_connect::jetstream(&stage.connect("embed-loadtest honest results").await?);
    let collector = Collector::start(context, setting.model.clone(), Arc::clone(&clients.references), start);

    say(&format!("honest traffic alone for {ALONE:?}"));
    let alone = Honest::begin(Clients { ledger: Arc::new(Ledger::new(start)), ..clients.clone() }, false);
    stage.wait(ALONE).await;
    let alone = alone.end(&mut stage).await;

    let found = stage.worker_ids().into_iter().map(Process::find).collect::<Result<Vec<_>, _>>();
    let processes = found.map_err(anyhow::Error::msg)?;
    let (begun, end) = (Instant::now(), End::when_called());
    let until = end.clone();
    let memory = tokio::spawn(async move { memory::watch(processes, begun, Duration::ZERO, &until).await });
    let beside = Honest::begin(clients.clone(), true);
    let volley = Volley { address: stage.address(), model: setting.model.clone(), seed: orders.seed };
    let progress = Arc::new(Progress::default());
    let mut threads = Threads::begin(&volley, orders, &progress)?;
    say(&format!("{} calls and {} jobs from raw sockets beside it", orders.calls, orders.jobs));
    let mut told = Instant::now();
    while !threads.senders.iter().all(JoinHandle::is_finished) {
        stage.pause().await;
        if told.elapsed() >= TELL {
            told = Instant::now();
            say(&summary::so_far(&progress, orders, begun.elapsed()));
        }
    }
    let beside = beside.end(&mut stage).await;
    let left = finish(&mut stage, &say).await;
    let length = begun.elapsed();
    end.call();
    let sent = threads.sent()?;
    let heard = threads.heard(&mut stage).await?;
    collector.catch_up(PATIENCE).await?;
    let (stored, dead) = collector.everything();
    // What others have stored and buried is not ours to judge.
    let is_ours = |id: &str| id.starts_with(&clients.run);
    let stored: Vec<_> = stored.into_iter().filter(|outcome| is_ours(&outcome.id)).collect();
    let dead: Vec<_> = dead.into_iter().filter(|letter| letter.id.as_deref().is_some_and(is_ours)).collect();
    let (fates, lost) = account(&setting.model, orders.seed, &sent.accepted, &heard);
    stage.keep_logs();
    Ok(Observed {
        sent,
        fates,
        lost,
        forged: heard.forged,
        left,
        honest: [alone, beside],
        judgement: judge(&clients.ledger.jobs(), &stored, &dead),
        ended: stage.ended_by_themselves(),
        processes: memory.await?,
        length,
        notes: stage.notes(),
    })
}

impl Threads {
    fn begin(volley: &Volley, orders: &Orders, progress: &Arc<Progress>) -> anyhow::Result<Self> {
        let (stop, is_over): (Arc<AtomicBool>, Arc<AtomicBool>) = (Arc::default(), Arc::default());
        let (ready, listens) = std::sync::mpsc::channel();
        let (own, over) = (volley.clone(), Arc::clone(&is_over));
        let listener = thread::Builder::new().name("hostile-listener".to_owned()).spawn(move || {
            sender::listen(&own, &over, || {
                // Nobody waits for it any more if it cannot be told.
                let _ = ready.send(());
            })
        })?;
        listens.recv_timeout(PATIENCE).context("results cannot be listened to")?;
        let mut senders = Vec::new();
        let work: [(&str, Send, u64); 2] =
            [("hostile-calls", sender::calls, orders.calls), ("hostile-jobs", sender::jobs, orders.jobs)];
        for (name, send, count) in work {
            let (own, progress, stop) = (volley.clone(), Arc::clone(progress), Arc::clone(&stop));
            let thread = thread::Builder::new().name(name.to_owned());
            senders.push(thread.spawn(move || send(&own, count, &progress, &stop))?);
        }
        Ok(Self { stop, is_over, senders, listener: Some(listener) })
    }

    /// What all of them have sent, once they have ended.
    fn sent(&mut self) -> anyhow::Result<Sent> {
        let mut all = Sent::default();
        for sender in self.senders.drain(..) {
            let sent = sender.join().map_err(|_| anyhow::anyhow!("a sender has panicked"))?;
            let Sent { calls, accepted, refused, unknown, closed } = sent.context("a raw connection")?;
            all.calls.extend(calls);
            all.accepted.extend(accepted);
            all.refused += refused;
            all.unknown += unknown;
            all.closed += closed;
        }
        Ok(all)
    }

    /// What was heard, once there is no more.
    async fn heard(&mut self, stage: &mut Stage) -> anyhow::Result<Heard> {
        self.is_over.store(true, Ordering::SeqCst);
        let listener = self.listener.take().context("it is asked once")?;
        while !listener.is_finished() {
            stage.pause().await;
        }
        let heard = listener.join().map_err(|_| anyhow::anyhow!("the listener has panicked"))?;
        heard.context("a raw connection")
    }
}

/// Lets everything that was accepted be done. How much is left in the stream when nothing is done any more.
async fn finish(stage: &mut Stage, say: &impl Fn(&str)) -> u64 {
    let (mut fewest, mut since, mut told) = (u64::MAX, Instant::now(), Instant::now());
    loop {
        let left = stage.backlog().await.unwrap_or(u64::MAX);
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        }
        if left == 0 || since.elapsed() > STALLED {
            return fewest;
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            say(&format!("{left} jobs are left"));
        }
        stage.pause().await;
    }
}
