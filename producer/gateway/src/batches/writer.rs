//! The files of a batch: written line by line, durable part by part.

use std::collections::BTreeMap;

use bytes::Bytes;
use embed_client::{Client, JobId, Slug};
use embed_schemas::removal::MAX_REMOVALS;

use super::{
    asking::Done,
    lines::Line,
    now,
    objects::{Batch, FileKind, FileObject, FileStatus, Purpose},
    output::Place,
    queue::Answer,
    state::{State, Stop, Written},
    store::{Failure, Owner, Store, StoredFile},
};

/// Bytes of a part: what is kept in memory of each of the two files.
const PART_BYTES: usize = 4 << 20;

pub(super) struct Writer {
    store: Store,
    client: Client,
    owner: Owner,
    pub(super) state: State,
    output: Vec<u8>,
    errors: Vec<u8>,
    /// Lines that are written, durable or not, and what became of them.
    lines: u64,
    completed: u64,
    failed: u64,
    /// Jobs whose results nobody needs any more once what is written is durable.
    done: Vec<(Slug, JobId)>,
}

impl Writer {
    /// Goes on where the last durable part ends.
    pub(super) fn new(store: Store, client: Client, owner: Owner, state: State) -> Self {
        let (lines, counts) = (state.lines, state.batch.request_counts);
        let (completed, failed) = (counts.completed, counts.failed);
        let (output, errors, done) = Default::default();
        Self { store, client, owner, state, output, errors, lines, completed, failed, done }
    }

    /// Whether as much is written as a part may have.
    pub(super) fn is_due(&self) -> bool {
        self.output.len().max(self.errors.len()) >= PART_BYTES
    }

    /// Whether anything is written that is not durable.
    pub(super) const fn is_behind(&self) -> bool {
        self.lines > self.state.lines
    }

    /// Writes what became of a group.
    pub(super) fn take(&mut self, done: Done) {
        let Done { group, answer, model } = done;
        let batch = self.state.batch.id.clone();
        let mut texts = answer.as_ref().map(Answer::texts).map_err(Clone::clone);
        for line in &group.lines {
            let place = Place { batch: &batch, line: self.lines, custom_id: &line.custom_id };
            let rows = line.request.as_ref().map_err(Clone::clone).and_then(|request| {
                let texts = texts.as_mut().map_err(|error| error.clone())?;
                // All of them are taken, so that the next line finds its own.
                let rows: Vec<_> = texts.take(request.texts.len()).collect();
                let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
                for (result, _) in &rows {
                    self.state.takes(&result.model, &result.space)?;
                }
                Ok((request, rows))
            });
            match rows {
                Ok((request, rows)) => {
                    let served = rows.first().map_or("", |(result, _)| result.model.as_str());
                    let model = request.target.model.as_deref().unwrap_or(served);
                    place.vectors(model, &rows, request.base64, &mut self.output);
                    self.completed += 1;
                }
                Err(error) => {
                    place.refused(&error, &mut self.errors);
                    self.failed += 1;
                }
            }
            self.lines += 1;
        }
        drop(texts);
        if let (Some(model), Ok(answer)) = (model, answer) {
            self.done.extend(answer.jobs.into_iter().map(|job| (model.clone(), job)));
        }
    }

    /// Writes of a line that it was not done.
    pub(super) fn undone(&mut self, line: &Line, stop: Stop) {
        let place = Place { batch: &self.state.batch.id, line: self.lines, custom_id: &line.custom_id };
        let (code, message) = stop.error();
        place.undone(code, message, &mut self.errors);
        self.failed += 1;
        self.lines += 1;
    }

    /// Makes durable what is written: parts first, then the state that counts them. Then the results can go.
    ///
    /// # Errors
    /// If the store fails, or if another gateway runs the batch by now.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let kept = self.store.batch(&self.owner, &self.state.batch.id).await?;
        if kept.is_none_or(|kept| kept.run != self.state.run) {
            return Err(Failure::TakenOver);
        }
        let (output, errors) = (self.state.output_id(), self.state.errors_id());
        let mut state = self.state.clone();
        for (file, written, bytes) in
            [(output, &mut state.output, &mut self.output), (errors, &mut state.errors, &mut self.errors)]
        {
            if !bytes.is_empty() {
                self.store.put_part(&self.owner, &file, written.parts, Bytes::from(bytes.clone())).await?;
                *written = Written { parts: written.parts + 1, bytes: written.bytes + bytes.len() as u64 };
            }
        }
        state.lines = self.lines;
        state.batch.request_counts.completed = self.completed;
        state.batch.request_counts.failed = self.failed;
        self.store.put_batch(&self.owner, &state).await?;
        self.store.open(&self.owner, &state.batch.id).await?;
        self.state = state;
        self.output.clear();
        self.errors.clear();
        self.remove_results();
        Ok(())
    }

    /// Ends the files, and the batch.
    pub(super) async fn finish(mut self, stop: Option<Stop>, file_age: u64) -> Result<Batch, Failure> {
        self.flush().await?;
        let (output, errors) = (self.state.output, self.state.errors);
        if output.parts > 0 {
            let id = self.state.output_id();
            self.close(&id, output, "output", file_age).await?;
            self.state.batch.output_file_id = Some(id);
        }
        if errors.parts > 0 {
            let id = self.state.errors_id();
            self.close(&id, errors, "error", file_age).await?;
            self.state.batch.error_file_id = Some(id);
        }
        self.state.end(stop, now());
        self.store.put_batch(&self.owner, &self.state).await?;
        self.store.close(&self.owner, &self.state.batch.id).await?;
        Ok(self.state.batch)
    }

    async fn close(&self, id: &str, written: Written, what: &str, file_age: u64) -> Result<(), Failure> {
        let file = FileObject {
            id: id.to_owned(),
            object: FileKind::File,
            bytes: written.bytes,
            created_at: now(),
            expires_at: Some(now() + file_age),
            filename: format!("{}_{what}.jsonl", self.state.batch.id),
            purpose: Purpose::BatchOutput,
            status: FileStatus::Processed,
        };
        self.store.put_file(&self.owner, &StoredFile { file, parts: written.parts }).await
    }

    /// Has the results removed that are in the files now. What is not removed expires.
    fn remove_results(&mut self) {
        let mut by_model: BTreeMap<Slug, Vec<JobId>> = BTreeMap::new();
        for (model, job) in self.done.drain(..) {
            by_model.entry(model).or_default().push(job);
        }
        let (client, key) = (self.client.clone(), self.state.key.clone());
        tokio::spawn(async move {
            for (model, jobs) in by_model {
                for jobs in jobs.chunks(MAX_REMOVALS) {
                    if let Err(error) = client.remove_results(&model, None, &key, jobs.to_vec()).await {
                        tracing::debug!(%model, %error, "results of a batch stay in their stream until they expire");
                    }
                }
            }
        });
    }
}
