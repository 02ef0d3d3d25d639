//! A row on its way: where it was read, what it says, what became of it.

use std::sync::Arc;

use arrow_array::RecordBatch;
use embed_schemas::WireError;
use serde::{Deserialize, Serialize};

/// How far the input has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The file, counted from 0.
    #[serde(default)]
    pub file: usize,
    /// Bytes of this file, where it is read as lines. 0 where it is read in row groups.
    pub bytes: u64,
    /// Lines or records of this file, blank and unselected ones included.
    pub lines: u64,
    /// Rows that are selected, of all files.
    pub rows: u64,
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
    /// The input after this row.
    pub(crate) end: Position,
}

impl<T> Row<T> {
    /// The same row with other content.
    pub(crate) fn with<U>(self, content: impl FnOnce(Result<T, WireError>) -> Result<U, WireError>) -> Row<U> {
        let Self { number, label, content: before, along, end } = self;
        Row { number, label, content: content(before), along, end }
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
pub(crate) struct Vector {
    pub(crate) values: Vec<f32>,
    /// Tokens that went into it.
    pub(crate) tokens: u32,
    /// Whether its text was cut.
    pub(crate) truncated: bool,
    /// Of which part of the text it is, if not of all of it.
    pub(crate) window: Option<Window>,
}

/// A row that is done: it is written once for each of its vectors, of which there is at least one, or once with its error.
pub(crate) type Done = Row<Vec<Vector>>;
