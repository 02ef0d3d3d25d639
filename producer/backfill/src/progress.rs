//! How far a backfill is, and how it ended.

use std::{path::PathBuf, time::Duration};

use embed_schemas::JobId;
use serde::Serialize;

use crate::{Failures, Skipped, Wish};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows written, by earlier runs too.
    pub rows: u64,
    /// Rows written by this run.
    pub rows_now: u64,
    /// Of all rows written, those whose vector is that of an equal row.
    pub reused: u64,
    /// Of all rows written, those that have an error instead of a vector.
    pub failed: u64,
    /// Bytes of the input that are done.
    pub input_bytes: u64,
    /// Bytes of the input. `None` if it is standard input.
    pub input_size: Option<u64>,
    /// Tokens of the rows written by this run.
    pub tokens_now: u64,
    /// Jobs of this run that are in flight.
    pub in_flight: usize,
    /// Jobs that wait in their stream, everybody's. `None` where that may not be asked.
    pub waiting: Option<u64>,
    /// Whether nothing new is begun, since a stream is nearly full.
    pub is_held: bool,
    /// For how long this run has been running.
    pub elapsed: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The backfill's id.
    pub id: JobId,
    /// The file that was written.
    pub output: PathBuf,
    /// Whether the whole input is done. If not, the run was asked to stop.
    pub finished: bool,
    /// What somebody wanted of the run from elsewhere, if that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Wish>,
    /// Rows read.
    pub rows: u64,
    /// Rows that were embedded.
    pub stored: u64,
    /// Rows whose vector is that of an equal row.
    pub reused: u64,
    /// Ids of the previous output that are gone, if there is one and that is known.
    pub removed: Option<u64>,
    /// Rows that have an error.
    pub failed: u64,
    /// Why they have it.
    pub failures: Failures,
    /// Files of which rows are left out, since they cannot be read.
    pub skipped: Skipped,
    /// What was said when the backfill began of what is read, and of what is not.
    pub notes: Vec<String>,
    /// Rows of which some text was not embedded, since the model takes no more of it at once.
    pub truncated: u64,
    /// Rows whose text was taken apart into windows.
    pub split: u64,
    /// The windows of those.
    pub windows: u64,
    /// Tokens that went into the vectors.
    pub tokens: u64,
    /// Results of rows that are written, which could not be removed from their stream, as far as is known. 0 if they are to be
    /// kept.
    pub results_left: u64,
    /// Seconds that this run took.
    pub seconds: f64,
    /// Rows per second of this run.
    pub rows_per_second: f64,
}
