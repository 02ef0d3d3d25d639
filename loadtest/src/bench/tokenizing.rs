//! How fast texts become tokens: by the library alone, on one thread, and through the tokenizer threads of the worker.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, unbounded};
use embed_engine::{
    threads::OnDeath,
    tokenize::{Outcome, Pool, Sink, Task, TextTokenizer},
};
use embed_schemas::{Lane, Slug, WireError};
use serde::Serialize;

/// How long each is measured, at least.
const TAKES: Duration = Duration::from_millis(500);

/// Texts of a job, as a backfill makes them.
const JOB_TEXTS: usize = 64;

/// Jobs that wait, for each thread.
const JOBS_AHEAD: usize = 4;

/// The figures of one mix.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TokenizeRow {
    /// Whose tokenizer.
    pub(super) model: Slug,
    /// The mix's name.
    pub(super) mix: &'static str,
    /// Tokens of a text, mean.
    pub(super) mean_tokens: f64,
    /// Texts a second of one thread, as the worker tokenizes.
    pub(super) texts_per_second: f64,
    /// The same by the `tokenizers` library alone.
    pub(super) library_texts_per_second: f64,
    /// Through the worker's threads.
    pub(super) pools: Vec<PoolRate>,
    /// Why the worker leaves all to the library, if it does.
    pub(super) slow_because: Option<String>,
}

/// The speed of a number of tokenizer threads.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PoolRate {
    /// Threads.
    pub(super) threads: usize,
    /// Texts a second, all threads together.
    pub(super) texts_per_second: f64,
}

impl TokenizeRow {
    /// Tokenizer threads that are busy while an engine takes this many texts a second.
    pub(super) fn threads_for(&self, texts_per_second: f64) -> f64 {
        texts_per_second / self.texts_per_second
    }
}

/// Measures one mix with each number of threads.
///
/// # Errors
/// If the tokenizer fails on a text, or the system refuses a thread.
pub(super) fn measure(
    model: &Slug,
    mix: &'static str,
    tokenizer: &Arc<TextTokenizer>,
    texts: &[String],
    threads: &[usize],
) -> anyhow::Result<TokenizeRow> {
    anyhow::ensure!(!texts.is_empty(), "{mix}: there are no texts");
    let mut tokens = 0;
    for text in texts {
        tokens += tokenizer.encode(None, text, true)?.ids.len();
    }
    let pools = threads.iter().map(|threads| pool_rate(*threads, tokenizer, texts)).collect::<io::Result<_>>()?;
    Ok(TokenizeRow {
        model: model.clone(),
        mix,
        mean_tokens: tokens as f64 / texts.len() as f64,
        texts_per_second: rate(texts, |text| tokenizer.encode(None, text, true).map(drop)),
        library_texts_per_second: rate(texts, |text| tokenizer.encode_by_library(None, text, true).map(drop)),
        pools,
        slow_because: tokenizer.slow_because().map(str::to_owned),
    })
}

/// Texts a second of this thread.
fn rate(texts: &[String], encode: impl Fn(&str) -> Result<(), WireError>) -> f64 {
    let (mut done, started) = (0, Instant::now());
    for text in texts.iter().cycle() {
        // All were tokenized before, so none fails.
        let _ = std::hint::black_box(encode(text));
        done += 1;
        if done % JOB_TEXTS == 0 && started.elapsed() >= TAKES {
            break;
        }
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// Tells how many texts are done.
#[derive(Debug)]
struct Count(Sender<Result<usize, String>>);

impl Sink<()> for Count {
    fn expired(&self, (): &()) -> bool {
        false
    }

    fn accept(&self, (): &(), outcomes: Vec<Outcome>) {
        // Nobody counts any more once the time is up.
        let _ = self.0.send(Ok(std::hint::black_box(outcomes).len()));
    }
}

/// Texts a second through this many threads, while this one makes their jobs.
fn pool_rate(threads: usize, tokenizer: &Arc<TextTokenizer>, texts: &[String]) -> io::Result<PoolRate> {
    let (sender, done) = unbounded();
    let died = sender.clone();
    // Nobody waits for it any more once the time is up.
    let on_death = OnDeath::new(move |reason| drop(died.send(Err(reason))));
    let pool = Pool::start(threads, tokenizer, Count(sender), &on_death)?;
    let mut jobs = texts.chunks(JOB_TEXTS).cycle();
    let (mut submitted, mut finished) = (0, 0);
    let started = Instant::now();
    while started.elapsed() < TAKES {
        while submitted < finished + threads * JOBS_AHEAD * JOB_TEXTS {
            let Some(texts) = jobs.next().map(<[String]>::to_vec) else { break };
            submitted += texts.len();
            pool.submit(Lane::Bulk, Task { job: (), texts, prompt: None, truncate: true });
        }
        for texts in done.recv().into_iter().chain(done.try_iter()) {
            finished += texts.map_err(io::Error::other)?;
        }
    }
    Ok(PoolRate { threads, texts_per_second: finished as f64 / started.elapsed().as_secs_f64() })
}
