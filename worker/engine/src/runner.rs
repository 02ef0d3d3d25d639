//! Runner threads: each owns an engine, takes batches from the queue and hands the vectors out.

mod run_limit;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use embed_schemas::{Lane, trace::TraceContext};
use tokio::sync::oneshot;

pub use self::run_limit::{RunLimit, RunPermit};
use crate::{
    batch::{Batch, BatchQueue, Entry, Measured, Reason},
    engine::{DeviceLoss, Engine, EngineError, Input, Vectors},
    shape::{Form, Shape},
    threads::{OnDeath, give_way, guarded},
};

/// What a text is to a runner.
pub trait Work: Send + 'static {
    /// The tokens.
    fn ids(&self) -> &[u32];
    /// A run with it begins: whatever happens from here on may be its doing.
    fn begun(&self) {}
    /// The span that it is a part of, if its request is recorded.
    fn trace(&self) -> Option<TraceContext> {
        None
    }
    /// The text's vector: row `row` of `vectors`.
    fn done(self, vectors: &Vectors, row: usize, stats: &RunStats);
    /// The engine failed on this text, even on its own.
    fn failed(self, error: &EngineError);
    /// Its deadline passed before the work began.
    fn expired(self);
}

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
pub struct RunStats {
    /// Tells it apart from all others of this process.
    pub number: u64,
    /// Texts.
    pub texts: usize,
    /// Texts that differ: the same text twice is computed once.
    pub rows: usize,
    /// Tokens of the longest.
    pub width: usize,
    /// Tokens of the texts, without padding.
    pub tokens: usize,
    /// Tokens of the rows, without padding: what was computed.
    pub row_tokens: usize,
    /// How it was laid out.
    pub form: Form,
    /// When the engine started.
    pub started: Instant,
    /// Time in the engine.
    pub took: Duration,
    /// Engines' time that it took: where all cores computed it, that of all.
    pub busy: Duration,
    /// The lane of its texts.
    pub lane: Lane,
    /// Why the batch was started.
    pub reason: Reason,
    /// How long the oldest text had waited.
    pub oldest_wait: Duration,
}

/// Something that runners tell.
#[derive(Debug)]
pub enum RunnerEvent<'a> {
    /// A batch was run.
    Ran(&'a RunStats),
    /// Requests that are recorded were in a run, which may have failed.
    Recorded {
        /// The run.
        stats: &'a RunStats,
        /// The spans of the requests, each once.
        of: &'a [TraceContext],
        /// Why it failed.
        error: Option<&'a EngineError>,
    },
    /// The device had too little memory for a run, which is halved.
    OutOfMemory {
        /// Most tokens of a batch for now, padding included.
        most_tokens: usize,
    },
    /// After such, batches may be larger again.
    MemoryBound {
        /// Most tokens of a batch from now on, padding included. `usize::MAX`: the bound is gone.
        most_tokens: usize,
    },
    /// A runner's engine fails whatever it is given (why), or runs again (`None`).
    Broken(Option<&'a str>),
}

/// Tokens of a text that every engine can run: when a text fails alone, this one tells whether the text is at fault or the engine.
pub type Canary = Arc<[u32]>;

/// Tells runs apart, in the order in which they end.
static NEXT_RUN: AtomicU64 = AtomicU64::new(0);

/// An engine that fails the canary is asked again after this, then after twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The runner threads of one variant.
#[derive(Debug)]
pub struct Runners {
    threads: Vec<JoinHandle<()>>,
    settled: Vec<oneshot::Receiver<()>>,
}

/// What runners share.
#[derive(Debug)]
pub struct RunnerContext<T> {
    /// Where batches come from.
    pub queue: Arc<BatchQueue<T>>,
    /// Bounds the runs at one time, together with whoever else has it.
    pub limit: Arc<RunLimit>,
    /// By how much the threads' priority is lowered.
    pub nice: u8,
    /// Told apart from a text that an engine cannot run.
    pub canary: Canary,
    /// Hears why a runner cannot go on: it panicked, or its device is lost.
    pub on_death: OnDeath,
    /// Whether engines are freed.
    pub device_loss: DeviceLoss,
}

impl<T> Clone for RunnerContext<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            limit: Arc::clone(&self.limit),
            nice: self.nice,
            canary: Arc::clone(&self.canary),
            on_death: self.on_death.clone(),
            device_loss: self.device_loss.clone(),
        }
    }
}

