//! One group of rows through the queue: its jobs, tried again under other ids where that can help, written as lines.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use embed_otlp::Recorder;
use embed_schemas::{EmbedRequest, EmbedResult, ErrorCode, JobId, Outcome, Slug, WireError};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::{
    Error, Served,
    chunk::Chunk,
    row::{Found, Position, Row, Vector, Work},
    windows,
};
use embed_client::{Backoff, Client, MessageBudget, RESULT_BYTES, part_id, text_bytes};

/// How often a job that failed is published again, under another id.
const RETRIES: u32 = 3;

/// What all jobs of a run share.
#[derive(Debug)]
pub(crate) struct Jobs {
    pub(crate) client: Client,
    pub(crate) id: JobId,
    pub(crate) model: Slug,
    pub(crate) variant: Option<Slug>,
    pub(crate) tenant: Option<Slug>,
    /// The only embedding space whose vectors are of use, if it is known already.
    pub(crate) space: Option<String>,
    /// Part of the message ids of what this run publishes again: the server remembers those of runs before it.
    pub(crate) run: String,
    /// What one message may hold.
    pub(crate) budget: MessageBudget,
    /// A job without texts and id.
    pub(crate) template: EmbedRequest,
    /// Whether a row has the mean of the vectors of its pieces.
    pub(crate) mean: bool,
    /// Counts outcomes: the sign of life that the driver looks at.
    pub(crate) outcomes: watch::Sender<u64>,
    /// How many more jobs may be looked up in vain before they are taken to be new. 0 in a first run.
    pub(crate) lookups: AtomicUsize,
    /// Whether a stream took a job in this run.
    pub(crate) has_stream: AtomicBool,
    /// For how long a job may be without an outcome until it is looked whether it is still there.
    pub(crate) missing_after: Duration,
    pub(crate) recorder: Recorder,
    /// What last kept a job from being published.
    pub(crate) trouble: Mutex<Option<String>>,
}

/// A group that is done.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) rows: Vec<Row<Found>>,
    /// The input after it.
    pub(crate) end: Position,
    /// The embedding spaces of its vectors; more than one only if the model changed meanwhile.
    pub(crate) spaces: Vec<String>,
    /// What made them.
    pub(crate) served: BTreeSet<Served>,
    /// The jobs whose results the stream may hold.
    pub(crate) ids: Vec<JobId>,
    /// Of the rows that have vectors, those whose text was taken apart.
    pub(crate) windows: Windows,
    /// What it takes in memory, or in the stream, whichever is more.
    pub(crate) bytes: usize,
}

/// Texts that were taken apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Texts.
    pub(crate) texts: u64,
    /// Their windows.
    pub(crate) windows: u64,
}

/// What became of a range of texts, in order.
enum Part {
    Vectors(EmbedResult),
    /// This many texts have no vector, for one reason.
    Failed(usize, WireError),
}

/// What became of some texts.
#[derive(Default)]
struct Answer {
    parts: Vec<Part>,
    /// The jobs that it took.
    ids: Vec<JobId>,
}

impl Jobs {
    /// The id of a group's job.
    pub(crate) fn job_id(&self, chunk: &Chunk) -> Result<JobId, Error> {
        Ok(part_id(&self.id, chunk.first())?)
    }

    /// Takes a group through the queue. Never gives up by itself: the driver does, for all together.
    pub(crate) async fn run(self: Arc<Self>, mut chunk: Chunk) -> Result<Finished, Error> {
        let id = self.job_id(&chunk)?;
        let mut answer = Answer::default();
        for (n, texts) in self.messages(&mut chunk).into_iter().enumerate() {
            let id = if n == 0 { id.clone() } else { part_id(&id, format_args!("p{n}"))? };
            let Answer { parts, ids } = self.embed(id, texts).await?;
            answer.parts.extend(parts);
            answer.ids.extend(ids);
        }
        Ok(finish(chunk, answer, self.mean))
    }

    /// The texts of a group, in as many messages as they need: more than one only if they are pieces of one long text.
    fn messages(&self, chunk: &mut Chunk) -> Vec<Vec<String>> {
        let mut messages: Vec<Vec<String>> = Vec::new();
        let mut room = 0;
        let pieces = chunk.rows.iter_mut().filter_map(|row| match &mut row.content {
            Ok(Work::Embed(pieces)) => Some(pieces),
            Ok(Work::Known) | Err(_) => None,
        });
        for piece in pieces.flatten() {
            let text = std::mem::take(&mut piece.text);
            let bytes = text_bytes(&text);
            match messages.last_mut() {
                Some(message) if message.len() < self.budget.texts && bytes <= room => message.push(text),
                _ => {
                    messages.push(vec![text]);
                    room = self.budget.bytes;
                }
            }
            room = room.saturating_sub(bytes);
        }
        messages
    }

