//! The tokenizer threads. Online calls overtake stored work between any two texts.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, select_biased, unbounded};
use embed_schemas::{Lane, WireError};

use super::{TextTokenizer, Tokens};

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
    online: Sender<Task<J>>,
    stored: Sender<Task<J>>,
}

impl<J: Send + 'static, S: Sink<J>> Pool<J, S> {
    /// Starts the threads. They end when the pool is dropped and they have done what they have.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(threads: usize, tokenizer: &Arc<TextTokenizer>, sink: S) -> std::io::Result<Self> {
        let (online, online_tasks) = unbounded();
        let (stored, stored_tasks) = unbounded();
        let sink = Arc::new(sink);
        let worker = || Thread {
            tokenizer: Arc::clone(tokenizer),
            sink: Arc::clone(&sink),
            online: online_tasks.clone(),
            stored: stored_tasks.clone(),
        };
        for i in 0..threads {
            let work = worker();
            std::thread::Builder::new().name(format!("tokenize-{i}")).spawn(move || work.run())?;
        }
        Ok(Self { here: worker(), online, stored })
    }

    /// Takes a job. Never waits.
    pub fn submit(&self, lane: Lane, task: Task<J>) {
        if lane == Lane::Rpc && task.texts.iter().map(String::len).sum::<usize>() <= SHORT_BYTES {
            return self.here.tokenize(&task, false);
        }
        let channel = if lane == Lane::Rpc { &self.online } else { &self.stored };
        // The threads end only after the senders are gone, so somebody receives.
        let _ = channel.send(task);
    }
}

#[derive(Debug)]
struct Thread<J, S> {
    tokenizer: Arc<TextTokenizer>,
    sink: Arc<S>,
    online: Receiver<Task<J>>,
    stored: Receiver<Task<J>>,
}

impl<J, S: Sink<J>> Thread<J, S> {
    fn run(&self) {
        let (mut online_open, mut stored_open) = (true, true);
        while online_open || stored_open {
            // A closed channel is always ready, so it must not be selected again.
            let never = crossbeam_channel::never();
            select_biased! {
                recv(if online_open { &self.online } else { &never }) -> task => match task {
                    Ok(task) => self.tokenize(&task, false),
                    Err(_) => online_open = false,
                },
                recv(if stored_open { &self.stored } else { &never }) -> task => match task {
                    Ok(task) => self.tokenize(&task, true),
                    Err(_) => stored_open = false,
                },
            }
        }
    }

    fn tokenize(&self, task: &Task<J>, giving_way: bool) {
        let mut outcomes = Vec::with_capacity(task.texts.len());
        let mut bytes = 0;
        for (index, text) in task.texts.iter().enumerate() {
            if giving_way {
                while let Ok(online) = self.online.try_recv() {
                    self.tokenize(&online, false);
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
