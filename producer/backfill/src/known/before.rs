//! A row that was done before.

use crate::{
    StoredRow,
    row::{Digest, Vector},
};

/// A row of a previous output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Before {
    /// What it is called, in JSON; `None` if it has no id.
    pub(super) id: Option<String>,
    /// The digest of its text, and its vectors; `None` if it has none.
    pub(super) content: Option<(Digest, Vec<Vector>)>,
}

impl From<StoredRow> for Before {
    fn from(row: StoredRow) -> Self {
        let StoredRow { id, digest, vectors } = row;
        Self { id, content: digest.filter(|_| !vectors.is_empty()).map(|digest| (digest, vectors)) }
    }
}
