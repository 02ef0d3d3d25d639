//! A request on its way through the pipeline: what was asked, and what has been computed so far.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use embed_schemas::{ErrorCode, Item, Lane, Timing, WireError, trace::TraceContext};
use parking_lot::Mutex;

use super::observer::Observer;
use crate::{
    batch::{BatchQueue, Entry, Owner},
    engine::{EngineError, Vectors},
    runner::{RunStats, Work},
    tokenize::{Outcome, Sink, Tokens},
};

/// Who sent a request. What each has waiting in a lane is served in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Tells it apart from others.
    pub key: u64,
    /// Whether it has never been served before: all such have one share together.
    pub newcomer: bool,
}

/// What is asked of a pipeline.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its priority.
    pub lane: Lane,
    /// Who sent it. `None`: a sender of its own.
    pub sender: Option<Sender>,
    /// The texts.
    pub texts: Vec<String>,
    /// Put before every text.
    pub prompt: Option<Arc<str>>,
    /// Whether texts that are too long are cut; else that is an error of the text.
    pub truncate: bool,
    /// When it came: what its timing counts from.
    pub received: Instant,
    /// After this moment nobody needs it.
    pub deadline: Option<Instant>,
    /// Whether no other text may be in an engine of this pipeline at the same time, since this one may do harm.
    pub alone: bool,
    /// Whether its time in the engine is to be compared with that of another run: then it is computed as all are, and not by several cores.
    pub compared: bool,
    /// Whether it is the worker's own, and tells nothing of who else comes: while others call, runs are short.
    pub probe: bool,
    /// Set when the first of its texts is given to an engine.
    pub begun: Arc<AtomicBool>,
    /// The span that it is, if it is recorded: then it is told when what happened to it, see [`Embedded::stages`].
    pub trace: Option<TraceContext>,
}

impl Request {
    /// An online request for these texts, with nothing else said, that came now.
    pub fn new(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            lane: Lane::Rpc,
            sender: None,
            texts: texts.into_iter().map(Into::into).collect(),
            prompt: None,
            truncate: true,
            received: Instant::now(),
            deadline: None,
            alone: false,
            compared: false,
            probe: false,
            begun: Arc::default(),
            trace: None,
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub struct Embedded {
    /// What became of its texts, in their order.
    pub texts: Vec<EmbeddedText>,
    /// How long the steps took, and the largest batch that one of its texts was in. `total_us` is left to whoever sends the answer.
    pub timing: Timing,
    /// When what happened, if the request is recorded.
    pub stages: Option<Box<Stages>>,
}

/// When what happened to a request.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// When the last of its texts was tokenized.
    pub tokenized: Option<Instant>,
    /// The first of the runs that its texts were in, up to [`Stages::MOST_RUNS`].
    pub runs: Vec<RunOf>,
}

impl Stages {
    /// Runs of a request that are told of.
    pub const MOST_RUNS: usize = 32;

    /// One of the texts was in a run, for which it had waited since then.
    fn ran(&mut self, since: Instant, stats: &RunStats) {
        let RunStats { number, started, took, texts, .. } = *stats;
        let has_room = self.runs.len() < Self::MOST_RUNS;
        match self.runs.iter_mut().find(|run| run.number == number) {
            Some(run) => (run.since, run.own) = (run.since.min(since), run.own + 1),
            None if has_room => {
                self.runs.push(RunOf { number, since, started, took, texts, own: 1 });
            }
            None => {}
        }
    }
}

/// A run that texts of a request were in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOf {
    /// Which run.
    pub number: u64,
    /// Since when the first of the texts waited for it.
    pub since: Instant,
    /// When it began.
    pub started: Instant,
    /// How long it took.
    pub took: Duration,
    /// Texts in it, of all requests.
    pub texts: usize,
    /// Of these, the request's.
    pub own: usize,
}

/// What became of a text.
#[derive(Debug, Default)]
pub struct EmbeddedText {
    /// Its tokens, whether it was cut, or why it failed.
    pub item: Item,
    vector: Option<(Vectors, usize)>,
}

impl EmbeddedText {
    /// The text's vector of `dimension` components, if it has one.
    #[must_use]
    pub fn vector(&self, dimension: usize) -> Option<&[f32]> {
        let (batch, row) = self.vector.as_ref()?;
        batch.get(row * dimension..(row + 1) * dimension)
    }
}

/// Gets what became of a request. Dropped without being called if the pipeline ends before: what it holds can tell.
type Done = Box<dyn FnOnce(Embedded) + Send>;

/// Tells requests apart, in the order in which they come.
static NEXT_REQUEST: AtomicU64 = AtomicU64::new(0);

/// A request that is being worked on. Shared by its texts; when the last of them is done, `done` is called.
pub(super) struct Pending {
    lane: Lane,
    received: Instant,
    deadline: Option<Instant>,
    owner: Owner,
    /// A number of its own if nothing may run beside it.
    alone: Option<u64>,
    compared: bool,
    probe: bool,
    begun: Arc<AtomicBool>,
    trace: Option<TraceContext>,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
}

struct State {
    texts: Vec<EmbeddedText>,
    remaining: usize,
    timing: Timing,
    stages: Option<Box<Stages>>,
    done: Option<Done>,
}

