//! What is read: a file that has to be the same until the end, however often the backfill is resumed, or standard input.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Take},
    os::fd::AsFd,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::chunk::{Chunk, Chunks};
use crate::Error;

/// In place of a file: standard input, or standard output.
const STREAM: &str = "-";
/// Groups that are read before they are asked for.
const READ_AHEAD: usize = 2;

/// What is read from.
pub(super) type Source = BufReader<Take<File>>;

/// What a file held when the backfill began. Appended rows belong to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of these bytes, in hexadecimal digits. States of before do not have it.
    pub sha256: Option<String>,
}

/// Whether a path stands for standard input or output.
pub(super) fn is_stream(path: &Path) -> bool {
    path == Path::new(STREAM)
}

impl Content {
    /// Reads a file once. What is appended meanwhile does not count.
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let read = || -> io::Result<Self> {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("no regular file: have it read as standard input, `-`"));
            }
            let bytes = metadata.len();
            Ok(Self { bytes, sha256: Some(digest(file, bytes)?) })
        };
        read().map_err(Error::file(path))
    }

    /// Makes sure that a file still holds it.
    pub(super) fn check(&self, path: &Path) -> Result<(), Error> {
        let file = File::open(path).map_err(Error::file(path))?;
        let bytes = file.metadata().map_err(Error::file(path))?.len();
        let path_shown = path.display();
        if bytes >= self.bytes
            && let Some(before) = &self.sha256
            && *before != digest(file, self.bytes).map_err(Error::file(path))?
        {
            return Err(Error::Backfill(format!(
                "{path_shown} holds something else than when the backfill began: rows would be missing, or come twice. Put back what it \
                 held, or begin anew with --force"
            )));
        }
        if bytes > self.bytes {
            return Err(Error::Backfill(format!(
                "{path_shown} has {bytes} bytes and had {0} when the backfill began: appended rows are another backfill. Cut it to what it had \
                 (`truncate --size {0}`) and resume, with the new rows in a file of their own; or begin anew with --force",
                self.bytes
            )));
        }
        if bytes < self.bytes {
            return Err(Error::Backfill(format!(
                "{path_shown} has {bytes} bytes and had {} when the backfill began: rows are missing. Put back what it held, or begin anew with \
                 --force",
                self.bytes
            )));
        }
        Ok(())
    }
}

/// SHA-256 of the next so many bytes.
fn digest(file: File, bytes: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 18, file).take(bytes), &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

/// Opens a file at a position; only what it held at first is read.
pub(super) fn open(path: &Path, content: &Content, at: u64) -> Result<Source, Error> {
    let open = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(buffered(file, content.bytes.saturating_sub(at)))
    };
    open().map_err(Error::file(path))
}

/// Opens standard input.
pub(super) fn open_stream() -> Result<Source, Error> {
    let file = io::stdin().as_fd().try_clone_to_owned().map_err(Error::file("standard input"))?;
    Ok(buffered(file.into(), u64::MAX))
}

fn buffered(file: File, bytes: u64) -> Source {
    BufReader::with_capacity(1 << 18, file.take(bytes))
}

/// Groups of rows as they are read, by a thread of its own: who writes to standard input may take long. It ends with the receiver, or when it
/// next has something for it. `whole`: it is an error if there is less than was to be read.
pub(super) fn read(mut chunks: Chunks<Source>, whole: bool) -> mpsc::Receiver<io::Result<Chunk>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        loop {
            let chunk = match chunks.next().transpose() {
                Some(chunk) => chunk,
                None => match chunks.reader().get_ref().limit() {
                    left if whole && left > 0 => Err(io::Error::other(format!(
                        "{left} bytes that it had when the backfill began are missing: something has cut it meanwhile"
                    ))),
                    _ => return,
                },
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_known_by_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        fs::write(&path, "one\ntwo\n").unwrap();
        let content = Content::of(&path).unwrap();
        content.check(&path).unwrap();
        for (now, said) in [
            ("two\none\n", "holds something else"),
            ("one\ntwo\nthree\n", "appended rows are another backfill"),
            ("two\none\nthree\n", "holds something else"),
            ("one\n", "rows are missing"),
        ] {
            fs::write(&path, now).unwrap();
            let error = content.check(&path).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("--force"), "{error}");
        }
        // All that is known of a backfill that was begun before digests were kept.
        fs::write(&path, "two\none\n").unwrap();
        Content { sha256: None, ..content }.check(&path).unwrap();
    }

    #[test]
    fn only_what_was_there_at_first_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        fs::write(&path, "one\ntwo\n").unwrap();
        let content = Content::of(&path).unwrap();
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(io::read_to_string(open(&path, &content, 4).unwrap()).unwrap(), "two\n");
        let error = Content::of(folder.path()).unwrap_err().to_string();
        assert!(error.contains("standard input"), "{error}");
    }
}
