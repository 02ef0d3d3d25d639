//! One group of rows through the queue: its jobs, tried again under other ids where that can help, written as lines.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use embed_schemas::{EmbedRequest, EmbedResult, ErrorCode, JobId, Outcome, Slug, WireError};
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::{
    Failures, Position,
    chunk::Chunk,
    failures,
    line::{write_error, write_row},
};
use crate::Error;
use embed_client::{Backoff, Client, RESULT_BYTES, part_id};

/// How often a job that failed is published again, under another id.
const RETRIES: u32 = 3;

/// What all jobs of a run share.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) client: Client,
    pub(super) id: JobId,
    pub(super) model: Slug,
    pub(super) variant: Option<Slug>,
    pub(super) tenant: Option<Slug>,
    /// The only embedding space whose vectors are of use, if it is known already.
    pub(super) space: Option<String>,
    /// Part of the message ids of what this run publishes again: the server remembers those of runs before it.
    pub(super) run: String,
    /// A job without texts and id.
    pub(super) template: EmbedRequest,
    /// Counts outcomes: the sign of life that the driver looks at.
    pub(super) outcomes: watch::Sender<u64>,
    /// How many more jobs may be looked up in vain before they are taken to be new. 0 in a first run.
    pub(super) lookups: AtomicUsize,
    /// Whether a stream took a job in this run.
    pub(super) has_stream: AtomicBool,
    /// For how long a job may be without an outcome until it is looked whether it is still there.
    pub(super) missing_after: Duration,
    /// What last kept a job from being published.
    pub(super) trouble: Mutex<Option<String>>,
}

/// A group that is done.
#[derive(Debug)]
pub(super) struct Finished {
    /// Its lines of the output.
    pub(super) lines: Vec<u8>,
    /// The input after it.
    pub(super) end: Position,
    pub(super) stored: u64,
    pub(super) failed: u64,
    pub(super) failures: Failures,
    /// The embedding spaces of its vectors; more than one only if the model changed meanwhile.
    pub(super) spaces: Vec<String>,
    /// The jobs whose results the stream may hold.
    pub(super) ids: Vec<JobId>,
    /// What it takes in memory, or in the stream, whichever is more.
    pub(super) bytes: usize,
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
    pub(super) fn job_id(&self, chunk: &Chunk) -> Result<JobId, Error> {
        Ok(part_id(&self.id, chunk.first())?)
    }

    /// Takes a group through the queue. Never gives up by itself: the driver does, for all together.
    pub(super) async fn run(self: Arc<Self>, chunk: Chunk) -> Result<Finished, Error> {
        let texts: Vec<String> = chunk.rows.iter().filter_map(|row| row.text.clone().ok()).collect();
        let answer = match texts.is_empty() {
            true => Answer::default(),
            false => self.embed(self.job_id(&chunk)?, texts).await?,
        };
        Ok(write(&chunk, answer))
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

/// The lines of a group: rows that were bad from the start stay where they are.
fn write(chunk: &Chunk, answer: Answer) -> Finished {
    let Answer { parts, ids } = answer;
    let mut finished = Finished {
        lines: Vec::new(),
        end: chunk.end(),
        stored: 0,
        failed: 0,
        failures: Failures::new(),
        spaces: Vec::new(),
        ids,
        bytes: 0,
    };
    let mut texts = parts.iter().flat_map(|part| {
        let count = match part {
            Part::Vectors(result) => result.items.len(),
            Part::Failed(count, _) => *count,
        };
        (0..count).map(move |row| (part, row))
    });
    for row in &chunk.rows {
        let failed = match (&row.text, if row.text.is_ok() { texts.next() } else { None }) {
            (Ok(_), Some((Part::Vectors(result), n))) => write_row(&mut finished.lines, row, result, n).err(),
            (Ok(_), Some((Part::Failed(_, error), _))) | (Err(error), _) => {
                write_error(&mut finished.lines, row, error);
                Some(error.clone())
            }
            (Ok(_), None) => unreachable!("the parts of a job cover its texts"),
        };
        match failed {
            None => finished.stored += 1,
            Some(error) => {
                finished.failed += 1;
                failures::count(&mut finished.failures, row.end.lines, &error);
            }
        }
    }
    for part in &parts {
        finished.bytes += RESULT_BYTES;
        let Part::Vectors(result) = part else { continue };
        finished.bytes += result.vectors.len();
        if !finished.spaces.contains(&result.space) {
            finished.spaces.push(result.space.clone());
        }
    }
    finished.bytes = finished.bytes.max(finished.lines.len());
    finished
}
