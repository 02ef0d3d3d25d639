//! The tokenizer threads. Online calls overtake jobs, and jobs backfills, between any two texts.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crossbeam_channel::{Receiver, Sender, select_biased, unbounded};
use embed_schemas::{Lane, WireError};

use super::{TextTokenizer, Tokens};
use crate::threads::{OnDeath, guarded};

/// The texts of one job.
#[derive(Debug)]
pub struct Task<J> {
    /// The job, handed on with every text.
    pub job: J,
    /// The texts.
    pub texts: Vec<String>,
    /// Put before every text.
    pub prompt: Option<Arc<str>>,
    /// Whether to cut long texts.
    pub truncate: bool,
}

/// What became of a text.
#[derive(Debug)]
pub struct Outcome {
    /// Its position in the job.
    pub index: usize,
    /// Its tokens.
    pub tokens: Result<Tokens, WireError>,
}

/// Where tokens go.
pub trait Sink<J>: Send + Sync + 'static {
    /// Whether nobody needs this job any more, so that its texts need not be tokenized.
    fn expired(&self, job: &J) -> bool;
    /// The outcomes of some texts of a job, in their order; a job is handed over in one piece or in several.
    fn accept(&self, job: &J, outcomes: Vec<Outcome>);
}

/// After so much text, what is tokenized is handed over: for each text alone, the locks on the way would take as long as the
/// tokenizing, and for a large job as a whole, the engine would wait for its last text.
const HAND_OVER_BYTES: usize = 8 * 1024;

/// An online call with no more text than this is tokenized where it is taken in: that takes about as long as waking
/// another thread, and saves waiting for it.
const SHORT_BYTES: usize = 512;

/// Tokenizer threads for one version of a model.
///
/// The channels are not bounded: what can be in them is bounded by the texts that the worker admits.
#[derive(Debug)]
pub struct Pool<J, S> {
    here: Thread<J, S>,
    /// One for each lane.
    senders: [Sender<Task<J>>; 3],
    /// Texts in the channels, by lane.
    waiting: Arc<[AtomicUsize; 3]>,
}

impl<J: Send + 'static, S: Sink<J>> Pool<J, S> {
    /// Starts the threads. They end when the pool is dropped and they have done what they have; one that panics is reported.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(threads: usize, tokenizer: &Arc<TextTokenizer>, sink: S, on_death: &OnDeath) -> std::io::Result<Self> {
        let channels = [unbounded(), unbounded(), unbounded()];
        let waiting = Arc::<[AtomicUsize; 3]>::default();
        let sink = Arc::new(sink);
        let worker = || Thread {
            tokenizer: Arc::clone(tokenizer),
            sink: Arc::clone(&sink),
            lanes: channels.each_ref().map(|(_, tasks)| tasks.clone()),
            waiting: Arc::clone(&waiting),
        };
        for i in 0..threads {
            let (work, on_death) = (worker(), on_death.clone());
            let body = move || {
                guarded(&on_death, "a tokenizer's thread", || work.run());
            };
            std::thread::Builder::new().name(format!("tokenize-{i}")).spawn(body)?;
        }
        let here = worker();
        Ok(Self { here, senders: channels.map(|(sender, _)| sender), waiting })
    }

    /// Takes a job. Never waits.
    pub fn submit(&self, lane: Lane, task: Task<J>) {
        if lane == Lane::Rpc && task.texts.iter().map(String::len).sum::<usize>() <= SHORT_BYTES {
            return self.here.tokenize(&task, Lane::Rpc);
        }
        self.waiting[lane.index()].fetch_add(task.texts.len(), Ordering::Relaxed);
        // The threads end only after the senders are gone, so somebody receives.
        let _ = self.senders[lane.index()].send(task);
    }
}

impl<J, S> Pool<J, S> {
    /// Drops what waits for a thread.
    pub fn abandon(&self) {
        for (lane, waiting) in self.here.lanes.iter().zip(&*self.waiting) {
            while let Ok(task) = lane.try_recv() {
                waiting.fetch_sub(task.texts.len(), Ordering::Relaxed);
            }
        }
    }

