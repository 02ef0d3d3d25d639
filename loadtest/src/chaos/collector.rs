//! Reads what is stored, as it is stored: outcomes of jobs, and dead letters.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{
    self, Context,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use embed_schemas::{Outcome, Slug, headers, streams, wire};
use futures::StreamExt;
use serde_json::{Value, json};

use super::{
    judge::{Dead, Stored},
    vectors::References,
};

/// Messages in one request, and how long it waits for them.
const BATCH: usize = 256;
const WAIT: Duration = Duration::from_millis(500);
/// Before a stream that cannot be read is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// A request that is not over by then never will be.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was read.
#[derive(Debug)]
pub struct Collector {
    context: Context,
    model: Slug,
    references: Arc<References>,
    start: Instant,
    results: Mutex<Track<Stored>>,
    dead: Mutex<Track<Dead>>,
    ids: Mutex<HashSet<String>>,
}

/// How far a stream was read, and what was in it.
#[derive(Debug)]
struct Track<T> {
    /// How often the stream was made anew.
    incarnation: u32,
    /// Changes whenever reading begins again: what was read for another pass does not count.
    pass: u64,
    next: u64,
    all: Vec<(u32, f64, T)>,
}

impl<T> Default for Track<T> {
    fn default() -> Self {
        Self { incarnation: 0, pass: 0, next: 1, all: Vec::new() }
    }
}

