//! The newest dead letters of a model, at a glance: what they say of a job, and not the job.

use embed_client::{Client, StreamState, nats::scan::Scan};
use embed_schemas::{JobId, Slug, streams};
use serde::Serialize;

use super::{DeadLetter, TIMEOUT};
use crate::Error;

/// Characters of a reason that are kept.
const MOST_REASON: usize = 400;

/// What is said of a letter in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterLine {
    /// What it is called by: see [`super::LetterName`].
    pub name: String,
    /// When it was written, RFC 3339.
    pub time: String,
    /// The job's model.
    pub model: Slug,
    /// The variant whose worker gave up.
    pub variant: Slug,
    /// The job's id, where it could be read.
    pub id: Option<JobId>,
    /// The stable code of the error.
    pub code: String,
    /// What went wrong, cut after some hundred characters.
    pub reason: String,
    /// How often the job had been tried.
    pub attempts: u64,
}

/// The newest letters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Letters in the stream, and the sequence of its last one: as long as both are the same, so are the letters.
    seen: (u64, u64),
    /// The newest of them, oldest first. None that were sent once more or thrown away, which leave gaps: there may be fewer than were asked for.
    pub letters: Vec<LetterLine>,
}

impl Newest {
    /// Reads the letters among the last `most` messages of a stream of which `state` has just been told. `before`, if nothing has changed.
    ///
    /// # Errors
    /// [`Error::Provision`] if the stream cannot be read.
    pub async fn read(
        client: &Client,
        model: &Slug,
        state: &StreamState,
        most: u64,
        before: Option<Self>,
    ) -> Result<Self, Error> {
        let seen = (state.fill.messages, state.last);
        if let Some(before) = before.filter(|before| before.seen == seen) {
            return Ok(before);
        }
        if state.fill.messages == 0 {
            return Ok(Self { seen, letters: Vec::new() });
        }
        let stream = streams::dead_stream(model);
        let from = state.last.saturating_sub(most.saturating_sub(1)).max(1);
        let mut scan = Scan::from(client.nats(), stream.clone(), ">", from);
        let mut letters = Vec::new();
        loop {
            let page = scan.page(TIMEOUT).await.map_err(|error| Error::Provision {
                what: format!("cannot read dead letters from stream {stream}"),
                reason: error.to_string(),
            })?;
            if page.is_empty() {
                break;
            }
            letters.extend(page.into_iter().filter_map(|stored| DeadLetter::read(&stream, stored)).map(LetterLine::of));
            // Others may be writing faster than they are read.
            if letters.len() as u64 >= most {
                break;
            }
        }
        Ok(Self { seen, letters })
    }
}

impl LetterLine {
    fn of(letter: DeadLetter) -> Self {
        let name = letter.name().to_string();
        let DeadLetter { time, model, variant, id, code, reason, attempts, .. } = letter;
        let reason = reason.chars().take(MOST_REASON).collect();
        Self { name, time, model, variant, id, code, reason, attempts }
    }
}
