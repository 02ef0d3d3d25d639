//! Tables in batches: Parquet by row groups, Arrow by the batches that it was written in. Only the columns that are needed are read.

use std::{
    any::Any,
    collections::VecDeque,
    io::{self, BufReader, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::{ProjectionMask, arrow_reader::ArrowReaderMetadata};

use super::{
    footer,
    format::Format,
    ipc::{ArrowFile, Checked},
    pages,
    select::Selection,
    source::Source,
};

/// The first bytes of an Arrow file.
const ARROW_FILE: &[u8] = b"ARROW1";
/// The first bytes of an Arrow stream: anything else would be taken for the length of what follows.
const ARROW_STREAM: &[u8] = &[0xff; 4];
/// Bytes that a batch of rows should have at most, as far as that can be told before they are read.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows that a batch has at most.
const BATCH_ROWS: u64 = 1_024;

/// Rows that no table has. Beyond it, places in it could not be counted.
const MOST_ROWS: u64 = 1 << 62;

/// What a table is read from.
pub(super) enum Input {
    /// A file that can be read anywhere.
    Whole(Source),
    /// An Arrow stream.
    Stream(Box<dyn Read + Send>),
}

/// Some rows of a table, one behind the other.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) rows: RecordBatch,
    /// Rows of the table before the first.
    pub(super) before: u64,
}

/// A table that has been opened, of which nothing has been read but what it is.
pub(super) enum Opened {
    Parquet(Source, ArrowReaderMetadata),
    File(ArrowFile),
    Stream(StreamReader<Checked<Box<dyn Read + Send>>>),
}

/// What the libraries that read tables return, also if that is a panic: files are what others have written, and each that cannot be read is
/// an error of that file.
pub(super) fn contained<T>(read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        let reason = text.unwrap_or("no reason given");
        Err(io::Error::other(format!("what reads it has panicked ({reason}): write it again from its source")))
    })
}

impl Opened {
    /// Opens a table. `roots`: the columns that are read, all if `None`; a Parquet file is told later.
    pub(super) fn new(input: Input, format: Format, roots: Option<Vec<usize>>) -> io::Result<Self> {
        contained(|| Self::open(input, format, roots))
    }

    fn open(input: Input, format: Format, roots: Option<Vec<usize>>) -> io::Result<Self> {
        match input {
            Input::Stream(stream) => {
                StreamReader::try_new(Checked::new(stream), roots).map(Self::Stream).map_err(of_arrow)
            }
            Input::Whole(source) if format == Format::Parquet => {
                let metadata = footer::read(&source)?;
                let mut rows =
                    metadata.metadata().row_groups().iter().map(|group| u64::try_from(group.num_rows()).ok());
                let all = rows.try_fold(0_u64, |all, rows| all.checked_add(rows?)).filter(|all| *all <= MOST_ROWS);
                all.ok_or_else(|| io::Error::other("its row groups cannot have as many rows as it says"))?;
                Ok(Self::Parquet(source, metadata))
            }
            Input::Whole(source) if source.head()?.starts_with(ARROW_FILE) => {
                ArrowFile::open(source, roots).map(Self::File).map_err(of_arrow)
            }
            Input::Whole(source) if source.head()?.starts_with(ARROW_STREAM) => {
                Self::open(Input::Stream(Box::new(BufReader::new(source))), format, roots)
            }
            Input::Whole(_) => Err(io::Error::other("it is neither an Arrow file nor an Arrow stream")),
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        match self {
            Self::Parquet(_, metadata) => metadata.schema().clone(),
            Self::File(reader) => reader.schema(),
            Self::Stream(reader) => reader.schema(),
        }
    }

    /// Rows, if that is known.
    pub(super) fn rows(&self) -> Option<u64> {
        match self {
            Self::Parquet(_, metadata) => u64::try_from(metadata.metadata().file_metadata().num_rows()).ok(),
            _ => None,
        }
    }
}

/// The columns of a schema that are needed for those that are named, by their names or by paths to them.
pub(super) fn roots<'a>(schema: &Schema, names: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let mut roots: Vec<usize> = names
        .filter_map(|path| {
            let ends = path.match_indices('.').map(|(at, _)| at);
            std::iter::once(path.len()).chain(ends).find_map(|end| schema.index_of(&path[..end]).ok())
        })
        .collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// The batches of a table, from a row on.
pub(super) enum Batches {
    Parquet {
        source: Source,
        metadata: ArrowReaderMetadata,
        mask: ProjectionMask,
        /// Row groups that are still to be read: number, rows before it, rows of it to skip.
        groups: VecDeque<(usize, u64, u64)>,
        /// One that is being read: rows before what comes next, and rows before the group behind it.
        open: Option<(u64, u64, pages::Rows)>,
    },
    Arrow {
        reader: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
        selection: Selection,
        skip: u64,
        number: u64,
        before: u64,
        /// What is left of a batch: each may have any number of rows, and what is made of them is larger than they are.
        rest: Option<Batch>,
    },
}

impl Batches {
    /// Reads on behind so many rows. Parquet has all columns when it is opened: those that are read are `roots`.
    pub(super) fn new(opened: Opened, roots: Vec<usize>, selection: Selection, skip: u64) -> Self {
        let arrow = |reader| Self::Arrow { reader, selection, skip, number: 0, before: 0, rest: None };
        match opened {
            Opened::File(reader) => arrow(Box::new(reader)),
            Opened::Stream(reader) => arrow(Box::new(reader)),
            Opened::Parquet(source, metadata) => {
                let mut groups = VecDeque::new();
                let mut before = 0;
                for (number, group) in metadata.metadata().row_groups().iter().enumerate() {
                    let rows = u64::try_from(group.num_rows()).unwrap_or(0);
                    if skip < before + rows && selection.takes_group(number as u64) {
                        groups.push_back((number, before, skip.saturating_sub(before)));
                    }
                    before += rows;
                }
                let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
                Self::Parquet { source, metadata, mask, groups, open: None }
            }
        }
    }

