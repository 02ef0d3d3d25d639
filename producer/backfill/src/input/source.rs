//! What is read: a file that has to be the same until the end, however often the backfill is resumed, or standard input.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Take},
    os::fd::AsFd,
    path::Path,
};

use sha2::{Digest, Sha256};

use super::InputFile;
use crate::Error;

/// In place of a file: standard input, or standard output.
const STREAM: &str = "-";

/// What is read from.
pub(super) type Source = BufReader<Take<File>>;

/// Whether a location stands for standard input or output.
pub(crate) fn is_stream(location: &str) -> bool {
    location == STREAM
}

/// Reads a file once. What is appended meanwhile does not count.
pub(super) fn look(path: &Path) -> Result<InputFile, Error> {
    let read = || -> io::Result<InputFile> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("no regular file: have it read as standard input, `-`"));
        }
        let bytes = metadata.len();
        let location = path.to_string_lossy().into_owned();
        Ok(InputFile { location, bytes: Some(bytes), sha256: Some(digest(file, bytes)?) })
    };
    read().map_err(Error::file(path))
}

/// Makes sure that a file still holds what it held.
pub(super) fn check(expected: &InputFile) -> Result<(), Error> {
    let InputFile { location, bytes: Some(before), sha256 } = expected else { return Ok(()) };
    let before = *before;
    let file = File::open(location).map_err(Error::file(location))?;
    let bytes = file.metadata().map_err(Error::file(location))?.len();
    if bytes >= before
        && let Some(sha256) = sha256
        && *sha256 != digest(file, before).map_err(Error::file(location))?
    {
        return Err(Error::Backfill(format!(
            "{location} holds something else than when the backfill began: rows would be missing, or come twice. Put back what it \
             held, or begin anew with --force"
        )));
    }
    if bytes > before {
        return Err(Error::Backfill(format!(
            "{location} has {bytes} bytes and had {before} when the backfill began: appended rows are another backfill. Cut it to what it had \
             (`truncate --size {before}`) and resume, with the new rows in a file of their own; or begin anew with --force"
        )));
    }
    if bytes < before {
        return Err(Error::Backfill(format!(
            "{location} has {bytes} bytes and had {before} when the backfill began: rows are missing. Put back what it held, or begin anew with \
             --force"
        )));
    }
    Ok(())
}

/// SHA-256 of the next so many bytes.
fn digest(file: File, bytes: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 18, file).take(bytes), &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
}

/// Opens a file at a byte; only what it held at first is read.
pub(super) fn open(file: &InputFile, at: u64) -> Result<Source, Error> {
    let open = || {
        if is_stream(&file.location) {
            return Ok(buffered(io::stdin().as_fd().try_clone_to_owned()?.into(), u64::MAX));
        }
        let mut opened = File::open(&file.location)?;
        opened.seek(SeekFrom::Start(at))?;
        Ok(buffered(opened, file.bytes.unwrap_or(u64::MAX).saturating_sub(at)))
    };
    open().map_err(Error::file(&file.location))
}

fn buffered(file: File, bytes: u64) -> Source {
    BufReader::with_capacity(1 << 18, file.take(bytes))
}

/// Makes sure that a file has been read to the end that it had when the backfill began.
pub(super) fn check_whole(file: &InputFile, source: &Source) -> Result<(), Error> {
    match source.get_ref().limit() {
        left if left > 0 && file.bytes.is_some() => Err(Error::file(&file.location)(io::Error::other(format!(
            "{left} bytes that it had when the backfill began are missing: something has cut it meanwhile"
        )))),
        _ => Ok(()),
    }
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
        let held = look(&path).unwrap();
        check(&held).unwrap();
        for (now, said) in [
            ("two\none\n", "holds something else"),
            ("one\ntwo\nthree\n", "appended rows are another backfill"),
            ("two\none\nthree\n", "holds something else"),
            ("one\n", "rows are missing"),
        ] {
            fs::write(&path, now).unwrap();
            let error = check(&held).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("--force"), "{error}");
        }
        // All that is known of a backfill that was begun before digests were kept.
        fs::write(&path, "two\none\n").unwrap();
        check(&InputFile { sha256: None, ..held }).unwrap();
    }

    #[test]
    fn only_what_was_there_at_first_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        fs::write(&path, "one\ntwo\n").unwrap();
        let held = look(&path).unwrap();
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(io::read_to_string(open(&held, 4).unwrap()).unwrap(), "two\n");
        let error = look(folder.path()).unwrap_err().to_string();
        assert!(error.contains("standard input"), "{error}");
    }
}