    /// Embeds texts under an id: in two jobs if the answer to one does not fit into a message.
    fn embed(&self, id: JobId, texts: Vec<String>) -> BoxFuture<'_, Result<Answer, Error>> {
        async move {
            let count = texts.len();
            let mut job = EmbedRequest { id: None, texts, ..self.template.clone() };
            let mut ids = Vec::new();
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
            let mut attempt = 0;
            loop {
                let attempt_id = if attempt == 0 { id.clone() } else { part_id(&id, format_args!("r{attempt}"))? };
                job.id = Some(attempt_id.clone());
                ids.push(attempt_id.clone());
                let error = match self.outcome(attempt_id, &job).await {
                    Ok(Outcome::Result(result)) if result.items.len() == count => {
                        return Ok(Answer { parts: vec![Part::Vectors(result)], ids });
                    }
                    Ok(Outcome::Result(result)) => WireError {
                        retryable: true,
                        ..WireError::invalid(format!("{} rows came for {count} texts", result.items.len()))
                    },
                    Ok(Outcome::Failure(failure)) if failure.error.code == ErrorCode::ResultTooLarge && count > 1 => {
                        let second = job.texts.split_off(count / 2);
                        let first = self.embed(part_id(&id, "a")?, job.texts).await?;
                        let second = self.embed(part_id(&id, "b")?, second).await?;
                        let parts = first.parts.into_iter().chain(second.parts).collect();
                        ids.extend(first.ids.into_iter().chain(second.ids));
                        return Ok(Answer { parts, ids });
                    }
                    Ok(Outcome::Failure(failure)) => failure.error,
                    // What is stored under this id cannot be read, or is not of this job: another id has a chance.
                    Err(embed_client::Error::BadAnswer { reason, .. }) => {
                        WireError { retryable: true, ..WireError::invalid(reason) }
                    }
                    Err(embed_client::Error::Wire(error)) if error.code == ErrorCode::IdConflict => {
                        WireError { retryable: true, ..error }
                    }
                    Err(error) => return Err(error.into()),
                };
                if !error.retryable || attempt == RETRIES {
                    return Ok(Answer { parts: vec![Part::Failed(count, error)], ids });
                }
                attempt += 1;
                let advice = error.retry_after_ms.map(Duration::from_millis);
                tracing::debug!(%id, %error, attempt, "the job is published again");
                tokio::time::sleep(backoff.pause(advice, rand::random())).await;
            }
        }
        .boxed()
    }
}

/// What became of the rows of a group, with rows that were bad from the start where they are.
fn finish(chunk: Chunk, answer: Answer, mean: bool) -> Finished {
    let end = chunk.end();
    let Answer { parts, ids } = answer;
    let mut texts = parts.iter().flat_map(|part| {
        let count = match part {
            Part::Vectors(result) => result.items.len(),
            Part::Failed(count, _) => *count,
        };
        (0..count).map(move |n| (part, n))
    });
    let mut vector = |window| match texts.next() {
        Some((Part::Vectors(result), n)) => {
            let item = &result.items[n];
            let values = result.vector(n)?;
            Ok(Vector { values, tokens: item.tokens, truncated: item.truncated, window })
        }
        Some((Part::Failed(_, error), _)) => Err(error.clone()),
        None => unreachable!("the parts of a job cover its texts"),
    };
    let mut cut = Windows::default();
    let mut done = |work: Work| {
        let Work::Embed(pieces) = work else { return Ok(Found::Known) };
        // All of them are taken, so that the next row finds its own.
        let vectors: Vec<_> = pieces.iter().map(|piece| vector(piece.window)).collect();
        let vectors: Vec<Vector> = vectors.into_iter().collect::<Result<_, _>>()?;
        if vectors.len() > 1 {
            cut.texts += 1;
            cut.windows += vectors.len() as u64;
        }
        Ok(Found::Vectors(if mean { windows::mean(vectors).into_iter().collect() } else { vectors }))
    };
    let rows: Vec<Row<Found>> = chunk.rows.into_iter().map(|row| row.with(|work| done(work?))).collect();
    let mut finished = Finished { rows, end, spaces: Vec::new(), served: BTreeSet::new(), ids, windows: cut, bytes: 0 };
    for part in &parts {
        finished.bytes += RESULT_BYTES;
        let Part::Vectors(result) = part else { continue };
        finished.bytes += result.vectors.len();
        if !finished.spaces.contains(&result.space) {
            finished.spaces.push(result.space.clone());
        }
        finished.served.insert(Served { variant: result.variant.clone(), version: result.version.clone() });
    }
    finished.bytes = finished.bytes.max(finished.rows.iter().map(size).sum());
    finished
}

/// Bytes that a row takes in memory, roughly.
fn size(row: &Row<Found>) -> usize {
    let vectors: &[Vector] = match &row.content {
        Ok(Found::Vectors(vectors)) => vectors,
        Ok(Found::Known) | Err(_) => &[],
    };
    vectors.iter().map(|vector| size_of_val(&*vector.values)).sum::<usize>() + row.weight()
}
