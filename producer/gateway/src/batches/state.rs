//! A batch, and how far it is. Pure.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use embed_client::{JobId, RemovalKey, Slug};
use serde::{Deserialize, Serialize};

use super::objects::{Batch, BatchError, BatchErrors, ListKind, RequestCounts, Status};
use crate::error::ApiError;

/// Reasons that are listed of a file that cannot be a batch.
pub(super) const MAX_ERRORS: usize = 100;

/// What is kept of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) batch: Batch,
    /// The name of the key that it was sent with, if there were keys.
    pub(super) key_name: Option<String>,
    /// The gateway that runs it, or has run it last.
    pub(super) run: String,
    /// The beginning of its jobs' ids.
    pub(super) job: JobId,
    /// What proves to workers that their results are ours to remove.
    pub(super) key: RemovalKey,
    /// The embedding space of each model's vectors: there are no others in the output.
    pub(super) spaces: BTreeMap<Slug, String>,
    /// Lines that are in the files below.
    pub(super) lines: u64,
    pub(super) output: Written,
    pub(super) errors: Written,
}

/// What is durable of a file that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) parts: u64,
    pub(super) bytes: u64,
}

/// Why a batch ends before all of its requests are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Expired,
}

impl Stop {
    /// What is said of a request that was not done.
    pub(super) const fn error(self) -> (&'static str, &'static str) {
        match self {
            Self::Cancelled => ("batch_cancelled", "This request was not done before the batch was cancelled."),
            Self::Expired => {
                ("batch_expired", "This request could not be executed before the completion window expired.")
            }
        }
    }
}

impl State {
    /// The id of the file of vectors, once there is one.
    pub(super) fn output_id(&self) -> String {
        self.file_id("o")
    }

    /// The same of the requests that have none.
    pub(super) fn errors_id(&self) -> String {
        self.file_id("e")
    }

    fn file_id(&self, what: &str) -> String {
        format!("file-{}{what}", self.batch.id.trim_start_matches("batch_"))
    }

    /// The file has been read through.
    pub(super) fn begin(&mut self, total: u64, now: u64) {
        self.batch.status = Status::InProgress;
        self.batch.in_progress_at = Some(now);
        self.batch.request_counts = RequestCounts { total, ..RequestCounts::default() };
    }

    /// The file cannot be a batch.
    pub(super) fn fail(&mut self, mut data: Vec<BatchError>, now: u64) {
        data.truncate(MAX_ERRORS);
        self.batch.status = Status::Failed;
        self.batch.failed_at = Some(now);
        self.batch.errors = Some(BatchErrors { object: ListKind::List, data });
    }

    /// Somebody wants it cancelled.
    pub(super) fn cancel(&mut self, now: u64) {
        if !self.batch.status.is_over() && self.batch.status != Status::Cancelling {
            self.batch.status = Status::Cancelling;
            self.batch.cancelling_at = Some(now);
        }
    }

    /// All of it is in the files.
    pub(super) fn end(&mut self, stop: Option<Stop>, now: u64) {
        let batch = &mut self.batch;
        match stop {
            None => (batch.status, batch.completed_at) = (Status::Completed, Some(now)),
            Some(Stop::Cancelled) => (batch.status, batch.cancelled_at) = (Status::Cancelled, Some(now)),
            Some(Stop::Expired) => (batch.status, batch.expired_at) = (Status::Expired, Some(now)),
        }
    }

    /// Whether vectors of this space may be in the output: the first of a model decides.
    pub(super) fn takes(&mut self, model: &Slug, space: &str) -> Result<(), ApiError> {
        let first = self.spaces.entry(model.clone()).or_insert_with(|| space.to_owned());
        if **first == *space {
            return Ok(());
        }
        let message = format!(
            "model: it has changed from the embedding space {first} to {space} while this batch ran, and vectors of both cannot be compared: \
             send all requests again, or these with others of the new space"
        );
        Err(ApiError::new(StatusCode::CONFLICT, "space_changed", message).about("model"))
    }
}
