//! A job on its way through the worker: what was asked, where the answer goes, and what has been computed so far.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use embed_schemas::{
    EmbedFailure, EmbedResult, Encoding, ErrorCode, Format, Item, JobId, Lane, Outcome, Timing, WireError,
};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    batch::Entry,
    engine::{EngineError, RunStats, Vectors, Work},
    publish::Reply,
    serving::Pipeline,
    tokenize::Tokens,
};

/// What was asked, as far as the pipeline needs it.
#[derive(Debug)]
pub struct Ask {
    /// The job's id.
    pub id: JobId,
    /// How it came.
    pub lane: Lane,
    /// The encoding of the question, and so of the answer.
    pub format: Format,
    /// The number format of the vectors.
    pub encoding: Encoding,
    /// Components wanted, if fewer than the model's.
    pub dimensions: Option<u32>,
    /// When it arrived.
    pub received: Instant,
    /// When nobody needs it any more.
    pub deadline: Option<Instant>,
}

/// A job that is being worked on. Shared by its texts; when the last of them is done, the job goes to the publisher.
#[derive(Debug)]
pub struct Job {
    /// What was asked.
    pub ask: Ask,
    /// What serves it: the version that was live when it came.
    pub pipeline: Arc<Pipeline>,
    /// Where the answer goes.
    pub reply: Reply,
    state: Mutex<State>,
    /// Its share of what the worker admits; given back when the answer is out and the job dropped.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State {
    texts: Vec<TextState>,
    remaining: usize,
    timing: Timing,
}

#[derive(Debug, Default)]
struct TextState {
    item: Item,
    vector: Option<(Vectors, usize)>,
}

impl Job {
    /// A job of `texts` texts, none of them done.
    pub fn new(
        ask: Ask,
        pipeline: Arc<Pipeline>,
        reply: Reply,
        texts: usize,
        permit: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let state = State {
            texts: (0..texts).map(|_| TextState::default()).collect(),
            remaining: texts,
            timing: Timing::default(),
        };
        Arc::new(Self { ask, pipeline, reply, state: Mutex::new(state), _permit: permit })
    }

