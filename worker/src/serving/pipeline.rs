//! The way of a text through one version: tokenizer threads, batch queue, engine runners.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use embed_schemas::{EmbedRequest, Format, Lane};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Variant, Version};
use crate::{
    batch::{BatchQueue, Depth},
    config::Config,
    engine::{Engine, RunnerEvent, Runners, cores},
    job::{Ask, Job, Text},
    model::LoadedVersion,
    publish::Reply,
    tokenize::{Outcome, Pool, Sink, Task},
};

/// The threads that serve one version of a variant. Every job that is in them holds them: when the last is done, and nobody
/// else has them, they end and the version's memory is free.
#[derive(Debug)]
pub struct Pipeline {
    /// The variant.
    pub variant: Arc<Variant>,
    /// The version.
    pub version: Version,
    pool: Pool<Arc<Job>, IntoBatches>,
    queue: Arc<BatchQueue<Text>>,
    runners: Mutex<Option<Runners>>,
    engines: usize,
    finished: mpsc::UnboundedSender<Arc<Job>>,
}

/// From the tokenizer into the batch queue.
#[derive(Debug)]
struct IntoBatches(Arc<BatchQueue<Text>>);

impl Sink<Arc<Job>> for IntoBatches {
    fn expired(&self, job: &Arc<Job>) -> bool {
        job.expired()
    }

    fn accept(&self, job: &Arc<Job>, outcomes: Vec<Outcome>) {
        let mut texts = Vec::with_capacity(outcomes.len());
        for Outcome { index, tokens } in outcomes {
            match tokens {
                Ok(tokens) => texts.push((index, tokens)),
                Err(error) => job.text_failed(index, error),
            }
        }
        if !texts.is_empty() {
            self.0.push(job.tokenized(texts).into_iter().map(Text::into_entry));
        }
    }
}

impl Pipeline {
    /// Starts the threads. `finished` gets every job whose texts are done; `on_death` hears why an engine cannot go on.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        variant: Arc<Variant>,
        version: Version,
        loaded: LoadedVersion,
        config: &Config,
        finished: mpsc::UnboundedSender<Arc<Job>>,
        on_death: impl Fn(String) + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let LoadedVersion { engines, tokenizer, costs, running } = loaded;
        let batch = running.bounds.map_or_else(|| config.batch.clone(), |bounds| bounds.within(&config.batch));
        // On a device, engine threads only wait.
        let nice = if running.provider.on_device() { 0 } else { config.engine.nice };
        let units: Vec<_> = engines.iter().map(Engine::unit).collect();
        let queue = Arc::new(BatchQueue::new(&batch, costs, &units));
        let observed = Arc::clone(&variant);
        let observe = move |event: RunnerEvent<'_>| match event {
            RunnerEvent::Ran(stats) => observed.ran(stats),
            RunnerEvent::OutOfMemory { most_tokens } => observed.metrics.out_of_memory(most_tokens),
        };
        let runners = Runners::start(engines, &queue, variant.slots(), nice, observe, on_death)?;
        let threads = match config.tokenize.threads {
            0 if tokenizer.slow_because().is_some() => cores(),
            0 => cores().div_ceil(4),
            n => n,
        };
        let pool = Pool::start(threads, &tokenizer, IntoBatches(Arc::clone(&queue)))?;
        Ok(Self { variant, version, pool, queue, runners: Mutex::new(Some(runners)), engines: units.len(), finished })
    }

    /// Waits until its runners are ready for requests.
    pub async fn settled(&self) {
        let settled = self.runners.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(Runners::settled);
        if let Some(settled) = settled {
            settled.await;
        }
    }

    /// Takes a validated request in. `permit` covers its texts. Never blocks.
    pub fn submit(
        self: &Arc<Self>,
        ask: Ask,
        request: EmbedRequest,
        reply: Reply,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Job> {
        let prompt = request.prompt.as_ref().and_then(|name| self.version.metadata.prompts.get(name));
        let prompt = prompt.map(|text| Arc::from(text.as_str()));
        let lane = ask.lane;
        let texts = request.texts.len();
        let job = Job::new(ask, Arc::clone(self), reply, texts, permit);
        let task = Task { job: Arc::clone(&job), texts: request.texts, prompt, truncate: request.truncate };
        self.pool.submit(lane, task);
        job
    }

    /// What a request asks for, with its deadline counted from `origin`.
    pub fn ask(&self, request: &EmbedRequest, lane: Lane, format: Format, received: Instant, origin: Instant) -> Ask {
        Ask {
            id: request.id.clone().unwrap_or_else(|| self.variant.make_id()),
            lane,
            format,
            encoding: request.encoding_for(format),
            dimensions: request.dimensions.filter(|d| *d != self.version.metadata.dimension),
            received,
            deadline: request.deadline_ms.and_then(|ms| origin.checked_add(std::time::Duration::from_millis(ms))),
        }
    }

    /// Batches that it can run at the same time.
    pub const fn engines(&self) -> usize {
        self.engines
    }

    /// What waits for a batch in this lane.
    pub fn depth(&self, lane: Lane) -> Depth {
        self.queue.depth(lane)
    }

    /// From now on nothing waits for company in a batch.
    pub fn drain(&self) {
        self.queue.drain();
    }

    /// Where finished jobs go.
    pub const fn finished(&self) -> &mpsc::UnboundedSender<Arc<Job>> {
        &self.finished
    }

    /// Ends the threads and waits for them. Nothing must be in them any more.
    pub fn stop(&self) {
        self.queue.close();
        let runners = self.runners.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runners) = runners {
            runners.join();
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // The threads end by themselves, and the last of them frees the weights. The one that drops this may be one of
        // them, so nobody waits here.
        self.queue.close();
    }
}
