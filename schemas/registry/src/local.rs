//! Local files, opened so that whoever else may write to their folder cannot choose what is opened.
//!
//! Below a registry's root, each component of a path is opened from the folder before it, and no symbolic link is followed: a link would
//! have a worker read what it may read and the registry's writer may not. Only regular files are opened: a FIFO would make the reader wait
//! for ever, and opening a device can do things. What is looked at is what is opened, so nothing can be exchanged in between.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use embed_schemas::model::FileRef;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

/// A file: not through a link, and without waiting for anybody to write into it.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
/// A folder on the way to it.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The first folder, which its reader has chosen: it may be a link.
const ROOT: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Folders in folders: a registry has four.
const DEEPEST: usize = 8;

/// A file was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The system refused.
    Io(io::Error),
    /// It is not a regular file in regular folders.
    Irregular {
        /// What is not.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

impl From<Errno> for OpenError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens a file below a root for reading. Of the path, only the root itself may be, or lead through, links.
pub(crate) fn open_beneath(root: &Path, path: &str) -> Result<File, OpenError> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let place = open_folder(root, folder)?;
    open_in(&place, component(name)?, &root.join(path))
}

/// Opens a file of a folder that is nobody else's to arrange; not through a link either.
pub(crate) fn open_regular(path: &Path) -> Result<File, OpenError> {
    open_in(CWD, path, path)
}

/// Opens a file that the caller has named, through whatever links. It is a regular one.
///
/// # Errors
/// If it is not there, or something else than a file, which is not waited for.
pub fn open_named(path: &Path) -> io::Result<File> {
    let regular = |is_file| if is_file { Ok(()) } else { Err(io::Error::other("this is not a regular file")) };
    regular(std::fs::metadata(path)?.is_file())?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    regular(file.metadata()?.is_file())?;
    Ok(file)
}

