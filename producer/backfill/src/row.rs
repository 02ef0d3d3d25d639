//! A row on its way: where it was read, what it says, what became of it.

use std::{fmt, sync::Arc};

use arrow_array::RecordBatch;
use embed_schemas::WireError;
use serde::{Deserialize, Serialize};

/// How far the input has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The file, counted from 0.
    #[serde(default)]
    pub file: usize,
    /// Bytes of this file. Where it is not read as lines that are there as they are, only to tell how far it is.
    pub bytes: u64,
    /// Lines or records of this file, blank and unselected ones included.
    pub lines: u64,
    /// Rows that are selected, of all files.
    pub rows: u64,
}

/// Where a row was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Origin {
    /// The file, counted from 0.
    pub(crate) file: usize,
    /// Its first line there, or its number among the rows of a table, counted from 1.
    pub(crate) line: u64,
}

/// A row, with what is known of it by then: its text, what is to be done for it, or its vectors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row<T = String> {
    /// Counted from 0, over all files.
    pub(crate) number: u64,
    /// What the output calls it.
    pub(crate) label: Label,
    /// Its content, or why it has none.
    pub(crate) content: Result<T, WireError>,
    /// What comes along.
    pub(crate) along: Along,
    /// What its vectors are of, if it is of use to know.
    pub(crate) digest: Option<Digest>,
    /// Where it was read.
    pub(crate) origin: Origin,
    /// The input after this row.
    pub(crate) end: Position,
    /// Whether its vectors are those of an equal row.
    pub(crate) reused: bool,
}

impl<T> Row<T> {
    /// The same row with other content.
    pub(crate) fn with<U>(self, content: impl FnOnce(Result<T, WireError>) -> Result<U, WireError>) -> Row<U> {
        let Self { number, label, content: before, along, digest, origin, end, reused } = self;
        Row { number, label, content: content(before), along, digest, origin, end, reused }
    }

    /// Bytes that it takes in memory without its content, roughly.
    pub(crate) fn weight(&self) -> usize {
        let label = match &self.label {
            Label::Id(id) => id.len(),
            Label::Line(_) => 0,
        };
        let along = match &self.along {
            Along::Json(json) => json.len(),
            Along::Columns(..) | Along::Nothing => 0,
        };
        size_of::<Self>() + label + along
    }
}

/// What a vector is of: the first half of the SHA-256 of a text and of all that decides what its vectors are. Rows of one digest have the
/// same vectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 16]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a row is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Label {
    /// By its id, in JSON, as it was written.
    Id(String),
    /// By its line in its file, counted from 1: it has no id, or cannot be read. An id that we made could be another row's.
    Line(u64),
}

/// What comes along with a row, in the form that the output writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Along {
    /// Fields in JSON, each with a comma before it.
    Json(String),
    /// A row of a batch whose schema is that of the plan: the id, if it is a column, and the columns that are kept.
    Columns(Arc<RecordBatch>, usize),
    /// A row that cannot be read.
    Nothing,
}

/// What is to be done for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// These pieces of its text are embedded; never empty.
    Embed(Vec<Piece>),
    /// Its vectors are those of an equal row, which has them when this row is written.
    Known,
}

/// What was done for a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// It was embedded.
    Vectors(Vec<Vector>),
    /// As [`Work::Known`].
    Known,
}

/// What is embedded of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Where it lies, if it is not the whole of it.
    pub(crate) window: Option<Window>,
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Counted from 0.
    pub index: u32,
    /// Its first character in the text, counted from 0 in Unicode code points.
    pub start: u64,
    /// The character after its last.
    pub end: u64,
}

/// A vector, and what the worker says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// Its numbers.
    pub values: Vec<f32>,
    /// Tokens that went into it.
    pub tokens: u32,
    /// Whether its text was cut.
    pub truncated: bool,
    /// Of which part of the text it is, if not of all of it.
    pub window: Option<Window>,
}

/// A row that is done: it is written once for each of its vectors, of which there is at least one, or once with its error.
pub(crate) type Done = Row<Vec<Vector>>;
