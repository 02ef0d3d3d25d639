//! Vectors one by one, and results put together from them. Pure.

use std::sync::Arc;

use bytes::Bytes;
use embed_schemas::{EmbedResult, Encoding, Item, JobId, Slug, Timing};

use super::key::Key;

/// Bytes that an entry takes beside its vector, about: key, item, and what the cache itself keeps of it.
const ENTRY_BYTES: usize = 256;

/// What made a vector.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) model: Slug,
    pub(super) variant: Slug,
    pub(super) version: String,
    pub(super) space: String,
    pub(super) dim: u32,
    pub(super) encoding: Encoding,
}

/// The vector of one text.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) made: Arc<Made>,
    pub(super) item: Item,
    vector: Bytes,
}

impl Row {
    /// The rows of a result. Each has its bytes for itself: the last that is kept would else keep those of all.
    pub(super) fn all(result: &EmbedResult) -> Vec<Arc<Self>> {
        let made = Arc::new(Made {
            model: result.model.clone(),
            variant: result.variant.clone(),
            version: result.version.clone(),
            space: result.space.clone(),
            dim: result.dim,
            encoding: result.encoding,
        });
        let row = |(n, item): (usize, &Item)| {
            let vector = Bytes::copy_from_slice(result.row_bytes(n).unwrap_or_default());
            Arc::new(Self { made: Arc::clone(&made), item: item.clone(), vector })
        };
        result.items.iter().enumerate().map(row).collect()
    }

    /// What it takes of the cache's room, in bytes.
    pub(super) fn weight(&self) -> u32 {
        let bytes = self.vector.len().saturating_add(ENTRY_BYTES + size_of::<Key>() + size_of::<Self>());
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Whether both can stand in one result.
    pub(super) fn fits(&self, other: &Self) -> bool {
        let of = |row: &Self| (row.made.dim, row.made.encoding);
        Arc::ptr_eq(&self.made, &other.made) || (of(self) == of(other) && self.made.space == other.made.space)
    }
}

/// One result of these rows, in their order. What it says of variant and version is true of the row `by`. `None` if there is no such
/// row, or if they are not all of one space.
pub(super) fn assemble(rows: &[Arc<Row>], by: usize, id: JobId, timing: Timing) -> Option<EmbedResult> {
    let first = rows.get(by)?;
    if !rows.iter().all(|row| row.fits(first)) {
        return None;
    }
    let mut vectors = Vec::with_capacity(rows.iter().map(|row| row.vector.len()).sum());
    for row in rows {
        vectors.extend_from_slice(&row.vector);
    }
    let made = &first.made;
    Some(EmbedResult {
        id,
        model: made.model.clone(),
        variant: made.variant.clone(),
        version: made.version.clone(),
        space: made.space.clone(),
        dim: made.dim,
        encoding: made.encoding,
        vectors: vectors.into(),
        items: rows.iter().map(|row| row.item.clone()).collect(),
        timing,
    })
}