    /// Texts of this lane that wait for a thread.
    pub fn waiting(&self, lane: Lane) -> usize {
        self.waiting[lane.index()].load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Thread<J, S> {
    tokenizer: Arc<TextTokenizer>,
    sink: Arc<S>,
    lanes: [Receiver<Task<J>>; 3],
    waiting: Arc<[AtomicUsize; 3]>,
}

impl<J, S: Sink<J>> Thread<J, S> {
    fn run(&self) {
        let [online, jobs, bulk] = &self.lanes;
        // All senders go at once.
        loop {
            let (lane, task) = select_biased! {
                recv(online) -> task => (Lane::Rpc, task),
                recv(jobs) -> task => (Lane::Job, task),
                recv(bulk) -> task => (Lane::Bulk, task),
            };
            match task {
                Ok(task) => self.received(&task, lane),
                Err(_) => break,
            }
        }
        for lane in Lane::ALL {
            while let Ok(task) = self.lanes[lane.index()].try_recv() {
                self.received(&task, lane);
            }
        }
    }

    fn received(&self, task: &Task<J>, lane: Lane) {
        tracing::trace!(?lane, texts = task.texts.len(), "tokenize");
        self.waiting[lane.index()].fetch_sub(task.texts.len(), Ordering::Relaxed);
        self.tokenize(task, lane);
    }

    fn tokenize(&self, task: &Task<J>, lane: Lane) {
        let mut outcomes = Vec::with_capacity(task.texts.len());
        let mut bytes = 0;
        for (index, text) in task.texts.iter().enumerate() {
            for before in Lane::ALL.into_iter().take(lane.index()) {
                while let Ok(urgent) = self.lanes[before.index()].try_recv() {
                    self.received(&urgent, before);
                }
            }
            let tokens = if self.sink.expired(&task.job) {
                Err(WireError::deadline_exceeded())
            } else {
                self.tokenizer.encode(task.prompt.as_deref(), text, task.truncate)
            };
            outcomes.push(Outcome { index, tokens });
            bytes += text.len();
            if bytes >= HAND_OVER_BYTES {
                bytes = 0;
                self.sink.accept(&task.job, std::mem::take(&mut outcomes));
            }
        }
        if !outcomes.is_empty() {
            self.sink.accept(&task.job, outcomes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    fn tokenizer() -> Arc<TextTokenizer> {
        let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
        let read = |file| std::fs::read(version.join(file)).unwrap();
        let metadata = serde_json::from_slice(&read("metadata.json")).unwrap();
        Arc::new(TextTokenizer::new(&read("tokenizer.json"), &metadata, 1 << 20).unwrap())
    }

    fn task(job: &'static str, texts: usize) -> Task<&'static str> {
        Task { job, texts: vec!["word ".repeat(200); texts], prompt: None, truncate: true }
    }

    /// Says which job's tokens come, and holds the first text of the job `held` until it is told to go on.
    struct Gate {
        come: Mutex<mpsc::Sender<&'static str>>,
        holding: Mutex<mpsc::Sender<()>>,
        go_on: Mutex<mpsc::Receiver<()>>,
    }

    impl Sink<&'static str> for Gate {
        fn expired(&self, job: &&'static str) -> bool {
            if *job == "held" {
                self.holding.lock().unwrap().send(()).unwrap();
                self.go_on.lock().unwrap().recv().unwrap();
            }
            false
        }

        fn accept(&self, job: &&'static str, outcomes: Vec<Outcome>) {
            assert!(outcomes.iter().all(|outcome| outcome.tokens.is_ok()));
            self.come.lock().unwrap().send(job).unwrap();
        }
    }

    /// In a backfill's chunk under way, and in what waits behind it.
    #[test]
    fn online_calls_overtake_jobs_and_jobs_overtake_backfills() {
        let (come, order) = mpsc::channel();
        let (holding, held) = mpsc::channel();
        let (go_on, told) = mpsc::channel();
        let gate = Gate { come: come.into(), holding: holding.into(), go_on: told.into() };
        let on_death = OnDeath::new(|reason| panic!("{reason}"));
        let pool = Pool::start(1, &tokenizer(), gate, &on_death).unwrap();
        pool.submit(Lane::Bulk, task("held", 2));
        held.recv().unwrap();
        for _ in 0..20 {
            pool.submit(Lane::Bulk, task("bulk", 4));
        }
        pool.submit(Lane::Job, task("job", 1));
        pool.submit(Lane::Rpc, task("call", 1));
        // Its first text, and its second.
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        let order: Vec<_> = order.iter().take(23).collect();
        assert_eq!(order[..3], ["call", "job", "held"]);
        assert!(order[3..].iter().all(|job| *job == "bulk"));
    }

    struct Panics;

    impl Sink<&'static str> for Panics {
        fn expired(&self, _: &&'static str) -> bool {
            false
        }

        fn accept(&self, job: &&'static str, _: Vec<Outcome>) {
            panic!("no place for {job}");
        }
    }

    #[test]
    fn the_death_of_a_tokenizer_thread_is_reported() {
        let (died, deaths) = mpsc::channel();
        let on_death = OnDeath::new(move |reason| died.send(reason).unwrap());
        let pool = Pool::start(1, &tokenizer(), Panics, &on_death).unwrap();
        pool.submit(Lane::Job, task("one", 1));
        let reason = deaths.recv().unwrap();
        assert!(reason.contains("tokenizer") && reason.contains("no place for one"), "{reason}");
    }
}