    /// The next rows; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Batch>> {
        contained(|| self.read())
    }

    fn read(&mut self) -> io::Result<Option<Batch>> {
        match self {
            Self::Arrow { reader, selection, skip, number, before, rest } => loop {
                if let Some(batch) = rest.take() {
                    let (all, some) = (batch.rows.num_rows(), batch.rows.num_rows().min(BATCH_ROWS as usize));
                    if some < all {
                        let left = batch.rows.slice(some, all - some);
                        *rest = Some(Batch { rows: left, before: batch.before + some as u64 });
                    }
                    return Ok(Some(Batch { rows: batch.rows.slice(0, some), ..batch }));
                }
                let Some(batch) = reader.next() else { return Ok(None) };
                let batch = batch.map_err(of_arrow)?;
                let (first, rows) = (*before, batch.num_rows() as u64);
                let is_taken = selection.takes_group(*number);
                *number += 1;
                *before += rows;
                if is_taken && *skip < first + rows {
                    // At most the rows of a batch.
                    let skipped = skip.saturating_sub(first) as usize;
                    let rows = batch.slice(skipped, batch.num_rows() - skipped);
                    *rest = Some(Batch { rows, before: first + skipped as u64 });
                }
            },
            Self::Parquet { source, metadata, mask, groups, open } => loop {
                if let Some((before, end, reader)) = open {
                    if let Some(rows) = reader.next() {
                        let rows = rows.map_err(of_arrow)?;
                        let batch = Batch { before: *before, rows };
                        *before += batch.rows.num_rows() as u64;
                        if before > end {
                            return Err(io::Error::other(
                                "it is damaged: a row group has more rows than its footer says",
                            ));
                        }
                        return Ok(Some(batch));
                    }
                    // The library ends without a word where a column does.
                    if before < end {
                        let missing = *end - *before;
                        return Err(io::Error::other(format!(
                            "it is damaged: a row group has {missing} rows fewer than its footer says"
                        )));
                    }
                    *open = None;
                }
                let Some((number, before, skip)) = groups.pop_front() else { return Ok(None) };
                let group = metadata.metadata().row_group(number);
                let rows = u64::try_from(group.num_rows()).unwrap_or(0);
                let bytes_each = (u64::try_from(group.total_byte_size()).unwrap_or(0) / rows.max(1)).max(1);
                let size = (BATCH_BYTES / bytes_each).clamp(1, BATCH_ROWS);
                let size = usize::try_from(size).map_err(io::Error::other)?;
                let first = usize::try_from(skip).map_err(io::Error::other)?;
                let reader = pages::read(source, metadata, mask, number, first, size).map_err(io::Error::other)?;
                *open = Some((before + skip, before + rows, reader));
            },
        }
    }
}

/// An error of a reader, without the words that say which library it comes from.
fn of_arrow(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        ArrowError::ExternalError(error) => io::Error::other(error),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{DictionaryArray, types::Int32Type};
    use arrow_ipc::writer::FileWriter;

    use super::*;
    use crate::Reading;

    #[test]
    fn a_batch_of_any_size_is_taken_in_pieces() {
        // One text for all rows: 2.5 GB, were they each a text of their own.
        let text = "x".repeat(500_000);
        let texts: DictionaryArray<Int32Type> = std::iter::repeat_n(text.as_str(), 5_000).collect();
        let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as _)]).unwrap();
        let mut writer = FileWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
        writer.write(&batch).unwrap();
        let file = Source::memory(writer.into_inner().unwrap().into());
        for skip in [0, 3_000] {
            let opened = Opened::new(Input::Whole(file.clone()), Format::Arrow, None).unwrap();
            let selection = Selection::of(&Reading::default(), 0, "");
            let mut batches = Batches::new(opened, vec![0], selection, skip);
            let mut before = skip;
            while let Some(batch) = batches.next().unwrap() {
                assert!(batch.before == before && batch.rows.num_rows() as u64 <= BATCH_ROWS);
                before += batch.rows.num_rows() as u64;
            }
            assert_eq!(before, 5_000);
        }
    }

    #[test]
    fn a_panic_of_the_library_is_an_error_of_the_file() {
        let error = contained::<()>(|| panic!("as a {} may", "library")).unwrap_err();
        assert!(
            error.to_string().contains("as a library may") && error.to_string().contains("write it again"),
            "{error}"
        );
        assert!(contained::<()>(|| std::panic::panic_any(3)).unwrap_err().to_string().contains("no reason given"));
    }
}