/// Opens a file for writing, making it if it is not there: not through a link.
pub(crate) fn open_to_write(path: &Path, empty: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    if empty {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The names of the folders in a folder below a root. None if it is not there. Links are none.
pub(crate) fn folders(root: &Path, path: &str) -> Result<Vec<String>, OpenError> {
    let entries = entries(root, path)?;
    Ok(entries.into_iter().filter(|(_, kind)| *kind == FileType::Directory).map(|(name, _)| name).collect())
}

/// The regular files in a folder below a root and in its folders, with their paths below the root. Links lead nowhere.
pub(crate) fn files(root: &Path, path: &str) -> Result<Vec<(String, File)>, OpenError> {
    let mut found = Vec::new();
    let mut left = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = left.pop() {
        for (name, kind) in entries(root, &folder)? {
            let path = format!("{folder}/{name}");
            match kind {
                FileType::Directory if depth < DEEPEST => left.push((path, depth + 1)),
                FileType::RegularFile => match open_beneath(root, &path) {
                    Ok(file) => found.push((path, file)),
                    // It went, or became another, at this moment.
                    Err(OpenError::Irregular { .. }) => {}
                    Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Whether what is there of a path below a root can be written to: folders, and a regular file or none at its end.
pub(crate) fn check_place(root: &Path, path: &str) -> Result<(), OpenError> {
    match open_beneath(root, path) {
        Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The content of a file that has at most so many bytes; `None` if it has more.
pub(crate) fn read(file: &File, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    // One more than it should have, so that what grows at this moment is noticed.
    file.take(most.saturating_add(1)).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= most).then_some(content))
}

/// The content of a file of a version: what does not have its size is not read to its end.
pub(crate) fn read_file(file: &File, expected: &FileRef) -> io::Result<Vec<u8>> {
    let mut content =
        Vec::with_capacity(usize::try_from(file.metadata()?.len().min(expected.bytes)).unwrap_or_default());
    file.take(expected.bytes.saturating_add(1)).read_to_end(&mut content)?;
    Ok(content)
}

/// A name in a folder, and nothing that leads elsewhere.
fn component(name: &str) -> io::Result<&Path> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file")));
    }
    Ok(Path::new(name))
}

fn open_folder(root: &Path, path: &str) -> Result<OwnedFd, OpenError> {
    let mut folder = rustix::fs::open(root, ROOT, Mode::empty())?;
    let mut at = root.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let name = component(name)?;
        at.push(name);
        folder = match openat(&folder, name, FOLDER, Mode::empty()) {
            Ok(next) => next,
            Err(error) => return Err(explain(&folder, name, at, error)),
        };
    }
    Ok(folder)
}

fn open_in(folder: impl std::os::fd::AsFd, name: &Path, path: &Path) -> Result<File, OpenError> {
    // A device is not even opened; what is told by this is told again by what was opened.
    let kind = FileType::from_raw_mode(statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    let irregular = |kind| OpenError::Irregular { path: path.to_owned(), what: describe(kind) };
    if kind != FileType::RegularFile {
        return Err(irregular(kind));
    }
    let file = match openat(&folder, name, FILE, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(error) => return Err(explain(&folder, name, path.to_owned(), error)),
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        other => Err(irregular(other)),
    }
}

/// Names and kinds in a folder below a root. None if it is not there.
fn entries(root: &Path, path: &str) -> Result<Vec<(String, FileType)>, OpenError> {
    let folder = match open_folder(root, path) {
        Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        // A name that is not UTF-8 is none of a registry.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." || is_being_written(name) {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not tell.
            FileType::Unknown => match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue,
            },
            kind => kind,
        };
        found.push((name.to_owned(), kind));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// What the store calls a file until it is whole: its name, `#` and a number.
fn is_being_written(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What an error means: that something is not what it should be, if that is so.
fn explain(folder: impl std::os::fd::AsFd, name: &Path, path: PathBuf, error: Errno) -> OpenError {
    if matches!(error, Errno::LOOP | Errno::NOTDIR | Errno::NXIO)
        && let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
    {
        return OpenError::Irregular { path, what: describe(FileType::from_raw_mode(stat.st_mode)) };
    }
    error.into()
}

const fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Directory => "a folder",
        FileType::RegularFile => "a file",
        FileType::Unknown => "neither a file nor a folder",
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;
    use rustix::fs::mknodat;

    use super::*;

    fn what(result: Result<File, OpenError>) -> &'static str {
        match result {
            Ok(_) => "opened",
            Err(OpenError::Irregular { what, .. }) => what,
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => "not there",
            Err(OpenError::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn only_files_that_are_there_themselves_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "x").unwrap();
        fs::write(folder.path().join("secret"), "y").unwrap();
        symlink("file", root.join("a/b/link")).unwrap();
        symlink(folder.path().join("secret"), root.join("a/b/out")).unwrap();
        symlink("b", root.join("a/linked")).unwrap();
        symlink(folder.path(), root.join("up")).unwrap();
        mknodat(CWD, root.join("a/b/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for (path, expected) in [
            ("a/b/file", "opened"),
            ("a/b/link", "a symbolic link"),
            ("a/b/out", "a symbolic link"),
            ("a/linked/file", "a symbolic link"),
            ("up/secret", "a symbolic link"),
            // This would wait for somebody to write.
            ("a/b/fifo", "a FIFO"),
            ("a/b", "a folder"),
            ("a/b/file/x", "a file"),
            ("a/c/file", "not there"),
        ] {
            assert_eq!(what(open_beneath(&root, path)), expected, "{path}");
        }
        let by_link = folder.path().join("by-link");
        symlink(&root, &by_link).unwrap();
        assert_eq!(what(open_beneath(&by_link, "a/b/file")), "opened", "the root itself may be a link");
        assert_eq!(folders(&root, "a").unwrap(), ["b"]);
        assert!(folders(&root, "none").unwrap().is_empty());
        let names: Vec<_> = files(&root, "a").unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(names, ["a/b/file"]);
        assert!(open_named(&root.join("a/b/out")).is_ok() && open_named(&root.join("a/b/fifo")).is_err());
        assert!(open_to_write(&root.join("a/b/out"), true).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("secret")).unwrap(), "y");
    }

    #[test]
    fn what_is_longer_than_expected_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), "12345").unwrap();
        let open = || open_regular(&folder.path().join("f")).unwrap();
        assert_eq!(read(&open(), 5).unwrap().unwrap(), b"12345");
        assert_eq!(read(&open(), 4).unwrap(), None);
        let expected = FileRef { file: "f".into(), bytes: 2, sha256: String::new() };
        assert_eq!(read_file(&open(), &expected).unwrap(), b"123");
    }

    proptest! {
        #[test]
        fn no_path_leads_out_of_the_root(path in "[.a/]{0,12}") {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("aa/a");
            fs::create_dir_all(&root).unwrap();
            fs::write(folder.path().join("a"), "").unwrap();
            fs::write(folder.path().join("aa/a.a"), "").unwrap();
            prop_assert!(open_beneath(&root, &path).is_err());
        }
    }
}
