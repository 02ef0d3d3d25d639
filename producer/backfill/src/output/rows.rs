//! Rows that wait to be encoded: their vectors one after another, and beside them what belongs to each.

use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::row::{Along, Digest, Done, Label, Origin, Vector, Window};

/// Bytes of vectors after which a part is closed, unless it is said otherwise.
pub(super) const PART_BYTES: u64 = 64 << 20;
/// Bytes after which rows are encoded: a row group of Parquet, a batch of Arrow.
pub(super) const GROUP_BYTES: usize = 16 << 20;

/// Bytes of batches that rows may hold: rows that are far apart in their file hold as many as there are.
const HELD_BYTES: usize = 128 << 20;

/// What belongs to a vector.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) label: Label,
    pub(super) origin: Origin,
    pub(super) along: Along,
    pub(super) tokens: u32,
    pub(super) truncated: bool,
    pub(super) window: Option<Window>,
    pub(super) digest: Option<Digest>,
}

/// Rows that wait.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) entries: Vec<Entry>,
    /// All vectors, of one length.
    pub(super) values: Vec<f32>,
    /// Bytes of what comes along in JSON.
    along: usize,
    /// Bytes of what comes along in columns, with rows beside ours.
    columns: usize,
}

impl Rows {
    pub(super) fn push(&mut self, row: &Done, vector: &Vector) {
        let Vector { values, tokens, truncated, window } = vector;
        self.values.extend_from_slice(values);
        match &row.along {
            Along::Json(along) => self.along += along.len(),
            // Held as a whole, as long as one of its rows is.
            Along::Columns(batch, _) if !self.holds_last(batch) => self.columns += batch.get_array_memory_size(),
            Along::Columns(..) | Along::Nothing => {}
        }
        self.entries.push(Entry {
            label: row.label.clone(),
            origin: row.origin,
            along: row.along.clone(),
            tokens: *tokens,
            truncated: *truncated,
            window: *window,
            digest: row.digest,
        });
    }

    /// Whether the row before is of the same batch.
    fn holds_last(&self, batch: &Arc<RecordBatch>) -> bool {
        let last = self.entries.last().map(|entry| &entry.along);
        matches!(last, Some(Along::Columns(last, _)) if Arc::ptr_eq(last, batch))
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether what is held for the sake of columns is too much.
    pub(super) const fn holds_much(&self) -> bool {
        self.columns >= HELD_BYTES
    }

    /// Bytes of the vectors, and of what comes along in JSON.
    pub(super) const fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice()) + self.along
    }

    /// Those that were cut.
    pub(super) fn truncated(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.truncated).count() as u64
    }

    /// Each with its vector.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Entry, &[f32])> {
        let dimensions = self.values.len().checked_div(self.entries.len()).unwrap_or_default();
        self.entries.iter().zip(self.values.chunks_exact(dimensions.max(1)))
    }
}
