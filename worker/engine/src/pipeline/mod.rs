//! The way of a text through one loaded model: tokenizer threads, batch queue, engine runners.

mod observer;
mod request;

use std::{io, sync::Arc, time::Duration};

use embed_schemas::{Lane, ModelMetadata};
pub use observer::{Observer, Unobserved};
use parking_lot::Mutex;
pub use request::{Embedded, EmbeddedText, Request, RunOf, Sender, Stages};

use tokio::sync::oneshot;

use self::request::{IntoBatches, Pending, Text};
use crate::{
    batch::{BatchQueue, Depth},
    engine::{DeviceLoss, Engine, EngineError},
    model::{LoadReport, LoadedModel},
    runner::{RunLimit, RunnerContext, RunnerEvent, Runners, Work},
    settings::{BatchConfig, BatchPolicy},
    threads::{CoreUse, OnDeath, cores},
    tokenize::{Pool, Task},
};

/// How a pipeline is run.
pub struct PipelineContext<'a> {
    /// How batches are planned; what bounds them on devices comes with the model.
    pub batch: &'a BatchConfig,
    /// Tokenizer threads. 0: one for every four cores; one for each if the model's tokenizer is left to the library.
    pub tokenizer_threads: usize,
    /// By how much the priority of engine threads on the CPU is lowered, 0 to 19.
    pub nice: u8,
    /// Bounds the runs at one time, together with whoever else has it.
    pub limit: Arc<RunLimit>,
    /// Hears of what happens.
    pub observer: Arc<dyn Observer>,
    /// Hears why a thread cannot go on.
    pub on_death: OnDeath,
}

impl<'a> PipelineContext<'a> {
    /// With as many runs at one time as `limit` allows, nobody who listens, and all else at its default. A thread that cannot go on is
    /// only logged.
    #[must_use]
    pub fn new(batch: &'a BatchConfig, limit: Arc<RunLimit>) -> Self {
        let on_death = OnDeath::new(|reason| tracing::error!(reason, "a thread of a pipeline cannot go on"));
        Self { batch, tokenizer_threads: 0, nice: 0, limit, observer: Arc::new(Unobserved), on_death }
    }
}

/// The threads that serve one loaded model. They end when it is dropped and they have done what they have; then its memory is free.
#[derive(Debug)]
pub struct Pipeline {
    metadata: ModelMetadata,
    report: LoadReport,
    pool: Pool<Arc<Pending>, IntoBatches>,
    queue: Arc<BatchQueue<Text>>,
    runners: Mutex<Option<Runners>>,
    engines: usize,
    call_engines: usize,
    online_run: Duration,
    observer: ObserverHandle,
}

/// A trait object has no `Debug` of its own.
struct ObserverHandle(Arc<dyn Observer>);

impl std::fmt::Debug for ObserverHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

