//! The file being written. Nothing but the driver writes to it, and only whole groups of rows.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use embed_schemas::{EmbedResult, WireError};
use serde::Serialize;
use serde_json::Value;

use crate::Error;

/// An output, locked against other backfills as long as it is open.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Output {
    /// Begins a new output.
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.write(true);
        if overwrite {
            options.create(true)
        } else {
            options.create_new(true)
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::Backfill(format!("{} exists: pass --force to overwrite it", path.display()))
            }
            _ => Error::file(path)(error),
        })?;
        Self::open(path, file, 0)
    }

    /// Goes on after the first `bytes` bytes; what follows them had not been recorded, and is dropped.
    pub(super) fn reopen(path: &Path, bytes: u64) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::file(path))?;
        let length = file.metadata().map_err(Error::file(path))?.len();
        if length < bytes {
            return Err(Error::Backfill(format!(
                "{} has {length} bytes, and {bytes} were recorded: it was changed since; begin anew with --force",
                path.display()
            )));
        }
        Self::open(path, file, bytes)
    }

    fn open(path: &Path, file: File, bytes: u64) -> Result<Self, Error> {
        file.try_lock()
            .map_err(|error| Error::Backfill(format!("another backfill is writing to {} ({error})", path.display())))?;
        let prepared = || -> io::Result<()> {
            file.set_len(bytes)?;
            (&file).seek(SeekFrom::Start(bytes))?;
            Ok(())
        };
        prepared().map_err(Error::file(path))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 18, file), bytes })
    }

    /// Bytes written, those of earlier runs included.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        self.file.write_all(lines).map_err(Error::file(&self.path))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Makes all that was appended durable.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(Error::file(&self.path))
    }
}

/// A row that has a vector.
#[derive(Serialize)]
struct Stored<'a> {
    id: &'a Value,
    embedding: &'a [f32],
    tokens: u32,
    truncated: bool,
}

/// A row that has none.
#[derive(Serialize)]
struct Failed<'a> {
    id: &'a Value,
    error: &'a WireError,
}

/// Writes the line of row `row` of a result. `false` if that row has no vector.
pub(super) fn write_row(out: &mut Vec<u8>, id: &Value, result: &EmbedResult, row: usize) -> bool {
    match result.vector(row) {
        Ok(embedding) => {
            let item = &result.items[row];
            line(out, &Stored { id, embedding: &embedding, tokens: item.tokens, truncated: item.truncated });
            true
        }
        Err(error) => {
            write_error(out, id, &error);
            false
        }
    }
}

/// Writes the line of a row that has no vector.
pub(super) fn write_error(out: &mut Vec<u8>, id: &Value, error: &WireError) {
    line(out, &Failed { id, error });
}

fn line(out: &mut Vec<u8>, row: &impl Serialize) {
    serde_json::to_writer(&mut *out, row).expect("rows have string keys, and memory takes every write");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_recorded_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = Output::create(&path, false).unwrap();
        output.append(b"one\n").unwrap();
        output.append(b"half of tw").unwrap();
        output.sync().unwrap();
        let busy = Output::reopen(&path, 4).unwrap_err().to_string();
        assert!(busy.contains("another backfill"), "{busy}");
        drop(output);
        assert!(Output::create(&path, false).unwrap_err().to_string().contains("--force"));
        let mut output = Output::reopen(&path, 4).unwrap();
        output.append(b"two\n").unwrap();
        output.sync().unwrap();
        assert_eq!(output.bytes(), 8);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        drop(output);
        assert!(Output::reopen(&path, 9).unwrap_err().to_string().contains("changed since"));
    }
}
