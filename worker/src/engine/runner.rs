//! Runner threads: each owns an engine, takes batches from the queue and hands the vectors out.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use embed_schemas::Lane;
use tokio::sync::oneshot;

use super::{Engine, EngineError, Input, Slots, Vectors, memory, priority};
use crate::batch::{Batch, BatchQueue, Entry, Form, Measured, Reason, Shape};

/// What a text is to a runner.
pub trait Work: Send + 'static {
    /// The tokens.
    fn ids(&self) -> &[u32];
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
    /// Texts.
    pub texts: usize,
    /// Texts that differ: the same text twice is computed once.
    pub rows: usize,
    /// Tokens of the longest.
    pub width: usize,
    /// Tokens of the rows, without padding.
    pub tokens: usize,
    /// How it was laid out.
    pub form: Form,
    /// When the engine started.
    pub started: Instant,
    /// Time in the engine.
    pub took: Duration,
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
    /// The device had too little memory for a run, which is halved.
    OutOfMemory {
        /// Most tokens of a batch from now on, padding included.
        most_tokens: usize,
    },
}

/// The runner threads of one variant.
#[derive(Debug)]
pub struct Runners {
    threads: Vec<JoinHandle<()>>,
    settled: Vec<oneshot::Receiver<()>>,
}

impl Runners {
    /// Starts one thread for each engine. They end when the queue is closed and empty.
    ///
    /// `slots` bounds the runs at one time, together with whoever else has it. `nice` lowers the threads' priority. `observe`
    /// hears of every run. `on_death` is called with the reason if a runner cannot go on: it panicked, or its device is lost.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start<E: Engine + 'static, T: Work>(
        engines: Vec<E>,
        queue: &Arc<BatchQueue<T>>,
        slots: &Arc<Slots>,
        nice: u8,
        observe: impl Fn(RunnerEvent<'_>) + Clone + Send + 'static,
        on_death: impl Fn(String) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let (mut threads, mut settled) = (Vec::with_capacity(engines.len()), Vec::with_capacity(engines.len()));
        for (i, mut engine) in engines.into_iter().enumerate() {
            let (queue, slots) = (Arc::clone(queue), Arc::clone(slots));
            let (observe, on_death) = (observe.clone(), on_death.clone());
            let (ready, is_ready) = oneshot::channel();
            let body = move || {
                priority::give_way(nice);
                let mut input = Input::default();
                let work = AssertUnwindSafe(|| {
                    engine.settle();
                    // Whoever started it need not wait.
                    let _ = ready.send(());
                    let on_expired =
                        |expired: Vec<Entry<T>>| expired.into_iter().for_each(|entry| entry.payload.expired());
                    while let Some(batch) = queue.next(engine.unit(), on_expired) {
                        let _slot = slots.take(batch.entries[0].lane == Lane::Rpc);
                        run(&mut engine, &mut input, batch, &queue, &observe)?;
                    }
                    Ok(())
                });
                match catch_unwind(work) {
                    Ok(Ok(())) => {}
                    Ok(Err(Lost(reason))) => on_death(reason),
                    Err(panic) => {
                        let message = panic.downcast_ref::<String>().cloned();
                        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                        on_death(message.unwrap_or_else(|| "unknown panic".to_owned()));
                    }
                }
                memory::free(engine);
            };
            threads.push(std::thread::Builder::new().name(format!("engine-{i}")).spawn(body)?);
            settled.push(is_ready);
        }
        Ok(Self { threads, settled })
    }

    /// What ends when all have settled: until then, the first requests would wait.
    pub fn settled(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let settled = std::mem::take(&mut self.settled);
        async move {
            for one in settled {
                // One that died has been reported through `on_death`.
                let _ = one.await;
            }
        }
    }

    /// Waits for all threads to end.
    pub fn join(self) {
        for thread in self.threads {
            // A panic has been reported through `on_death`.
            let _ = thread.join();
        }
    }
}

/// The device is lost, and why.
struct Lost(String);

fn run<T: Work>(
    engine: &mut impl Engine,
    input: &mut Input,
    batch: Batch<T>,
    queue: &BatchQueue<T>,
    observe: &impl Fn(RunnerEvent<'_>),
) -> Result<(), Lost> {
    let entries = batch.entries;
    let (rows, row_of) = distinct(&entries);
    input.fill(rows.iter().map(|entry| entries[*entry].payload.ids()));
    input.form = batch.form;
    let shape = Shape::of(rows.iter().map(|entry| entries[*entry].length));
    let started = Instant::now();
    let result = engine.embed(input);
    let stats = RunStats {
        texts: entries.len(),
        rows: rows.len(),
        width: batch.width,
        tokens: shape.tokens,
        form: batch.form,
        started,
        took: started.elapsed(),
        lane: entries[0].lane,
        reason: batch.reason,
        oldest_wait: entries.iter().map(|entry| started - entry.arrival).max().unwrap_or_default(),
    };
    tracing::trace!(
        rows = stats.rows,
        width = stats.width,
        tokens = stats.tokens,
        form = ?stats.form,
        lane = ?stats.lane,
        reason = ?stats.reason,
        took_us = stats.took.as_micros() as u64,
        waited_us = stats.oldest_wait.as_micros() as u64,
        "run"
    );
    match result {
        Ok(vectors) => {
            let run = Measured { shape, form: stats.form, took: stats.took };
            queue.ran(run, entries.iter().map(|entry| (entry.lane, entry.arrival)));
            observe(RunnerEvent::Ran(&stats));
            for (row, entry) in row_of.into_iter().zip(entries) {
                entry.payload.done(&vectors, row, &stats);
            }
        }
        Err(error @ EngineError::DeviceLost(_)) => {
            memory::device_lost();
            let reason = error.to_string();
            // Stored work goes back when the worker stops; callers are told now.
            queue.halt(entries).into_iter().for_each(|entry| entry.payload.failed(&error));
            return Err(Lost(reason));
        }
        Err(EngineError::OutOfMemory(reason)) if entries.len() > 1 => {
            let most_tokens = queue.too_large(&shape);
            tracing::warn!(
                reason,
                texts = entries.len(),
                width = stats.width,
                most_tokens,
                "too little memory on the device; trying halves"
            );
            observe(RunnerEvent::OutOfMemory { most_tokens });
            let mut shorter = entries;
            let longer = shorter.split_off(shorter.len() / 2);
            for half in [shorter, longer] {
                run(engine, input, part(half, batch.form, batch.reason), queue, observe)?;
            }
        }
        // One bad text must not fail its neighbours: each gets a run of its own.
        Err(error) if entries.len() > 1 => {
            tracing::warn!(%error, texts = entries.len(), "a batch failed; running its texts one by one");
            for entry in entries {
                run(engine, input, part(vec![entry], batch.form, batch.reason), queue, observe)?;
            }
        }
        Err(error) => {
            tracing::error!(%error, tokens = stats.tokens, "the engine failed on a text");
            entries.into_iter().for_each(|entry| entry.payload.failed(&error));
        }
    }
    Ok(())
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
fn part<T>(entries: Vec<Entry<T>>, form: Form, reason: Reason) -> Batch<T> {
    Batch { width: entries.last().map_or(0, |entry| entry.length), entries, form, reason }
}

#[cfg(test)]
mod tests;
