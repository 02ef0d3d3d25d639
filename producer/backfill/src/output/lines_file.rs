//! What is being written: a file, or standard output. Nothing but the driver writes to it, and only whole groups of rows.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use crate::Error;

/// Where rows go. A file is locked against other backfills as long as it is open.
#[derive(Debug)]
pub(crate) struct LinesFile {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    is_stream: bool,
}

impl LinesFile {
    /// Opens and locks the file of a new backfill. What is in it stays until [`LinesFile::cut`].
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.write(true);
        if overwrite {
            options.create(true).truncate(false)
        } else {
            options.create_new(true)
        };
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::Backfill(format!("{} exists: pass --force to overwrite it", path.display()))
            }
            _ => Error::file(path)(error),
        })?;
        Self::locked(path, file)
    }

    /// Opens and locks the file of a backfill that was begun. What is in it stays until [`LinesFile::cut`].
    pub(crate) fn reopen(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::file(path))?;
        Self::locked(path, file)
    }

    /// Standard output. What is written to it is gone: there is nothing to go on from.
    pub(crate) fn stream() -> Result<Self, Error> {
        let path = PathBuf::from("standard output");
        let file = io::stdout().as_fd().try_clone_to_owned().map_err(Error::file(&path))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 18, file.into()), bytes: 0, is_stream: true })
    }

    fn locked(path: &Path, file: File) -> Result<Self, Error> {
        file.try_lock()
            .map_err(|error| Error::Backfill(format!("another backfill is writing to {} ({error})", path.display())))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::with_capacity(1 << 18, file), bytes: 0, is_stream: false })
    }

    /// Goes on after the first `bytes` bytes; what follows them had not been recorded, and is dropped.
    pub(crate) fn cut(&mut self, bytes: u64) -> Result<(), Error> {
        let file = self.file.get_mut();
        let length = file.metadata().map_err(Error::file(&self.path))?.len();
        if length < bytes {
            return Err(Error::Backfill(format!(
                "{} has {length} bytes, and {bytes} were recorded: it was changed since; begin anew with --force",
                self.path.display()
            )));
        }
        let cut = file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes)));
        self.bytes = cut.map_err(Error::file(&self.path))?;
        Ok(())
    }

    /// Bytes that are in it now.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        self.file.get_ref().metadata().map(|metadata| metadata.len()).map_err(Error::file(&self.path))
    }

    /// Whether it is standard output.
    pub(crate) const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Bytes written, those of earlier runs included.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes lines. Whoever reads standard output gets them at once.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(lines);
        let written = written.and_then(|()| if self.is_stream { self.file.flush() } else { Ok(()) });
        written.map_err(Error::file(&self.path))?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    /// Makes all that was appended durable, as far as that can be.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let flushed = self.file.flush();
        let synced = flushed.and_then(|()| if self.is_stream { Ok(()) } else { self.file.get_ref().sync_data() });
        synced.map_err(Error::file(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_recorded_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = LinesFile::create(&path, false).unwrap();
        output.append(b"one\n").unwrap();
        output.append(b"half of tw").unwrap();
        output.sync().unwrap();
        for busy in [LinesFile::reopen(&path), LinesFile::create(&path, true)] {
            let busy = busy.unwrap_err().to_string();
            assert!(busy.contains("another backfill"), "{busy}");
        }
        drop(output);
        assert!(LinesFile::create(&path, false).unwrap_err().to_string().contains("--force"));
        let mut output = LinesFile::reopen(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\nhalf of tw");
        output.cut(4).unwrap();
        output.append(b"two\n").unwrap();
        output.sync().unwrap();
        assert_eq!(output.bytes(), 8);
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        drop(output);
        assert!(LinesFile::reopen(&path).unwrap().cut(9).unwrap_err().to_string().contains("changed since"));
    }

    #[test]
    fn what_is_overwritten_stays_until_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "old\n").unwrap();
        let mut output = LinesFile::create(&path, true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old\n");
        output.cut(0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