impl Pending {
    pub(super) fn new(request: &Request, observer: Arc<dyn Observer>, done: Done) -> Arc<Self> {
        let remaining = request.texts.len();
        let texts = (0..remaining).map(|_| EmbeddedText::default()).collect();
        let number = NEXT_REQUEST.fetch_add(1, Ordering::Relaxed);
        let Sender { key, newcomer } = request.sender.unwrap_or(Sender { key: number, newcomer: false });
        Arc::new(Self {
            lane: request.lane,
            received: request.received,
            deadline: request.deadline,
            owner: Owner { sender: key, request: number, newcomer },
            alone: request.alone.then_some(number),
            compared: request.compared,
            probe: request.probe,
            begun: Arc::clone(&request.begun),
            trace: request.trace,
            observer,
            state: Mutex::new(State {
                texts,
                remaining,
                timing: Timing::default(),
                stages: request.trace.map(|_| Box::default()),
                done: Some(done),
            }),
        })
    }

    /// Notes what the tokenizer found in some texts, and hands them out for the batch, in their order.
    fn tokenized(self: &Arc<Self>, texts: Vec<(usize, Tokens)>) -> Vec<Entry<Text>> {
        let since = Instant::now();
        let mut state = self.state.lock();
        let timing = &mut state.timing;
        timing.tokenize_us = timing.tokenize_us.max(micros(since.saturating_duration_since(self.received)));
        if let Some(stages) = &mut state.stages {
            stages.tokenized = Some(since);
        }
        let entry = |(index, tokens): (usize, Tokens)| {
            let item = &mut state.texts[index].item;
            item.tokens = u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX);
            item.truncated = tokens.truncated;
            Entry {
                lane: self.lane,
                length: tokens.ids.len(),
                arrival: since,
                deadline: self.deadline,
                owner: self.owner,
                alone: self.alone,
                compared: self.compared,
                probe: self.probe,
                payload: Text { request: Arc::clone(self), index, ids: tokens.ids, since },
            }
        };
        texts.into_iter().map(entry).collect()
    }

    fn text_failed(self: &Arc<Self>, index: usize, error: WireError) {
        self.observer.text_failed(self.lane, error.code);
        self.finish(index, |text, _, _| text.item.error = Some(error));
    }

    fn finish(
        self: &Arc<Self>,
        index: usize,
        update: impl FnOnce(&mut EmbeddedText, &mut Timing, Option<&mut Stages>),
    ) {
        let mut state = self.state.lock();
        let State { texts, remaining, timing, stages, .. } = &mut *state;
        update(&mut texts[index], timing, stages.as_deref_mut());
        *remaining -= 1;
        if *remaining == 0 {
            let embedded = Embedded { texts: std::mem::take(texts), timing: *timing, stages: stages.take() };
            let done = state.done.take();
            drop(state);
            if let Some(done) = done {
                done(embedded);
            }
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("lane", &self.lane).finish_non_exhaustive()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One text of a request, tokenized.
#[derive(Debug)]
pub(super) struct Text {
    request: Arc<Pending>,
    index: usize,
    ids: Vec<u32>,
    /// Since when it waits for a batch.
    since: Instant,
}

impl Work for Text {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn begun(&self) {
        self.request.begun.store(true, Ordering::Relaxed);
    }

    fn trace(&self) -> Option<TraceContext> {
        self.request.trace
    }

    fn done(self, vectors: &Vectors, row: usize, stats: &RunStats) {
        self.request.finish(self.index, |text, timing, stages| {
            if let Some(stages) = stages {
                stages.ran(self.since, stats);
            }
            text.vector = Some((Arc::clone(vectors), row));
            timing.queue_us = timing.queue_us.max(micros(stats.started.saturating_duration_since(self.since)));
            timing.infer_us = timing.infer_us.max(micros(stats.took));
            timing.batch_size = timing.batch_size.max(u32::try_from(stats.texts).unwrap_or(u32::MAX));
        });
    }

    fn failed(self, error: &EngineError) {
        let error = match error {
            // Not this text's fault: another engine may embed it.
            EngineError::Broken(_) | EngineError::DeviceLost(_) => {
                WireError::new(ErrorCode::ModelUnavailable, format!("this worker cannot embed anything now: {error}"))
            }
            _ => WireError::new(ErrorCode::EngineFailed, format!("the engine failed on this text: {error}")),
        };
        self.request.text_failed(self.index, error);
    }

    fn expired(self) {
        self.request.text_failed(self.index, WireError::deadline_exceeded());
    }
}

/// From the tokenizer into the batch queue. When the last thread that has it is gone, nothing more can come, and the queue is closed:
/// earlier, runners could end before the texts that a tokenizer still had.
#[derive(Debug)]
pub(super) struct IntoBatches(pub(super) Arc<BatchQueue<Text>>);

impl Drop for IntoBatches {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Sink<Arc<Pending>> for IntoBatches {
    fn expired(&self, request: &Arc<Pending>) -> bool {
        request.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn accept(&self, request: &Arc<Pending>, outcomes: Vec<Outcome>) {
        let mut texts = Vec::with_capacity(outcomes.len());
        for Outcome { index, tokens } in outcomes {
            match tokens {
                Ok(tokens) => texts.push((index, tokens)),
                Err(error) => request.text_failed(index, error),
            }
        }
        if let Err(refused) = self.0.push(request.tokenized(texts)) {
            let error = EngineError::Broken(refused.reason);
            refused.entries.into_iter().for_each(|entry| entry.payload.failed(&error));
        }
    }
}