impl Runners {
    /// Starts one thread for each engine. They end when the queue is closed and empty. `observe` hears of every run.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start<E: Engine + 'static, T: Work>(
        engines: Vec<E>,
        context: &RunnerContext<T>,
        observe: impl Fn(RunnerEvent<'_>) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut runners =
            Self { threads: Vec::with_capacity(engines.len()), settled: Vec::with_capacity(engines.len()) };
        for (i, engine) in engines.into_iter().enumerate() {
            runners.add(format!("engine-{i}"), engine, Role::Usual, context.clone(), observe.clone())?;
        }
        Ok(runners)
    }

    /// Starts one more, beside those that there is room for: it has only short runs, for callers who have nothing in any of the others (see
    /// [`BatchQueue::next_beside`]). Its priority is not lowered, so that it is done as if there were a free core.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start_beside<E: Engine + 'static, T: Work>(
        &mut self,
        engine: E,
        context: &RunnerContext<T>,
        observe: impl Fn(RunnerEvent<'_>) + Send + 'static,
    ) -> std::io::Result<()> {
        let context = RunnerContext { nice: 0, ..context.clone() };
        self.add("engine-beside".to_owned(), engine, Role::Beside, context, observe)
    }

    /// Starts one more for calls alone, whose runs go before those of the others on their device, so that nothing bounds them (see [`BatchQueue::next_call`]).
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start_urgent<E: Engine + 'static, T: Work>(
        &mut self,
        engine: E,
        context: &RunnerContext<T>,
        observe: impl Fn(RunnerEvent<'_>) + Send + 'static,
    ) -> std::io::Result<()> {
        self.add("engine-urgent".to_owned(), engine, Role::Urgent, context.clone(), observe)
    }

    fn add<E: Engine + 'static, T: Work>(
        &mut self,
        name: String,
        engine: E,
        role: Role,
        context: RunnerContext<T>,
        observe: impl Fn(RunnerEvent<'_>) + Send + 'static,
    ) -> std::io::Result<()> {
        let (ready, is_ready) = oneshot::channel();
        let body = move || {
            give_way(context.nice);
            let on_death = context.on_death.clone();
            let mut runner = Runner { engine, input: Input::default(), role, context, observe };
            let ended = guarded(&on_death, "an engine's thread", || {
                runner.engine.settle();
                // Whoever started it need not wait.
                let _ = ready.send(());
                runner.run()
            });
            if let Some(Err(Lost(reason))) = ended {
                on_death.report(reason);
            }
            runner.context.device_loss.free(runner.engine);
        };
        self.threads.push(std::thread::Builder::new().name(name).spawn(body)?);
        self.settled.push(is_ready);
        Ok(())
    }

    /// What ends when all have settled: until then, the first requests would wait.
    pub fn settled(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let settled = std::mem::take(&mut self.settled);
        async move {
            for one in settled {
                // One that died has been reported.
                let _ = one.await;
            }
        }
    }

    /// Waits for all threads to end.
    pub fn join(self) {
        for thread in self.threads {
            // A panic has been reported.
            let _ = thread.join();
        }
    }
}

/// Which runs a runner has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// All.
    Usual,
    /// Short ones, beside all others.
    Beside,
    /// Those of calls.
    Urgent,
}

/// The device is lost, and why.
struct Lost(String);

/// Why a batch came to an end before its texts did.
enum Stop {
    Lost(String),
    Broken(String),
}

struct Runner<E, T, O> {
    engine: E,
    input: Input,
    role: Role,
    context: RunnerContext<T>,
    observe: O,
}

