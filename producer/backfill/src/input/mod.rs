//! What is read: files, one after another, as rows.
//!
//! | module | does |
//! |---|---|
//! | `source` | what a file held when the backfill began, and whether it is still the same |
//! | `lines` | JSON lines -> rows |
//! | `fields` | which fields of a row are the text, the id, and what comes along |

mod fields;
mod lines;
mod source;

use std::{io::BufRead, path::Path};

use embed_schemas::WireError;
use serde::{Deserialize, Serialize};

pub(crate) use self::{fields::Fields, source::is_stream};
use self::{lines::Lines, source::Source};
use crate::{
    Error, Parameters,
    row::{Position, Row},
};

/// What is read, as it was when the backfill began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The files, in the order in which they are read. One that is called `-` is standard input.
    pub files: Vec<InputFile>,
}

/// A file that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its path, or `-`.
    pub location: String,
    /// Bytes. `None` of standard input.
    pub bytes: Option<u64>,
    /// SHA-256 of these bytes in hexadecimal digits, if it is known.
    pub sha256: Option<String>,
}

impl Plan {
    /// Looks at what is to be read.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) async fn make(parameters: &Parameters) -> Result<Self, Error> {
        let mut files = Vec::new();
        for input in &parameters.inputs {
            if is_stream(input) {
                files.push(InputFile { location: input.clone(), bytes: None, sha256: None });
                continue;
            }
            let path = std::path::absolute(input).map_err(Error::file(input))?;
            files.push(in_a_thread(move || source::look(&path)).await?);
        }
        Ok(Self { files })
    }

    /// Makes sure that everything is still as it was.
    ///
    /// # Errors
    /// [`Error::Backfill`] if something is not; the message says what to do.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        for file in self.files.clone() {
            in_a_thread(move || source::check(&file)).await?;
        }
        Ok(())
    }

    /// Bytes of all files. `None` if standard input is one.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes before a position, of all files.
    #[must_use]
    pub fn bytes_before(&self, at: Position) -> u64 {
        self.files.iter().take(at.file).filter_map(|file| file.bytes).sum::<u64>() + at.bytes
    }

    /// Whether a run can go on: what standard input held is gone.
    #[must_use]
    pub fn can_be_read_again(&self) -> bool {
        self.files.iter().all(|file| !is_stream(&file.location))
    }

    /// Opens the files at a position.
    ///
    /// # Errors
    /// If a field cannot come along.
    pub(crate) fn rows(&self, parameters: &Parameters, at: Position) -> Result<Rows, Error> {
        let fields = Fields::of(parameters).map_err(Error::Backfill)?;
        Ok(Rows { plan: self.clone(), fields, at, open: None })
    }
}

/// All rows, read by whoever asks; it may take as long as a file or standard input takes.
pub(crate) struct Rows {
    plan: Plan,
    fields: Fields,
    at: Position,
    open: Option<Lines<Source>>,
}

impl Rows {
    fn read(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let Some(file) = self.plan.files.get(self.at.file) else { return Ok(None) };
            let lines = match &mut self.open {
                Some(lines) => lines,
                None => self.open.insert(Lines::new(source::open(file, self.at.bytes)?, self.at, self.fields.clone())),
            };
            if let Some(row) = lines.next().map_err(Error::file(&file.location))? {
                self.at = row.end;
                return Ok(Some(row));
            }
            source::check_whole(file, lines.reader())?;
            self.open = None;
            self.at = Position { file: self.at.file + 1, bytes: 0, lines: 0, rows: self.at.rows };
        }
    }
}

/// The error of a file that cannot be read, or ends too early, is the last item.
impl Iterator for Rows {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Where a row ends, and its text or what is wrong with its line.
pub type ReadRow = (Position, Result<String, WireError>);

/// Reads JSON lines as a backfill does: where each row ends, and its text or what is wrong with the line. The reader stands at `at`.
///
/// # Errors
/// If a field cannot come along, or the input cannot be read.
pub fn read_rows(reader: impl BufRead, at: Position, parameters: &Parameters) -> Result<Vec<ReadRow>, Error> {
    let fields = Fields::of(parameters).map_err(Error::Backfill)?;
    let mut input = Lines::new(reader, at, fields);
    let rows = std::iter::from_fn(|| input.next().transpose());
    let read: std::io::Result<Vec<_>> = rows.map(|row| row.map(|row| (row.end, row.content))).collect();
    read.map_err(Error::file(Path::new("the input")))
}

/// For what reads a whole file.
async fn in_a_thread<T: Send + 'static>(read: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Error::Backfill(format!("a task failed: {error}")))?
}
