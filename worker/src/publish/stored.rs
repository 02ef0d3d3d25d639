//! Results are stored once: the first publication on a result's subject wins, and later ones are recognized.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{JobId, Slug, metrics as names, streams, subjects};
use metrics::counter;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::encoded::Encoded;
use crate::jetstream::{StoreClient, StoreError};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The server refuses a message whose subject holds one in the stream.
const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The server refuses what another stream would store.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// How an attempt to store ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is in the stream now.
    New,
    /// The stream had a result for this job already.
    Before,
    /// The worker had to give up.
    No,
    /// The server will never take it.
    Never(String),
}

/// What cannot be stored at the moment, by kind of stream, for whoever asks why the worker is not ready. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct StoreTrouble(Arc<Mutex<BTreeMap<&'static str, (String, Instant)>>>);

impl StoreTrouble {
    /// Trouble is forgotten when nothing has met it for so long.
    const MEMORY: Duration = Duration::from_secs(5);

    fn met(&self, stream: &'static str, trouble: String) {
        self.0.lock().insert(stream, (trouble, Instant::now()));
    }

    fn over(&self, stream: &'static str) {
        self.0.lock().remove(stream);
    }

    /// What it is, if there is any.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let trouble = self.0.lock();
        let lately = trouble.iter().filter(|(_, (_, met))| met.elapsed() < Self::MEMORY);
        lately.map(|(stream, (reason, _))| format!("the stream of {stream}: {reason}")).collect()
    }
}

/// Stores messages, and tries again as long as that can help.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    client: StoreClient,
    give_up: CancellationToken,
    trouble: StoreTrouble,
}

impl Storage {
    pub(super) fn new(client: StoreClient, give_up: CancellationToken, trouble: StoreTrouble) -> Self {
        Self { client, give_up, trouble }
    }

    /// Stores an outcome, and waits for the server to say that it did. While it cannot be stored (no leader, a full stream,
    /// no connection) it is tried again: that holds the job's permit, and so slows down what is pulled.
    pub(super) async fn outcome(&self, model: &Slug, id: &JobId, outcome: &Encoded) -> Stored {
        let mut headers = outcome.headers.clone();
        headers.insert(EXPECTED_STREAM, streams::results_stream(model).as_str());
        headers.insert(EXPECTED_LAST_SEQUENCE, "0");
        // A stream that an older `embed init` made takes results on their own subject; there, they are heard before they are stored.
        let subjects = [subjects::store(model, id), subjects::result(model, id)];
        self.keep_trying("results", &subjects, &headers, &outcome.payload).await
    }

    /// Stores a dead letter.
    pub(super) async fn dead_letter(&self, subject: String, headers: &HeaderMap, payload: &Bytes) -> Stored {
        self.keep_trying("dead", &[subject], headers, payload).await
    }

    async fn keep_trying(
        &self,
        stream: &'static str,
        subjects: &[String],
        headers: &HeaderMap,
        payload: &Bytes,
    ) -> Stored {
        let mut delay = FIRST_DELAY;
        loop {
            let error = match self.try_subjects(subjects, headers, payload).await {
                Ok(()) => {
                    self.trouble.over(stream);
                    return Stored::New;
                }
                Err(StoreError::Exists) => return Stored::Before,
                Err(StoreError::Unacceptable(reason)) => return Stored::Never(reason),
                Err(error) => error,
            };
            let subject = &subjects[0];
            tracing::warn!(%error, subject, "a message could not be stored; trying again");
            self.trouble.met(stream, error.to_string());
            counter!(names::STORE_RETRIES_TOTAL, &[(names::STREAM, stream)]).increment(1);
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                () = self.give_up.cancelled() => return Stored::No,
            }
        }
    }

    /// On the first of these subjects that a stream takes.
    async fn try_subjects(&self, subjects: &[String], headers: &HeaderMap, payload: &Bytes) -> Result<(), StoreError> {
        let mut result = Err(StoreError::NoStream);
        for subject in subjects {
            let stored = tokio::select! {
                stored = self.client.store(subject.clone(), headers.clone(), payload.clone()) => stored,
                () = self.give_up.cancelled() => Err(StoreError::Unanswered("the worker stops".to_owned())),
            };
            result = stored;
            if !matches!(result, Err(StoreError::NoStream)) {
                break;
            }
        }
        result
    }
}
