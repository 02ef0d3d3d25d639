//! Rows -> the bytes of a file, a group at a time. All of it takes long enough to keep a runtime from its work: it is for a thread.

use std::io::{self, Write as _};

use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions},
};
use bytes::Bytes;

use super::{
    PartFormat, VectorType,
    columns::{Columns, halves},
    line::{self, Files},
    npy,
    parquet_file::ParquetFile,
    rows::Rows,
    sink::Sink,
};
use crate::Error;

/// Makes the files of a part: one, or two where a format holds nothing but vectors.
pub(super) enum Encoder {
    Parquet(Box<ParquetFile>),
    Arrow(Columns, Box<FileWriter<Sink>>),
    Jsonl(Sink, Files),
    /// Their number comes first in the file, so the vectors wait for the last of them.
    Npy {
        vector_type: VectorType,
        dimensions: usize,
        rows: usize,
        vectors: Vec<Vec<u8>>,
        ids: Sink,
        files: Files,
    },
}

impl Encoder {
    pub(super) fn new(
        format: PartFormat,
        columns: Option<Columns>,
        vector_type: VectorType,
        dimensions: usize,
        files: Files,
    ) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Backfill(format!("a part cannot be written: {error}"));
        let sink = Sink::default();
        Ok(match (format, columns) {
            (PartFormat::Parquet, Some(columns)) => {
                let file = ParquetFile::new(columns, vector_type, dimensions);
                Self::Parquet(Box::new(file.map_err(|error| failed(&error))?))
            }
            (PartFormat::Arrow, Some(columns)) => {
                let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD));
                let writer =
                    options.and_then(|options| FileWriter::try_new_with_options(sink, columns.schema(), options));
                Self::Arrow(columns, Box::new(writer.map_err(|error| failed(&error))?))
            }
            (PartFormat::Jsonl, _) => Self::Jsonl(sink, files),
            (PartFormat::Npy, _) => {
                Self::Npy { vector_type, dimensions, rows: 0, vectors: Vec::new(), ids: sink, files }
            }
            (PartFormat::Parquet | PartFormat::Arrow, None) => return Err(failed(&"its columns are not known")),
        })
    }

    /// Takes rows.
    pub(super) fn write(&mut self, rows: Rows) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Backfill(format!("rows cannot be written: {error}"));
        match self {
            Self::Parquet(file) => file.write(&rows).map_err(|error| failed(&error)),
            Self::Arrow(columns, writer) => {
                let batch = columns.batch(rows).map_err(|error| failed(&error))?;
                writer.write(&batch).map_err(|error| failed(&error))
            }
            Self::Jsonl(sink, files) => {
                let mut lines = Vec::new();
                rows.iter().for_each(|(entry, vector)| line::write_entry(&mut lines, entry, Some(vector), files));
                sink.write_all(&lines).map_err(|error| failed(&error))
            }
            Self::Npy { vector_type, rows: count, vectors, ids, files, .. } => {
                let mut lines = Vec::new();
                rows.iter().for_each(|(entry, _)| line::write_entry(&mut lines, entry, None, files));
                *count += rows.len();
                vectors.push(match vector_type {
                    VectorType::F32 => rows.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                    VectorType::F16 => {
                        let halves = halves(&rows.values).map_err(|error| failed(&error))?;
                        halves.into_iter().flat_map(|value| value.to_le_bytes()).collect()
                    }
                });
                ids.write_all(&lines).map_err(|error| failed(&error))
            }
        }
    }

    /// What can be sent by now, of each file.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        match self {
            Self::Parquet(file) => vec![file.sink().take()],
            Self::Arrow(_, writer) => vec![writer.get_mut().take()],
            Self::Jsonl(sink, _) => vec![sink.take()],
            Self::Npy { ids, .. } => vec![Bytes::new(), ids.take()],
        }
    }

    /// Ends the files: what is left to be sent of each.
    pub(super) fn finish(self) -> Result<Vec<Sink>, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Backfill(format!("a part cannot be written: {error}"));
        match self {
            Self::Parquet(file) => file.finish().map(|sink| vec![sink]).map_err(|error| failed(&error)),
            Self::Arrow(_, writer) => writer.into_inner().map(|sink| vec![sink]).map_err(|error| failed(&error)),
            Self::Jsonl(sink, _) => Ok(vec![sink]),
            Self::Npy { vector_type, dimensions, rows, vectors, ids, files: _ } => {
                let mut sink = Sink::default();
                let write = || -> io::Result<()> {
                    sink.reserve(npy::HEADER + vectors.iter().map(Vec::len).sum::<usize>());
                    sink.write_all(&npy::header(vector_type, rows, dimensions))?;
                    // Each is let go when it is copied.
                    vectors.into_iter().try_for_each(|vectors| sink.write_all(&vectors))
                };
                write().map_err(|error| failed(&error))?;
                Ok(vec![sink, ids])
            }
        }
    }
}
