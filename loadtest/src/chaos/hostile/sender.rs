//! Those who send, each on a thread and a raw connection of its own, and one who listens to what becomes of it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_nats::header::HeaderBlock;
use embed_schemas::{Lane, Slug, headers, subjects, wire::decode_outcome};
use embed_testkit::{RawClient, RawMessage};
use serde::{Deserialize, de::IgnoredAny};

use super::messages::{Hostile, Kind, hostile};

/// Messages whose answers have not come; beyond it, one waits for one.
const WINDOW: usize = 256;
/// What has no answer by then has none: longer than a worker keeps a call waiting.
const PATIENCE: Duration = Duration::from_secs(20);
/// With nothing to hear for so long, what was under way has come.
const QUIET: Duration = Duration::from_secs(1);
/// One of so many jobs goes to the bulk lane.
const BULK: u64 = 8;
/// The id that a forged result would have.
const FORGED: &str = "hostile-forged";

/// Who sends, and how far they are.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) calls: AtomicU64,
    pub(super) jobs: AtomicU64,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Volley {
    pub(super) address: String,
    pub(super) model: Slug,
    pub(super) seed: u64,
}

/// What came of calls of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calls {
    /// That should have had an answer, since one was wanted where it was heard.
    pub sent: u64,
    /// That had none.
    pub unanswered: u64,
    /// Answers by what they say: `result`, or an error's code.
    pub answers: BTreeMap<String, u64>,
}

/// What was sent, and what came back.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    /// Calls, by kind.
    pub calls: BTreeMap<Kind, Calls>,
    /// Jobs that were stored: which of the seed's, and under which sequence.
    pub accepted: Vec<(u64, u64)>,
    /// Jobs that the server refused, or had already.
    pub refused: u64,
    /// Jobs of which nobody knows.
    pub unknown: u64,
    /// Connections that the server has closed, as it may.
    pub closed: u64,
}

/// What was heard of outcomes and dead letters.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Ids under which an outcome was stored.
    pub ids: HashSet<String>,
    /// Sequences of jobs that are dead letters.
    pub dead: HashSet<u64>,
    /// Results that no worker has stored.
    pub forged: u64,
}

/// The n-th job, and its lane.
pub(super) fn job(model: &Slug, seed: u64, n: u64) -> Hostile {
    hostile(model, if n.is_multiple_of(BULK) { Lane::Bulk } else { Lane::Job }, seed, n)
}

/// A connection, and what was sent on it and has no answer yet.
struct Line<'a> {
    address: &'a str,
    inbox: &'static str,
    raw: RawClient,
    waiting: HashMap<u64, Kind>,
}

impl<'a> Line<'a> {
    fn open(address: &'a str, inbox: &'static str) -> io::Result<Self> {
        let mut raw = RawClient::connect(address)?;
        raw.subscribe(&format!("{inbox}.>"), 1)?;
        Ok(Self { address, inbox, raw, waiting: HashMap::new() })
    }

    fn send(&mut self, message: &Hostile, reply: &[u8]) -> io::Result<()> {
        self.raw.publish(message.subject.as_bytes(), Some(reply), message.headers.as_deref(), &message.payload)
    }