impl Pipeline {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(metadata: ModelMetadata, loaded: LoadedModel, context: PipelineContext<'_>) -> io::Result<Self> {
        let LoadedModel { engines, mut urgent, tokenizer, costs, mut report } = loaded;
        let PipelineContext { batch, tokenizer_threads, nice, limit, observer, on_death } = context;
        let batch = report.batches(batch);
        // On a device, engine threads only wait.
        let nice = if report.provider.on_device() { 0 } else { nice };
        let units: Vec<_> = engines.iter().map(Engine::unit).collect();
        // What runs on devices leaves the cores to others.
        let core_use = if report.provider.on_device() { CoreUse::default() } else { CoreUse::of_this_process() };
        let device_loss = DeviceLoss::of_this_process();
        if batch.policy != BatchPolicy::Adaptive && !urgent.is_empty() {
            // Other policies have calls wait for company, whoever takes them.
            urgent.drain(..).for_each(|engine| device_loss.free(engine));
            (report.urgent, report.urgent_refused) = (false, Some("batch.policy is not `adaptive`".to_owned()));
        }
        let beside_calls = report.bounds.map_or(batch.online_run, |bounds| bounds.beside_calls);
        let queue = BatchQueue::new(&batch, costs, &units).on_cores(core_use, report.spread.unwrap_or(1));
        let queue = queue.with_urgent(&urgent.iter().map(Engine::unit).collect::<Vec<_>>(), beside_calls);
        let queue = Arc::new(queue);
        let call_engines = if urgent.is_empty() { units.len() } else { urgent.len() };
        // From here on, whatever fails closes the queue, and so ends what has been started.
        let into_batches = IntoBatches(Arc::clone(&queue));
        let observed = Arc::clone(&observer);
        let observe = move |event: RunnerEvent<'_>| match event {
            RunnerEvent::Ran(stats) => observed.ran(stats),
            RunnerEvent::Recorded { stats, of, error } => observed.recorded(stats, of, error),
            RunnerEvent::OutOfMemory { most_tokens } => observed.out_of_memory(most_tokens),
            RunnerEvent::MemoryBound { most_tokens } => observed.memory_bound(most_tokens),
            RunnerEvent::Broken(reason) => observed.engine_broken(reason),
        };
        let canary = tokenizer.encode(None, "ready?", true).map_or_else(|_| Arc::from([0]), |tokens| tokens.ids.into());
        let context =
            RunnerContext { queue: Arc::clone(&queue), limit, nice, canary, on_death: on_death.clone(), device_loss };
        let beside = engines.first().and_then(Engine::beside);
        let mut runners = Runners::start(engines, &context, observe.clone())?;
        if let Some(engine) = beside {
            runners.start_beside(engine, &context, observe.clone())?;
        }
        for engine in urgent {
            runners.start_urgent(engine, &context, observe.clone())?;
        }
        let threads = match tokenizer_threads {
            0 if tokenizer.slow_because().is_some() => cores(),
            0 => cores().div_ceil(4),
            n => n,
        };
        let pool = Pool::start(threads, &tokenizer, into_batches, &on_death)?;
        let (runners, observer) = (Mutex::new(Some(runners)), ObserverHandle(observer));
        let online_run = if report.urgent { batch.online_run.max(beside_calls) } else { batch.online_run };
        let engines = units.len();
        Ok(Self { metadata, report, pool, queue, runners, engines, call_engines, online_run, observer })
    }

    /// What the registry says of the model's version.
    pub const fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// What it runs on.
    pub const fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The longest run while online calls come in: what the next call may have to wait for.
    pub const fn online_run(&self) -> Duration {
        self.online_run
    }

    /// Waits until its runners are ready for requests.
    pub async fn settled(&self) {
        let settled = self.runners.lock().as_mut().map(Runners::settled);
        if let Some(settled) = settled {
            settled.await;
        }
    }

    /// Takes a request with at least one text in, and calls `done` when its last text is done, on one of the pipeline's threads.
    /// Never blocks, but tokenizes a short online request here. If the pipeline ends before, `done` is dropped.
    pub fn submit(&self, request: Request, done: impl FnOnce(Embedded) + Send + 'static) {
        let job = Pending::new(&request, Arc::clone(&self.observer.0), Box::new(done));
        let Request { lane, texts, prompt, truncate, .. } = request;
        self.pool.submit(lane, Task { job, texts, prompt, truncate });
    }

    /// As [`Pipeline::submit`], and waits. `None` if the pipeline ends before.
    pub async fn embed(&self, request: Request) -> Option<Embedded> {
        let (done, embedded) = oneshot::channel();
        // Whoever asked may be gone by then.
        self.submit(request, |embedded| drop(done.send(embedded)));
        embedded.await.ok()
    }

    /// Batches that it can run at the same time.
    pub const fn engines(&self) -> usize {
        self.engines
    }

    /// Batches of calls that it runs at the same time beside other work.
    pub const fn call_engines(&self) -> usize {
        self.call_engines
    }

    /// What waits for a batch in this lane.
    pub fn depth(&self, lane: Lane) -> Depth {
        self.queue.depth(lane)
    }

    /// Texts of this lane that wait for a tokenizer.
    pub fn waiting_for_tokenizer(&self, lane: Lane) -> usize {
        self.pool.waiting(lane)
    }

    /// Runs nothing more: every text that waits for an engine fails with [`ErrorCode::ModelUnavailable`], and so does what comes. What waits
    /// for a tokenizer is dropped.
    pub fn halt(&self, reason: &str) {
        let error = EngineError::Broken(reason.to_owned());
        self.queue.halt(reason).into_iter().for_each(|entry| entry.payload.failed(&error));
        // It may be the tokenizer that has died.
        self.pool.abandon();
    }

    /// Why it fails every request at the moment, if it does: its engines fail whatever they are given.
    pub fn broken(&self) -> Option<String> {
        self.queue.refuses()
    }

    /// From now on nothing waits for company in a batch.
    pub fn drain(&self) {
        self.queue.drain();
    }

    /// Ends the threads and waits for them. Nothing must be in them any more.
    pub fn stop(&self) {
        self.queue.close();
        let runners = self.runners.lock().take();
        if let Some(runners) = runners {
            runners.join();
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // The threads end by themselves: tokenizers when they have done what they have, then runners (see `IntoBatches`), and the
        // last of them frees the weights. The one that drops this may be one of them, so nobody waits here.
        self.queue.drain();
    }
}
