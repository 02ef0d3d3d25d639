//! What a file held when the backfill began, and whether it still does.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, Read},
    path::Path,
    time::UNIX_EPOCH,
};

use object_store::ObjectMeta;
use sha2::{Digest, Sha256};

use super::InputFile;
use crate::Error;

/// Bytes of local files that are read for their digests when a backfill begins and whenever it goes on. Others are known by the time of
/// their last change.
pub(super) const DIGESTED: u64 = 1 << 30;

/// Looks at a local file; reads it once if it has no more bytes than may be read. What is appended meanwhile does not count.
pub(super) fn look(path: &Path, may_read: u64) -> Result<InputFile, Error> {
    let read = || -> io::Result<InputFile> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("no regular file: have it read as standard input, `-`"));
        }
        let bytes = metadata.len();
        let location = path.to_string_lossy().into_owned();
        let is_read = bytes <= may_read;
        Ok(InputFile {
            location,
            bytes: Some(bytes),
            sha256: if is_read { Some(digest(file, bytes)?) } else { None },
            tag: if is_read { None } else { changed(&metadata) },
            ..InputFile::default()
        })
    };
    read().map_err(Error::file(path))
}

/// What an object store says of a file.
pub(super) fn of_object(location: String, meta: &ObjectMeta) -> InputFile {
    let tag = meta.e_tag.clone().or_else(|| Some(format!("changed {}", meta.last_modified.to_rfc3339())));
    InputFile { location, bytes: Some(meta.size), tag, ..InputFile::default() }
}

/// Makes sure that an object is what it was.
pub(super) fn check_object(expected: &InputFile, meta: &ObjectMeta) -> Result<(), Error> {
    let now = of_object(expected.location.clone(), meta);
    if now.bytes == expected.bytes && now.tag == expected.tag { Ok(()) } else { Err(differs(&expected.location)) }
}

/// Makes sure that a local file still holds what it held.
pub(super) fn check(expected: &InputFile) -> Result<(), Error> {
    let InputFile { location, bytes: Some(before), sha256, tag, .. } = expected else { return Ok(()) };
    let before = *before;
    let file = File::open(location).map_err(Error::file(location))?;
    let metadata = file.metadata().map_err(Error::file(location))?;
    let bytes = metadata.len();
    if bytes >= before
        && let Some(sha256) = sha256
        && *sha256 != digest(file, before).map_err(Error::file(location))?
    {
        return Err(differs(location));
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
    if tag.is_some() && *tag != changed(&metadata) {
        return Err(differs(location));
    }
    Ok(())
}

fn differs(location: &str) -> Error {
    Error::Backfill(format!(
        "{location} holds something else than when the backfill began: rows would be missing, or come twice. Put back what it \
         held, or begin anew with --force"
    ))
}

/// The time of its last change.
fn changed(metadata: &Metadata) -> Option<String> {
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("changed {}.{:09}", since.as_secs(), since.subsec_nanos()))
}

/// SHA-256 of the next so many bytes.
fn digest(file: File, bytes: u64) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut BufReader::with_capacity(1 << 18, file).take(bytes), &mut hash)?;
    Ok(format!("{:x}", hash.finalize()))
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
        let held = look(&path, DIGESTED).unwrap();
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
    fn a_large_file_is_known_by_its_last_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        fs::write(&path, "one\ntwo\n").unwrap();
        let held = look(&path, 3).unwrap();
        assert_eq!(held.sha256, None);
        check(&held).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH).unwrap();
        assert!(check(&held).unwrap_err().to_string().contains("holds something else"));
        let error = look(folder.path(), 3).unwrap_err().to_string();
        assert!(error.contains("standard input"), "{error}");
    }
}