impl<E: Engine, T: Work, O: Fn(RunnerEvent<'_>)> Runner<E, T, O> {
    fn run(&mut self) -> Result<(), Lost> {
        let queue = Arc::clone(&self.context.queue);
        let limit = Arc::clone(&self.context.limit);
        let on_expired = |expired: Vec<Entry<T>>| expired.into_iter().for_each(|entry| entry.payload.expired());
        loop {
            let next = match self.role {
                Role::Usual => queue.next(self.engine.unit(), on_expired),
                Role::Beside => queue.next_beside(on_expired),
                Role::Urgent => queue.next_call(on_expired),
            };
            let Some((batch, run)) = next else { return Ok(()) };
            let permit = (self.role == Role::Usual).then(|| limit.take(batch.entries[0].lane == Lane::Rpc));
            let stopped = self.run_batch(batch);
            drop((permit, run));
            match stopped {
                Ok(()) => {}
                Err(Stop::Lost(reason)) => return Err(Lost(reason)),
                // Where others run as well, those find out for themselves, and what they are given is what tells.
                Err(Stop::Broken(_)) if self.role == Role::Beside => {
                    while !queue.ends_within(FIRST_PAUSE) && self.canary().is_err() {}
                }
                Err(Stop::Broken(reason)) => self.wait_until_mended(reason)?,
            }
        }
    }

    /// Runs a batch, and what becomes of it: halves where there is too little memory, single texts where one may be at fault.
    fn run_batch(&mut self, batch: Batch<T>) -> Result<(), Stop> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let Err((part, error)) = self.attempt(part) else { continue };
            let Batch { entries, form, reason, .. } = part;
            match error {
                EngineError::DeviceLost(_) => return Err(self.lost(entries, parts, &error)),
                EngineError::OutOfMemory(_) if entries.len() > 1 => {
                    let mut shorter = entries;
                    let longer = shorter.split_off(shorter.len() / 2);
                    parts.extend([longer, shorter].map(|half| sub_batch(half, form, reason)));
                }
                // It may be the other session's fault.
                error if form == Form::Spread => {
                    tracing::warn!(%error, "a run on several cores failed; trying it on one");
                    parts.push(sub_batch(entries, Form::Padded, reason));
                }
                // One bad text must not fail its neighbours: each gets a run of its own.
                error if entries.len() > 1 => {
                    tracing::warn!(%error, texts = entries.len(), "a batch failed; running its texts one by one");
                    parts.extend(entries.into_iter().rev().map(|entry| sub_batch(vec![entry], form, reason)));
                }
                error => match self.canary() {
                    Ok(()) => {
                        tracing::error!(%error, tokens = entries[0].length, "the engine failed on a text");
                        fail(entries, &error);
                    }
                    Err(lost @ EngineError::DeviceLost(_)) => return Err(self.lost(entries, parts, &lost)),
                    Err(why) => {
                        let broken = EngineError::Broken(why.to_string());
                        fail(entries.into_iter().chain(parts.into_iter().flat_map(|part| part.entries)), &broken);
                        return Err(Stop::Broken(why.to_string()));
                    }
                },
            }
        }
        Ok(())
    }

    /// Nothing will run on the device any more: every text of the batch ends, and all that wait.
    fn lost(&self, entries: Vec<Entry<T>>, parts: Vec<Batch<T>>, error: &EngineError) -> Stop {
        self.context.device_loss.note();
        let why = error.to_string();
        fail(entries.into_iter().chain(parts.into_iter().flat_map(|part| part.entries)), error);
        fail(self.context.queue.halt(&why), error);
        Stop::Lost(why)
    }

    /// One run. Gives the batch back with the error if it fails.
    fn attempt(&mut self, batch: Batch<T>) -> Result<(), (Batch<T>, EngineError)> {
        let (queue, entries) = (&self.context.queue, &batch.entries);
        let (rows, row_of) = distinct(entries);
        self.input.fill(rows.iter().map(|entry| entries[*entry].payload.ids()));
        self.input.form = batch.form;
        let shape = Shape::of(rows.iter().map(|entry| entries[*entry].length));
        entries.iter().for_each(|entry| entry.payload.begun());
        self.engine.expect_calls(self.role == Role::Urgent && entries.iter().any(|entry| !entry.probe));
        let recorded = recorded(entries);
        let started = Instant::now();
        let result = self.engine.embed(&self.input);
        let took = started.elapsed();
        let stats = RunStats {
            number: NEXT_RUN.fetch_add(1, Ordering::Relaxed),
            texts: entries.len(),
            rows: rows.len(),
            width: batch.width,
            tokens: entries.iter().map(|entry| entry.length).sum(),
            row_tokens: shape.tokens,
            form: batch.form,
            started,
            took,
            busy: took * u32::try_from(queue.engines_of(batch.form)).unwrap_or(u32::MAX),
            lane: entries[0].lane,
            reason: batch.reason,
            oldest_wait: entries.iter().map(|entry| started - entry.arrival).max().unwrap_or_default(),
        };
        tracing::trace!(
            rows = stats.rows,
            width = stats.width,
            tokens = stats.row_tokens,
            form = ?stats.form,
            lane = ?stats.lane,
            reason = ?stats.reason,
            took_us = stats.took.as_micros() as u64,
            waited_us = stats.oldest_wait.as_micros() as u64,
            "run"
        );
        if !recorded.is_empty() {
            let error = result.as_ref().err();
            (self.observe)(RunnerEvent::Recorded { stats: &stats, of: &recorded, error });
        }
        match result {
            Ok(vectors) => {
                // What goes before others, but shares the device with them, does not tell what such runs cost.
                let run = Measured { shape, form: stats.form, took: stats.took };
                let run = (self.role != Role::Urgent).then_some(run);
                let bound = queue.ran(run, entries.iter().map(|entry| (entry.lane, entry.arrival)));
                (self.observe)(RunnerEvent::Ran(&stats));
                if let Some(most_tokens) = bound {
                    (self.observe)(RunnerEvent::MemoryBound { most_tokens });
                }
                for (row, entry) in row_of.into_iter().zip(batch.entries) {
                    entry.payload.done(&vectors, row, &stats);
                }
                Ok(())
            }
            Err(error) => {
                // An engine for calls alone has memory of its own, and what it lacks others have.
                if let EngineError::OutOfMemory(reason) = &error
                    && self.role != Role::Urgent
                {
                    let most_tokens = queue.too_large(&shape);
                    let (texts, width) = (stats.texts, stats.width);
                    tracing::warn!(reason, texts, width, most_tokens, "too little memory on the device; trying halves");
                    (self.observe)(RunnerEvent::OutOfMemory { most_tokens });
                }
                Err((batch, error))
            }
        }
    }

    /// Whether the engine runs at all.
    fn canary(&mut self) -> Result<(), EngineError> {
        let canary = Arc::clone(&self.context.canary);
        self.input.fill(std::iter::once(&canary[..]));
        self.input.form = Form::Padded;
        self.engine.embed(&self.input).map(|_| ())
    }

    /// Takes no batches until the engine runs again. When that is so for all runners, whatever waits is told, and nothing comes in; calls that had a
    /// runner of their own are for the others meanwhile.
    fn wait_until_mended(&mut self, reason: String) -> Result<(), Lost> {
        tracing::error!(reason, "an engine fails every run; it is tried again and again, and takes nothing meanwhile");
        let queue = Arc::clone(&self.context.queue);
        (self.observe)(RunnerEvent::Broken(Some(&reason)));
        if self.role == Role::Urgent {
            queue.urgent_runs(false);
        } else {
            fail(queue.broken(&reason), &EngineError::Broken(reason));
        }
        let mut pause = FIRST_PAUSE;
        while !queue.ends_within(pause) {
            match self.canary() {
                Ok(()) => {
                    tracing::info!("the engine runs again");
                    if self.role == Role::Urgent {
                        queue.urgent_runs(true);
                    } else {
                        queue.mended();
                    }
                    (self.observe)(RunnerEvent::Broken(None));
                    return Ok(());
                }
                Err(error @ EngineError::DeviceLost(_)) => {
                    self.context.device_loss.note();
                    let why = error.to_string();
                    fail(queue.halt(&why), &error);
                    return Err(Lost(why));
                }
                Err(error) => tracing::warn!(%error, ?pause, "the engine still fails"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }
}

fn fail<T: Work>(entries: impl IntoIterator<Item = Entry<T>>, error: &EngineError) {
    entries.into_iter().for_each(|entry| entry.payload.failed(error));
}

/// The spans of the requests that are recorded, each once. Mostly there is none, and that costs a look at each text.
fn recorded<T: Work>(entries: &[Entry<T>]) -> Vec<TraceContext> {
    let mut spans: Vec<_> = entries.iter().filter_map(|entry| entry.payload.trace()).collect();
    spans.sort_unstable();
    spans.dedup();
    spans
}

/// The entries that differ, and for every entry the place of its equal among them.
fn distinct<T: Work>(entries: &[Entry<T>]) -> (Vec<usize>, Vec<usize>) {
    let mut rows = Vec::with_capacity(entries.len());
    let mut seen = HashMap::with_capacity(entries.len());
    let row_of = entries.iter().enumerate().map(|(i, entry)| {
        *seen.entry(entry.payload.ids()).or_insert_with(|| {
            rows.push(i);
            rows.len() - 1
        })
    });
    let row_of = row_of.collect();
    (rows, row_of)
}

/// Some of a batch's texts. The longest of them is the last.
fn sub_batch<T>(entries: Vec<Entry<T>>, form: Form, reason: Reason) -> Batch<T> {
    Batch { width: entries.last().map_or(0, |entry| entry.length), entries, form, reason }
}

#[cfg(test)]
mod tests;
