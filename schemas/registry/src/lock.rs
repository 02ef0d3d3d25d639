//! Locks between processes: `flock` on files. They go with the process, so that none is left behind by one that dies.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use crate::{RegistryError, local};

/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Opens a file for locking, making it if it is not there. Its content stays.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    local::open_to_write(path, false)
}

/// Takes the exclusive lock of a file if nobody has it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes the exclusive lock of a file that is only ever held for moments.
pub(crate) async fn lock_briefly(path: &Path, longest: Duration) -> Result<File, RegistryError> {
    let file = open(path).map_err(RegistryError::io(path))?;
    let started = Instant::now();
    while !try_lock(&file).map_err(RegistryError::io(path))? {
        if started.elapsed() > longest {
            return Err(RegistryError::Locked { path: path.to_owned(), waited_s: longest.as_secs() });
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(file)
}

/// Whether a path still leads to this open file: whoever held its lock before may have moved or removed it.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