    /// Whether nobody needs it any more.
    pub fn expired(&self) -> bool {
        self.ask.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Notes what the tokenizer found in some texts, and hands them out for the batch, in their order.
    pub fn tokenized(self: &Arc<Self>, texts: Vec<(usize, Tokens)>) -> Vec<Text> {
        let since = Instant::now();
        let mut state = self.lock();
        let timing = &mut state.timing;
        timing.tokenize_us = timing.tokenize_us.max(micros(since.saturating_duration_since(self.ask.received)));
        let text = |(index, tokens): (usize, Tokens)| {
            let item = &mut state.texts[index].item;
            item.tokens = u32::try_from(tokens.ids.len()).unwrap_or(u32::MAX);
            item.truncated = tokens.truncated;
            Text { job: Arc::clone(self), index, ids: tokens.ids, since }
        };
        texts.into_iter().map(text).collect()
    }

    /// One text failed.
    pub fn text_failed(self: &Arc<Self>, index: usize, error: WireError) {
        self.pipeline.variant.metrics.error(self.ask.lane, error.code);
        self.finish(index, |text, _| text.item.error = Some(error));
    }

    fn finish(self: &Arc<Self>, index: usize, update: impl FnOnce(&mut TextState, &mut Timing)) {
        let mut state = self.lock();
        let State { texts, remaining, timing } = &mut *state;
        update(&mut texts[index], timing);
        *remaining -= 1;
        if *remaining == 0 {
            drop(state);
            // The publisher outlives the pipeline; if it is gone, the worker is gone too.
            let _ = self.pipeline.finished().send(Arc::clone(self));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing under this lock leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outcome, once the job is finished. Rows are copied once, into the bytes that are sent.
    pub fn outcome(&self) -> Outcome {
        let mut state = self.lock();
        let State { texts, timing, .. } = &mut *state;
        if let Some(error) = failed_as_a_whole(texts) {
            return Outcome::Failure(EmbedFailure { id: Some(self.ask.id.clone()), error });
        }
        let (variant, metadata) = (&self.pipeline.variant, &self.pipeline.version.metadata);
        let model_dim = metadata.dimension as usize;
        let dim = self.ask.dimensions.map_or(model_dim, |d| d as usize);
        let storage = self.ask.encoding.storage();
        let mut vectors = Vec::with_capacity(storage.row_bytes(dim) * texts.len());
        for text in texts.iter_mut() {
            let before = vectors.len();
            let row = text.vector.take().map(|(batch, row)| (batch, row * model_dim..(row + 1) * model_dim));
            match row.as_ref().map(|(batch, range)| &batch[range.clone()]) {
                Some(row) if row.iter().all(|x| x.is_finite()) => match self.ask.dimensions {
                    Some(_) => storage.encode_row(&shorten(row, dim), &mut vectors),
                    None => storage.encode_row(row, &mut vectors),
                },
                found => {
                    if found.is_some() {
                        text.item.error = Some(WireError::new(
                            ErrorCode::EngineFailed,
                            "the model gave numbers that are not finite for this text",
                        ));
                    }
                    vectors.resize(before + storage.row_bytes(dim), 0);
                }
            }
        }
        let mut timing = *timing;
        timing.total_us = micros(self.ask.received.elapsed());
        Outcome::Result(EmbedResult {
            id: self.ask.id.clone(),
            model: variant.model.clone(),
            variant: variant.name.clone(),
            version: metadata.version.clone(),
            space: metadata.space.clone(),
            dim: u32::try_from(dim).unwrap_or(u32::MAX),
            encoding: self.ask.encoding,
            vectors: vectors.into(),
            items: texts.iter().map(|text| text.item.clone()).collect(),
            timing,
        })
    }
}

/// A deadline concerns the job, not its texts: if it struck all of them, the job failed.
fn failed_as_a_whole(texts: &[TextState]) -> Option<WireError> {
    let first = texts.first()?.item.error.as_ref()?;
    let all = texts.iter().all(|text| text.item.error.as_ref().is_some_and(|e| e.code == first.code));
    (first.code == ErrorCode::DeadlineExceeded && all).then(|| first.clone())
}

/// The first components, at unit length again: how Matryoshka models are shortened.
fn shorten(row: &[f32], dim: usize) -> Vec<f32> {
    let row = &row[..dim.min(row.len())];
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    row.iter().map(|x| x / norm).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// One text of a job, tokenized.
#[derive(Debug)]
pub struct Text {
    job: Arc<Job>,
    index: usize,
    ids: Vec<u32>,
    /// Since when it waits for a batch.
    since: Instant,
}

impl Text {
    /// As the batch queue takes it in.
    pub fn into_entry(self) -> Entry<Self> {
        Entry {
            lane: self.job.ask.lane,
            length: self.ids.len(),
            arrival: self.since,
            deadline: self.job.ask.deadline,
            payload: self,
        }
    }
}

impl Work for Text {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn done(self, vectors: &Vectors, row: usize, stats: &RunStats) {
        self.job.finish(self.index, |text, timing| {
            text.vector = Some((Arc::clone(vectors), row));
            timing.queue_us = timing.queue_us.max(micros(stats.started.saturating_duration_since(self.since)));
            timing.infer_us = timing.infer_us.max(micros(stats.took));
            timing.batch_size = timing.batch_size.max(u32::try_from(stats.texts).unwrap_or(u32::MAX));
        });
    }

    fn failed(self, error: &EngineError) {
        let error = WireError::new(ErrorCode::EngineFailed, format!("the engine failed on this text: {error}"));
        self.job.text_failed(self.index, error);
    }

    fn expired(self) {
        self.job.text_failed(self.index, WireError::deadline_exceeded());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortened_vectors_have_unit_length() {
        let short = shorten(&[3.0, 4.0, 100.0], 2);
        assert_eq!(short, [0.6, 0.8]);
        assert!(shorten(&[0.0, 0.0, 1.0], 2).iter().all(|x| x.is_finite()));
    }
}
