//! A file of the cache that is in use.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    time::SystemTime,
};

use crate::{
    local::{self, OpenError},
    lock,
};

/// Holds a file: nobody evicts it, in no process.
#[derive(Debug)]
pub(super) struct Lease {
    file: File,
    bytes: u64,
}

impl Lease {
    /// Holds the file if it is there.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = match local::open_regular(path) {
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(OpenError::Io(error)) => return Err(error),
            Err(OpenError::Irregular { what, .. }) => {
                return Err(io::Error::other(format!("this is {what}; remove it, and the file is fetched")));
            }
            Ok(file) => file,
        };
        match file.try_lock_shared() {
            Ok(()) => {}
            // Somebody is removing it.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // It may have been removed between the two.
        if !lock::is_at(&file, path)? {
            return Ok(None);
        }
        let bytes = file.metadata()?.len();
        let lease = Self { file, bytes };
        lease.touch();
        Ok(Some(lease))
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The time of the last use is what decides who goes first. In a folder of another user it cannot be set, and the time
    /// of the download decides.
    fn touch(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.touch();
    }
}
