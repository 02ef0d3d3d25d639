//! Files and batches, as OpenAI's clients know them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The only endpoint that a batch can be for.
pub(super) const ENDPOINT: &str = "/v1/embeddings";
/// The only window that OpenAI knows.
pub(super) const WINDOW: &str = "24h";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The requests of a batch.
    Batch,
    /// What became of them.
    BatchOutput,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "File")]
pub(crate) struct FileObject {
    pub(super) id: String,
    pub(super) object: FileKind,
    pub(super) bytes: u64,
    /// Seconds since 1970, as all times here.
    pub(super) created_at: u64,
    pub(super) expires_at: Option<u64>,
    pub(super) filename: String,
    pub(super) purpose: Purpose,
    pub(super) status: FileStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) enum FileKind {
    #[default]
    #[serde(rename = "file")]
    File,
}

/// A file is there when it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FileStatus {
    #[default]
    Processed,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Batch {
    pub(super) id: String,
    pub(super) object: BatchKind,
    pub(super) endpoint: String,
    pub(super) errors: Option<BatchErrors>,
    pub(super) input_file_id: String,
    pub(super) completion_window: String,
    pub(super) status: Status,
    pub(super) output_file_id: Option<String>,
    pub(super) error_file_id: Option<String>,
    pub(super) created_at: u64,
    pub(super) in_progress_at: Option<u64>,
    pub(super) expires_at: u64,
    pub(super) finalizing_at: Option<u64>,
    pub(super) completed_at: Option<u64>,
    pub(super) failed_at: Option<u64>,
    pub(super) expired_at: Option<u64>,
    pub(super) cancelling_at: Option<u64>,
    pub(super) cancelled_at: Option<u64>,
    pub(super) request_counts: RequestCounts,
    pub(super) metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) enum BatchKind {
    #[default]
    #[serde(rename = "batch")]
    Batch,
}

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    /// Its file is being read through.
    Validating,
    /// Its file cannot be a batch.
    Failed,
    InProgress,
    /// All requests are done, and the files are being closed.
    Finalizing,
    Completed,
    /// Its window is over; what was done until then is there.
    Expired,
    Cancelling,
    Cancelled,
}

impl Status {
    /// Whether nothing becomes of it any more.
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// Requests of a batch, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RequestCounts {
    pub(super) total: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

/// Why a file cannot be a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BatchErrors {
    pub(super) object: ListKind,
    pub(super) data: Vec<BatchError>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct BatchError {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    /// Which line, from 1.
    pub(super) line: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) enum ListKind {
    #[default]
    #[serde(rename = "list")]
    List,
}

/// Some of many.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PageOf{T}")]
pub(crate) struct Page<T> {
    pub(super) object: ListKind,
    pub(super) data: Vec<T>,
    pub(super) first_id: Option<String>,
    pub(super) last_id: Option<String>,
    pub(super) has_more: bool,
}

/// What is answered of a file that was removed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeletedFile {
    pub(super) id: String,
    pub(super) object: FileKind,
    pub(super) deleted: bool,
}