    /// Waits until at most so many wait, and gives each answer away. `Ok(false)`: there are no more answers.
    fn drain(&mut self, most: usize, mut answered: impl FnMut(u64, Kind, &RawMessage)) -> io::Result<bool> {
        while self.waiting.len() > most {
            let Some(message) = self.raw.next(PATIENCE)? else { return Ok(false) };
            let number = message.subject.strip_prefix(self.inbox.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
            let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            if let Some((number, kind)) = number.and_then(|number| Some((number, self.waiting.remove(&number)?))) {
                answered(number, kind, &message);
            }
        }
        Ok(true)
    }

    /// What waits has no answer.
    fn give_up(&mut self) -> impl Iterator<Item = (u64, Kind)> {
        std::mem::take(&mut self.waiting).into_iter()
    }

    fn reopen(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        *self = Self { waiting, ..Self::open(self.address, self.inbox)? };
        Ok(())
    }
}

/// Makes so many calls.
pub(super) fn calls(volley: &Volley, count: u64, progress: &Progress, stop: &AtomicBool) -> io::Result<Sent> {
    let mut line = Line::open(&volley.address, "_INBOX.hostile")?;
    let mut sent = Sent::default();
    let to_worker = subjects::bare(Lane::Rpc, &volley.model);
    for n in 0..=count {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        progress.calls.store(n, Ordering::Relaxed);
        let mut answered = |_, kind, message: &RawMessage| {
            let tally = sent.calls.entry(kind).or_default();
            match said(message) {
                Some(said) => *tally.answers.entry(said).or_default() += 1,
                None => tally.unanswered += 1,
            }
        };
        let mut step = line.drain(if n == count { 0 } else { WINDOW }, &mut answered);
        if n < count && step.as_ref().is_ok_and(|more| *more) {
            let message = hostile(&volley.model, Lane::Rpc, volley.seed, n);
            let own = format!("_INBOX.hostile.{n}").into_bytes();
            if message.reply.is_none() && message.subject == to_worker {
                line.waiting.insert(n, message.kind);
                sent.calls.entry(message.kind).or_default().sent += 1;
            }
            step = line.send(&message, message.reply.as_deref().unwrap_or(&own)).map(|()| true);
        }
        if !step.as_ref().is_ok_and(|more| *more) {
            for (_, kind) in line.give_up() {
                sent.calls.entry(kind).or_default().unanswered += 1;
            }
        }
        if step.is_err() {
            sent.closed += 1;
            line.reopen()?;
        }
    }
    Ok(sent)
}

/// What an answer says. `None`: that there is nobody.
fn said(message: &RawMessage) -> Option<String> {
    if message.payload.is_empty() {
        return None;
    }
    Some(match decode_outcome(&message.payload) {
        Ok(outcome) => outcome.into_result().map_or_else(|error| error.code.to_string(), |_| "result".to_owned()),
        Err(_) => "no outcome".to_owned(),
    })
}

/// How a server acknowledges what it has stored.
#[derive(Deserialize)]
struct Ack {
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    /// A refusal has a sequence as well.
    error: Option<IgnoredAny>,
}

/// Publishes so many jobs.
pub(super) fn jobs(volley: &Volley, count: u64, progress: &Progress, stop: &AtomicBool) -> io::Result<Sent> {
    let mut line = Line::open(&volley.address, "_INBOX.hostile-acks")?;
    let mut sent = Sent::default();
    for n in 0..=count {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        progress.jobs.store(n, Ordering::Relaxed);
        let mut answered = |n, _, message: &RawMessage| match serde_json::from_slice(&message.payload) {
            Ok(Ack { seq, duplicate: false, error: None }) => sent.accepted.push((n, seq)),
            _ => sent.refused += 1,
        };
        let mut step = line.drain(if n == count { 0 } else { WINDOW }, &mut answered);
        if n < count && step.as_ref().is_ok_and(|more| *more) {
            let message = job(&volley.model, volley.seed, n);
            line.waiting.insert(n, message.kind);
            step = line.send(&message, format!("_INBOX.hostile-acks.{n}").as_bytes()).map(|()| true);
        }
        if !step.as_ref().is_ok_and(|more| *more) {
            sent.unknown += line.give_up().count() as u64;
        }
        if step.is_err() {
            sent.closed += 1;
            line.reopen()?;
        }
    }
    Ok(sent)
}

/// Listens to outcomes and dead letters until it is told that there will be no more, and nothing more has come for a moment. Says when it
/// begins.
pub(super) fn listen(volley: &Volley, stop: &AtomicBool, begun: impl FnOnce()) -> io::Result<Heard> {
    let mut raw = RawClient::connect(&volley.address)?;
    raw.subscribe(&subjects::results(&volley.model), 1)?;
    raw.subscribe("embed.dead.>", 2)?;
    raw.flush()?;
    begun();
    let mut heard = Heard::default();
    loop {
        let is_last = stop.load(Ordering::SeqCst);
        match raw.next(QUIET)? {
            Some(message) => heard.take(&message),
            None if is_last => return Ok(heard),
            None => {}
        }
    }
}

impl Heard {
    fn take(&mut self, message: &RawMessage) {
        if message.sid == 2 {
            let block = HeaderBlock::parse(&message.headers);
            let sequence =
                block.headers.get(headers::DEAD_SEQUENCE).and_then(|value| value.as_str().parse::<u64>().ok());
            self.dead.extend(sequence);
            return;
        }
        let subject = String::from_utf8_lossy(&message.subject);
        let Some(id) = subject.rsplit('.').next() else { return };
        if id == FORGED {
            self.forged += 1;
        }
        self.ids.insert(id.to_owned());
    }
}
