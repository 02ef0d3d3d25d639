//! What the parts of an output are like, and what is known of one that is complete.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use super::{PartFormat, VectorType, Writing, names::Run, rows::GROUP_BYTES, upload::CHUNK_BYTES};
use crate::Parameters;

/// A file that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its name beside the manifest.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of them in hexadecimal digits.
    pub sha256: String,
}

/// A part that is complete: a file, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// The file.
    #[serde(flatten)]
    pub file: StoredFile,
    /// Its rows.
    pub rows: u64,
    /// Those of them whose text was cut.
    #[serde(default)]
    pub truncated: u64,
    /// What belongs to each of the vectors, if they are in a file of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<StoredFile>,
}

impl PartFile {
    pub(super) fn files(&self) -> impl Iterator<Item = &StoredFile> {
        std::iter::once(&self.file).chain(&self.ids)
    }
}

/// What all parts of an output are like.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) format: PartFormat,
    pub(super) vector_type: VectorType,
    /// Bytes of vectors after which a part is closed.
    pub(super) part_bytes: u64,
    /// Bytes after which rows are encoded: a row group of Parquet, a batch of Arrow.
    pub(super) group_bytes: usize,
    /// Bytes that are sent at once.
    pub(super) chunk_bytes: usize,
    /// What comes along, where it does as columns.
    pub(super) columns: Option<SchemaRef>,
    /// Which of the columns is the id.
    pub(super) id_column: String,
    /// Whether a vector may be of a part of a text.
    pub(super) windows: bool,
    /// Whose files they are.
    pub(super) run: Run,
}

impl Layout {
    /// What a backfill asks for.
    pub(super) fn of(parameters: &Parameters, format: PartFormat, columns: Option<SchemaRef>, windows: bool) -> Self {
        let Writing { vector_type, part_bytes, .. } = parameters.writing;
        let id_column = parameters.id_field.clone();
        let (group_bytes, chunk_bytes) = (GROUP_BYTES, CHUNK_BYTES);
        let run = Run::default();
        Self { format, vector_type, part_bytes, group_bytes, chunk_bytes, columns, id_column, windows, run }
    }
}
