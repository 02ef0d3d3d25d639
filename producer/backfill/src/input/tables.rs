//! Tables in batches: Parquet by row groups, Arrow by the batches that it was written in. Only the columns that are needed are read.

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read},
};

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    },
};

use super::{format::Format, select::Selection, source::Source};

/// The first bytes of an Arrow file.
const ARROW_FILE: &[u8] = b"ARROW1";
/// The first bytes of an Arrow stream: anything else would be taken for the length of what follows.
const ARROW_STREAM: &[u8] = &[0xff; 4];
/// Bytes that a batch of rows should have at most, as far as that can be told before they are read.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows that a batch has at most.
const BATCH_ROWS: u64 = 1_024;

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
    File(FileReader<BufReader<Source>>),
    Stream(StreamReader<Box<dyn Read + Send>>),
}

impl Opened {
    /// Opens a table. `roots`: the columns that are read, all if `None`; a Parquet file is told later.
    pub(super) fn new(input: Input, format: Format, roots: Option<Vec<usize>>) -> io::Result<Self> {
        match input {
            Input::Stream(stream) => StreamReader::try_new(stream, roots).map(Self::Stream).map_err(of_arrow),
            Input::Whole(source) if format == Format::Parquet => {
                // What Arrow has written of its own types is taken: they are what the writer meant.
                let metadata =
                    ArrowReaderMetadata::load(&source, ArrowReaderOptions::new()).map_err(io::Error::other)?;
                Ok(Self::Parquet(source, metadata))
            }
            Input::Whole(source) if source.head()?.starts_with(ARROW_FILE) => {
                FileReader::try_new(BufReader::new(source), roots).map(Self::File).map_err(of_arrow)
            }
            Input::Whole(source) if source.head()?.starts_with(ARROW_STREAM) => {
                Self::new(Input::Stream(Box::new(BufReader::new(source))), format, roots)
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
        open: Option<(u64, ParquetRecordBatchReader)>,
    },
    Arrow {
        reader: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
        selection: Selection,
        skip: u64,
        number: u64,
        before: u64,
    },
}

impl Batches {
    /// Reads on behind so many rows. Parquet has all columns when it is opened: those that are read are `roots`.
    pub(super) fn new(opened: Opened, roots: Vec<usize>, selection: Selection, skip: u64) -> Self {
        let arrow = |reader| Self::Arrow { reader, selection, skip, number: 0, before: 0 };
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
        match self {
            Self::Arrow { reader, selection, skip, number, before } => {
                for batch in reader.by_ref() {
                    let batch = batch.map_err(of_arrow)?;
                    let (first, rows) = (*before, batch.num_rows() as u64);
                    let is_taken = selection.takes_group(*number);
                    *number += 1;
                    *before += rows;
                    if is_taken && *skip < first + rows {
                        // At most the rows of a batch.
                        let skipped = skip.saturating_sub(first) as usize;
                        let rows = batch.slice(skipped, batch.num_rows() - skipped);
                        return Ok(Some(Batch { rows, before: first + skipped as u64 }));
                    }
                }
                Ok(None)
            }
            Self::Parquet { source, metadata, mask, groups, open } => loop {
                if let Some((before, reader)) = open {
                    if let Some(rows) = reader.next() {
                        let rows = rows.map_err(of_arrow)?;
                        let batch = Batch { before: *before, rows };
                        *before += batch.rows.num_rows() as u64;
                        return Ok(Some(batch));
                    }
                    *open = None;
                }
                let Some((number, before, skip)) = groups.pop_front() else { return Ok(None) };
                let group = metadata.metadata().row_group(number);
                let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
                let bytes_each = (u64::try_from(group.total_byte_size()).unwrap_or(0) / rows).max(1);
                let size = (BATCH_BYTES / bytes_each).clamp(1, BATCH_ROWS);
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source.clone(), metadata.clone())
                    .with_row_groups(vec![number])
                    .with_projection(mask.clone())
                    .with_offset(usize::try_from(skip).map_err(io::Error::other)?)
                    .with_batch_size(usize::try_from(size).map_err(io::Error::other)?);
                *open = Some((before + skip, builder.build().map_err(io::Error::other)?));
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