impl<T> Track<T> {
    /// Begins at the first message.
    fn begin_again(&mut self) {
        (self.pass, self.next) = (self.pass + 1, 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Begins to read. It ends with the runtime.
    #[must_use]
    pub fn start(context: Context, model: Slug, references: Arc<References>, start: Instant) -> Arc<Self> {
        let this = Arc::new(Self {
            context,
            model,
            references,
            start,
            results: Mutex::default(),
            dead: Mutex::default(),
            ids: Mutex::default(),
        });
        let (results, dead) = (Arc::clone(&this), Arc::clone(&this));
        tokio::spawn(async move {
            let stream = streams::results_stream(&results.model);
            results
                .follow(&results.results, &stream, |message, incarnation| results.outcome(message, incarnation))
                .await;
        });
        tokio::spawn(async move {
            let stream = streams::dead_stream(&dead.model);
            dead.follow(&dead.dead, &stream, |message, _| Some(dead.letter(message))).await;
        });
        this
    }

    /// Whether an outcome is stored under this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        lock(&self.ids).contains(id)
    }

    /// Whether there is a dead letter of the job with this id.
    #[must_use]
    pub fn is_dead(&self, id: &str) -> bool {
        lock(&self.dead).all.iter().any(|(.., letter)| letter.id.as_deref() == Some(id))
    }

    /// When outcomes were read, seconds from the start.
    #[must_use]
    pub fn times(&self) -> Vec<f64> {
        lock(&self.results).all.iter().map(|(_, at, _)| *at).collect()
    }

    /// Everything that was read.
    #[must_use]
    pub fn everything(&self) -> (Vec<Stored>, Vec<Dead>) {
        let results = lock(&self.results).all.iter().map(|(.., outcome)| outcome.clone()).collect();
        (results, lock(&self.dead).all.iter().map(|(.., letter)| letter.clone()).collect())
    }

    /// The results stream is gone, and another will take its place.
    pub fn begin_incarnation(&self) {
        let mut results = lock(&self.results);
        results.incarnation += 1;
        results.begin_again();
    }

    /// Waits until the results stream has been read to its end, and nothing more comes to it for a moment.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn catch_up(&self, within: Duration) -> anyhow::Result<()> {
        let (begun, mut quiet) = (Instant::now(), 0);
        let stream = streams::results_stream(&self.model);
        let mut before = None;
        // Three looks with nothing new between them: what was under way when the stream was closed has come to rest.
        while quiet < 3 {
            anyhow::ensure!(begun.elapsed() < within, "{stream} could not be read to its end within {within:?}");
            let last = last_sequence(&self.context, &stream).await.ok();
            let read = last.is_some_and(|last| lock(&self.results).next > last);
            quiet = if read && last == before { quiet + 1 } else { 0 };
            before = last;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Reads both streams again from the beginning: what was stored and is not there any more does not count.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn read_again(&self, within: Duration) -> anyhow::Result<()> {
        {
            let mut results = lock(&self.results);
            let current = results.incarnation;
            results.all.retain(|(incarnation, ..)| *incarnation != current);
            results.begin_again();
        }
        {
            let mut dead = lock(&self.dead);
            dead.all.clear();
            dead.begin_again();
        }
        self.catch_up(within).await?;
        let (begun, stream) = (Instant::now(), streams::dead_stream(&self.model));
        while last_sequence(&self.context, &stream).await.is_ok_and(|last| lock(&self.dead).next <= last) {
            anyhow::ensure!(begun.elapsed() < within, "the dead letters could not be read within {within:?}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn follow<T>(
        &self,
        track: &Mutex<Track<T>>,
        stream: &str,
        read: impl Fn(&jetstream::Message, u32) -> Option<T>,
    ) {
        loop {
            // Whatever it is, it is tried again from where reading had come to.
            let _ = self.read(track, stream, &read).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads on until something fails, or reading begins again.
    async fn read<T>(
        &self,
        track: &Mutex<Track<T>>,
        stream: &str,
        read: &impl Fn(&jetstream::Message, u32) -> Option<T>,
    ) -> anyhow::Result<()> {
        let (pass, incarnation, next) = {
            let track = lock(track);
            (track.pass, track.incarnation, track.next)
        };
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let mut consumer: jetstream::consumer::PullConsumer =
            self.context.get_stream_no_info(stream).await?.create_consumer(config).await?;
        // How many this consumer has been seen to give: what a slow reader's batch ended before is not given again, and would be missing.
        let mut given = 0;
        while lock(track).pass == pass {
            let mut batch = consumer.batch().max_messages(BATCH).expires(WAIT).messages().await?;
            let mut is_empty = true;
            while let Some(message) = tokio::time::timeout(PATIENCE, batch.next()).await? {
                let message = message.map_err(anyhow::Error::from_boxed)?;
                let info = message.info().map_err(anyhow::Error::from_boxed)?;
                given += 1;
                anyhow::ensure!(info.consumer_sequence == given, "messages of {stream} were given that did not come");
                let sequence = info.stream_sequence;
                is_empty = false;
                let found = read(&message, incarnation);
                let mut track = lock(track);
                if track.pass != pass {
                    return Ok(());
                }
                if sequence >= track.next {
                    track.next = sequence + 1;
                    let at = self.start.elapsed().as_secs_f64();
                    track.all.extend(found.map(|found| (incarnation, at, found)));
                }
            }
            if is_empty {
                // A consumer that its server has lost is not told from one that has nothing.
                consumer.info().await?;
            }
        }
        Ok(())
    }

    fn outcome(&self, message: &jetstream::Message, incarnation: u32) -> Option<Stored> {
        let id = message.subject.rsplit('.').next()?.to_owned();
        let rows = match wire::decode_outcome(&message.payload) {
            Ok(Outcome::Result(result)) => Ok((0..result.items.len())
                .map(|row| result.vector(row).ok().and_then(|vector| self.references.identify(&vector)))
                .collect()),
            Ok(Outcome::Failure(failure)) => Err(failure.error.code.to_string()),
            Err(error) => Err(format!("not an outcome: {error}")),
        };
        lock(&self.ids).insert(id.clone());
        Some(Stored { incarnation, id, rows })
    }

    fn letter(&self, message: &jetstream::Message) -> Dead {
        let code = message.headers.as_ref().and_then(|headers| headers.get(headers::DEAD_CODE));
        let code = code.map_or_else(|| "no code".to_owned(), |code| code.as_str().to_owned());
        // It holds the job as it came.
        let Ok((job, _)) = wire::decode_request(&message.payload, None) else {
            return Dead { id: None, key: None, code };
        };
        let place = |n: usize| self.references.place(job.texts.get(n)?);
        Dead { id: job.id.map(|id| id.to_string()), key: place(0).zip(place(1)), code }
    }
}

/// The last sequence of a stream.
async fn last_sequence(context: &Context, stream: &str) -> anyhow::Result<u64> {
    let info: Value = context.request(format!("STREAM.INFO.{stream}"), &json!({})).await?;
    info["state"]["last_seq"].as_u64().with_context(|| format!("{stream}: {}", info["error"]))
}
