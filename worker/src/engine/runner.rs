//! Runner threads: each owns an engine, takes batches from the queue and hands the vectors out.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use embed_schemas::Lane;

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

/// The runner threads of one variant.
#[derive(Debug)]
pub struct Runners {
    threads: Vec<JoinHandle<()>>,
}

impl Runners {
    /// Starts one thread for each engine. They end when the queue is closed and empty.
    ///
    /// `slots` bounds the runs at one time, together with whoever else has it. `nice` lowers the threads' priority. `observe` hears of every run; `on_panic` is called if a runner dies, since nobody else would notice.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start<E: Engine + 'static, T: Work>(
        engines: Vec<E>,
        queue: &Arc<BatchQueue<T>>,
        slots: &Arc<Slots>,
        nice: u8,
        observe: impl Fn(&RunStats) + Clone + Send + 'static,
        on_panic: impl Fn(String) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut threads = Vec::with_capacity(engines.len());
        for (i, mut engine) in engines.into_iter().enumerate() {
            let (queue, slots) = (Arc::clone(queue), Arc::clone(slots));
            let (observe, on_panic) = (observe.clone(), on_panic.clone());
            let body = move || {
                priority::give_way(nice);
                let mut input = Input::default();
                let work = AssertUnwindSafe(|| {
                    let on_expired =
                        |expired: Vec<Entry<T>>| expired.into_iter().for_each(|entry| entry.payload.expired());
                    while let Some(batch) = queue.next(engine.unit(), on_expired) {
                        let _slot = slots.take(batch.entries[0].lane == Lane::Rpc);
                        run(&mut engine, &mut input, batch, &queue, &observe);
                    }
                });
                if let Err(panic) = catch_unwind(work) {
                    let message = panic.downcast_ref::<String>().cloned();
                    let message = message.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                    on_panic(message.unwrap_or_else(|| "unknown panic".to_owned()));
                }
                drop(engine);
                memory::give_back();
            };
            threads.push(std::thread::Builder::new().name(format!("engine-{i}")).spawn(body)?);
        }
        Ok(Self { threads })
    }

    /// Waits for all threads to end.
    pub fn join(self) {
        for thread in self.threads {
            // A panic has been reported through `on_panic`.
            let _ = thread.join();
        }
    }
}

fn run<T: Work>(
    engine: &mut impl Engine,
    input: &mut Input,
    batch: Batch<T>,
    queue: &BatchQueue<T>,
    observe: &impl Fn(&RunStats),
) {
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
    match result {
        Ok(vectors) => {
            let run = Measured { shape, form: stats.form, took: stats.took };
            queue.ran(run, entries.iter().map(|entry| (entry.lane, entry.arrival)));
            observe(&stats);
            for (row, entry) in row_of.into_iter().zip(entries) {
                entry.payload.done(&vectors, row, &stats);
            }
        }
        // One bad text must not fail its neighbours: each gets a run of its own.
        Err(error) if entries.len() > 1 => {
            tracing::warn!(%error, texts = entries.len(), "a batch failed; running its texts one by one");
            for entry in entries {
                run(engine, input, single(entry, batch.form, batch.reason), queue, observe);
            }
        }
        Err(error) => {
            tracing::error!(%error, tokens = stats.tokens, "the engine failed on a text");
            entries.into_iter().for_each(|entry| entry.payload.failed(&error));
        }
    }
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

fn single<T>(entry: Entry<T>, form: Form, reason: Reason) -> Batch<T> {
    Batch { width: entry.length, entries: vec![entry], form, reason }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        batch::{CostTable, Unit},
        config::BatchConfig,
    };

    /// The first id of each row, doubled. Fails on batches that hold id 13, panics on 99.
    struct Fake(usize);

    impl Engine for Fake {
        fn dimension(&self) -> usize {
            1
        }

        fn unit(&self) -> Unit {
            Unit(self.0)
        }

        fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
            assert!(!input.ids.contains(&99), "id 99");
            if input.ids.contains(&13) {
                return Err(EngineError::Onnx("unlucky".into()));
            }
            Ok(input.ids.chunks(input.width).map(|row| row[0] as f32 * 2.0).collect())
        }
    }

    struct Text(Vec<u32>, mpsc::Sender<(u32, Result<f32, String>)>);

    impl Work for Text {
        fn ids(&self) -> &[u32] {
            &self.0
        }

        fn done(self, vectors: &Vectors, row: usize, _: &RunStats) {
            self.1.send((self.0[0], Ok(vectors[row]))).unwrap();
        }

        fn failed(self, error: &EngineError) {
            self.1.send((self.0[0], Err(error.to_string()))).unwrap();
        }

        fn expired(self) {
            self.1.send((self.0[0], Err("expired".into()))).unwrap();
        }
    }

    fn slots() -> Arc<Slots> {
        Arc::new(Slots::new(2))
    }

    fn queue() -> Arc<BatchQueue<Text>> {
        Arc::new(BatchQueue::new(&BatchConfig::default(), CostTable::default(), &[Unit(0), Unit(1)]))
    }

    fn push(queue: &BatchQueue<Text>, id: u32, results: &mpsc::Sender<(u32, Result<f32, String>)>) {
        let payload = Text(vec![id, 0], results.clone());
        queue.push(Entry { lane: Lane::Bulk, length: 2, arrival: Instant::now(), deadline: None, payload });
    }

    #[test]
    fn a_bad_text_does_not_fail_its_neighbours() {
        let (sender, results) = mpsc::channel();
        let queue = queue();
        for id in 10..20 {
            push(&queue, id, &sender);
        }
        let runners = Runners::start(vec![Fake(0), Fake(1)], &queue, &slots(), 0, |_| (), |_| ()).unwrap();
        let mut got: Vec<_> = results.iter().take(10).collect();
        got.sort_by_key(|(id, _)| *id);
        for (id, result) in got {
            match id {
                13 => assert!(result.unwrap_err().contains("unlucky")),
                id => assert_eq!(result, Ok(id as f32 * 2.0)),
            }
        }
        queue.close();
        runners.join();
    }

    #[test]
    fn the_same_text_twice_is_computed_once() {
        let (sender, results) = mpsc::channel();
        let queue = queue();
        for id in [5, 6, 5, 5] {
            push(&queue, id, &sender);
        }
        queue.drain();
        let (runs, stats) = mpsc::channel();
        let runners =
            Runners::start(vec![Fake(0)], &queue, &slots(), 0, move |s| runs.send(*s).unwrap(), |_| ()).unwrap();
        let mut got: Vec<_> = results.iter().take(4).map(|(_, result)| result.unwrap()).collect();
        got.sort_by(f32::total_cmp);
        assert_eq!(got, [10.0, 10.0, 10.0, 12.0]);
        let stats = stats.recv().unwrap();
        assert_eq!((stats.texts, stats.rows, stats.tokens), (4, 2, 4));
        queue.close();
        runners.join();
    }

    #[test]
    fn the_death_of_a_runner_is_reported() {
        let (sender, _results) = mpsc::channel();
        let (panics, reported) = mpsc::channel();
        let queue = queue();
        let runners =
            Runners::start(vec![Fake(0)], &queue, &slots(), 0, |_| (), move |panic| panics.send(panic).unwrap())
                .unwrap();
        push(&queue, 99, &sender);
        assert!(reported.recv().unwrap().contains("id 99"));
        runners.join();
    }
}
