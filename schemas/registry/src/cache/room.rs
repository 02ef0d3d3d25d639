//! Room for a download: what was not used for longest goes, and nothing that is in use.

use std::{
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Cache, unless_gone};
use crate::{
    RegistryError,
    local::{self, OpenError},
    lock,
};

/// Making room is a matter of listing one folder.
const LONGEST_LOCK: Duration = Duration::from_secs(30);

/// A file in the cache.
struct Entry {
    path: PathBuf,
    /// Of a download under way: what it will have.
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// Removes files until so many bytes more may be there. `own`: the download that asks.
    pub(super) async fn make_room(&self, needed: u64, own: &Path) -> Result<(), RegistryError> {
        let lock = lock::lock_briefly(&self.inner.folder.join(".lock"), LONGEST_LOCK).await?;
        let mut entries = entries(&self.inner.blobs, own).map_err(RegistryError::io(&self.inner.blobs))?;
        entries.sort_by_key(|entry| entry.used);
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in &entries {
            if total.saturating_add(needed) <= self.inner.max_bytes {
                break;
            }
            if remove_unused(&entry.path).map_err(RegistryError::io(&entry.path))? {
                tracing::debug!(file = %entry.path.display(), bytes = entry.bytes, "removed from the cache");
                total -= entry.bytes;
            }
        }
        drop(lock);
        if total.saturating_add(needed) > self.inner.max_bytes {
            let folder = self.inner.folder.clone();
            return Err(RegistryError::CacheFull { folder, max: self.inner.max_bytes, in_use: total, needed });
        }
        Ok(())
    }
}

fn entries(blobs: &Path, own: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for found in fs::read_dir(blobs)? {
        let found = found?;
        if found.path() == own {
            continue;
        }
        match entry(&found) {
            // Another process removed it at this moment, or made it a blob.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => entries.push(other?),
        }
    }
    Ok(entries)
}

fn entry(found: &DirEntry) -> io::Result<Entry> {
    let (path, meta) = (found.path(), found.metadata()?);
    let name = found.file_name();
    let will_have = name.to_str().and_then(|name| name.strip_suffix(".partial")?.rsplit_once('.')?.1.parse().ok());
    Ok(Entry { path, bytes: will_have.unwrap_or(meta.len()), used: meta.modified()? })
}

/// Removes a file unless somebody holds it: reading it if it is a blob, writing it if it is a download.
fn remove_unused(path: &Path) -> io::Result<bool> {
    let file = match local::open_regular(path) {
        Err(OpenError::Io(error)) => return unless_gone(error).map(|()| true),
        // Nobody has put it there as a file of the cache.
        Err(OpenError::Irregular { .. }) => return Ok(false),
        Ok(file) => file,
    };
    if !lock::try_lock(&file)? {
        return Ok(false);
    }
    fs::remove_file(path).or_else(unless_gone)?;
    Ok(true)
}
