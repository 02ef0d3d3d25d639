//! Files of versions on local disk: content-addressed, verified, bounded, shared by the workers of one machine.
//!
//! ```text
//! blobs/sha256/<sha256>                    a whole file; a shared lock on it keeps it from eviction
//! blobs/sha256/<sha256>.<bytes>.partial    a download; whoever has the lock on it is at it, anybody may go on after it
//! known/<registry>/…                       the pointers and metadata that were last read, for when the registry is down: by location and endpoint
//! .lock                                    held while room is made
//! ```
//!
//! All locks are `flock`s: they end with the process that holds them. The files of a registry that is a folder are used in
//! place, and nothing of it is copied.

mod blob;
mod download;
mod known;
mod room;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use embed_schemas::{
    ModelMetadata, Slug,
    model::{FileRef, version_path},
};
use tokio::task;

use crate::{Progress, Registry, RegistryError, Step, integrity, local, lock};
use blob::Lease;
pub use known::{Resolved, VersionSpec};

/// How often another process's download is looked after.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A cache in a folder. Clones are the same cache, and so are others that are opened on the folder, in any process.
#[derive(Debug, Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    blobs: PathBuf,
    max_bytes: u64,
}

/// Local files of a version. While this is there, they stay.
#[derive(Debug)]
pub struct LocalVersion {
    /// The version's metadata.
    pub metadata: ModelMetadata,
    place: Place,
    _leases: Vec<Lease>,
}

#[derive(Debug)]
enum Place {
    /// A registry that is a folder.
    Registry(Registry),
    /// The blobs of a cache.
    Cache { blobs: PathBuf },
}

impl Cache {
    /// Opens a cache, making its folder if it is not there. It holds at most so many bytes of files, downloads included.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: PathBuf, max_bytes: u64) -> Result<Self, RegistryError> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(RegistryError::io(&blobs))?;
        Ok(Self { inner: Arc::new(Inner { folder, blobs, max_bytes }) })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Local copies of some files of a version; what is missing is downloaded and verified. A download that was interrupted,
    /// by whatever, is resumed. What another process is downloading is waited for.
    ///
    /// # Errors
    /// If the version or a file is not there or damaged; if the registry does not answer for as long as it was opened to be asked
    /// again; if there is no room.
    pub async fn fetch(
        &self,
        registry: &Registry,
        model: &Slug,
        version: &str,
        files: &[FileRef],
        progress: &dyn Progress,
    ) -> Result<LocalVersion, RegistryError> {
        let metadata = self.resolve(registry, model, &VersionSpec::Exact(version.to_owned())).await?.metadata;
        if registry.folder().is_some() {
            for file in files {
                registry.check_in_place(&metadata, file)?;
            }
            return Ok(LocalVersion { metadata, place: Place::Registry(registry.clone()), _leases: Vec::new() });
        }
        let mut leases = Vec::new();
        for file in files {
            leases.push(self.blob(registry, &metadata, file, progress).await?);
        }
        let place = Place::Cache { blobs: self.inner.blobs.clone() };
        Ok(LocalVersion { metadata, place, _leases: leases })
    }

    /// One file, there and held.
    async fn blob(
        &self,
        registry: &Registry,
        metadata: &ModelMetadata,
        file: &FileRef,
        progress: &dyn Progress,
    ) -> Result<Lease, RegistryError> {
        let path = self.inner.blobs.join(&file.sha256);
        let partial = self.inner.blobs.join(format!("{}.{}.partial", file.sha256, file.bytes));
        let mut waits = false;
        loop {
            if let Some(lease) = Lease::take(&path).map_err(RegistryError::io(&path))? {
                if lease.bytes() == file.bytes {
                    if !waits {
                        progress.begin(Step::Skip, &file.file, file.bytes);
                    }
                    return Ok(lease);
                }
                // Not what was put there: away with it.
                fs::remove_file(&path).or_else(unless_gone).map_err(RegistryError::io(&path))?;
                continue;
            }
            let open = lock::open(&partial).map_err(|error| self.write_error(error, file.bytes, &partial))?;
            let is_ours = lock::try_lock(&open).map_err(RegistryError::io(&partial))?;
            if !is_ours {
                if !std::mem::replace(&mut waits, true) {
                    progress.begin(Step::Wait, &file.file, file.bytes);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            // The one before us may have made it a blob, or room for others.
            if !lock::is_at(&open, &partial).map_err(RegistryError::io(&partial))? {
                continue;
            }
            if path.exists() {
                fs::remove_file(&partial).map_err(RegistryError::io(&partial))?;
                continue;
            }
            waits = true;
            self.download(registry, metadata, file, open, &partial, progress).await?;
        }
    }

    /// What a failed write means.
    fn write_error(&self, source: std::io::Error, needed: u64, path: &Path) -> RegistryError {
        if crate::error::is_disk_full(&source) {
            return RegistryError::DiskFull { folder: self.inner.folder.clone(), needed, source };
        }
        RegistryError::Io { path: path.to_owned(), source }
    }
}

impl LocalVersion {
    /// Where a file is that was fetched.
    #[must_use]
    pub fn path(&self, file: &FileRef) -> PathBuf {
        match &self.place {
            Place::Registry(registry) => {
                let path = version_path(&self.metadata.slug, &self.metadata.version, &file.file);
                registry.folder().unwrap_or(Path::new("")).join(path)
            }
            Place::Cache { blobs } => blobs.join(&file.sha256),
        }
    }

    /// The content of a file, verified: what is returned is what was verified.
    ///
    /// # Errors
    /// If it cannot be read or is not what the metadata says. A damaged copy is removed from the cache: fetch the version again.
    pub async fn read(&self, file: &FileRef) -> Result<Bytes, RegistryError> {
        let blobs = match &self.place {
            Place::Registry(registry) => {
                return registry.read_verified(&self.metadata.slug, &self.metadata.version, file).await;
            }
            Place::Cache { blobs } => blobs,
        };
        let (path, expected) = (blobs.join(&file.sha256), file.clone());
        let read = {
            let path = path.clone();
            task::spawn_blocking(move || {
                let file = local::open_regular(&path).map_err(|error| RegistryError::open(&path, error))?;
                let content = local::read_file(&file, &expected).map_err(RegistryError::io(&path))?;
                let verified = integrity::verify(&expected, &content);
                Ok((content, verified))
            })
        };
        let (content, verified): (Vec<u8>, _) =
            read.await.map_err(|error| RegistryError::io(&path)(std::io::Error::other(error))).flatten()?;
        match verified {
            Ok(()) => Ok(content.into()),
            Err(source) => {
                fs::remove_file(&path).or_else(unless_gone).map_err(RegistryError::io(&path))?;
                Err(RegistryError::DamagedCopy { path, source: Box::new(source) })
            }
        }
    }
}

fn unless_gone(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
