//! Where parts are: a folder, or a prefix of an object store. A file is there whole, or it is not there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use embed_registry::{open_store, store_error};
use futures::TryStreamExt;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, path::Path as ObjectPath};

use super::target::is_remote;
use crate::Error;

/// Where parts are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    location: String,
    store: Arc<dyn ObjectStore>,
    /// Of a folder that is written to: keeps other backfills out as long as it is open.
    _lock: Option<Arc<File>>,
}

impl Place {
    /// To read from.
    pub(super) fn open(location: &str) -> Result<Self, Error> {
        let store = open_store(location).map_err(|reason| Error::Backfill(format!("{location}: {reason}")))?;
        Ok(Self::on(location, store))
    }

    /// To write to. A folder is made if it is not there, and locked.
    pub(super) fn claim(location: &str) -> Result<Self, Error> {
        if is_remote(location) {
            return Self::open(location);
        }
        let folder = Path::new(location);
        let make = || {
            fs::create_dir_all(folder)?;
            if let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) {
                File::open(parent)?.sync_all()?;
            }
            File::open(folder)
        };
        let lock = make().map_err(Error::file(folder))?;
        lock.try_lock()
            .map_err(|error| Error::Backfill(format!("another backfill is writing to {location} ({error})")))?;
        Ok(Self { _lock: Some(Arc::new(lock)), ..Self::open(location)? })
    }

    /// In a store that is open.
    pub(super) fn on(location: &str, store: Arc<dyn ObjectStore>) -> Self {
        Self { location: location.to_owned(), store, _lock: None }
    }

    /// As it is called.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn is_remote(&self) -> bool {
        is_remote(&self.location)
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// What is there, and how many bytes it has.
    pub(super) async fn list(&self) -> Result<BTreeMap<String, u64>, Error> {
        let listed = self.store.list(None).map_ok(|object| (object.location.to_string(), object.size));
        listed.try_collect().await.map_err(|error| self.error("", &error))
    }

    /// Whether anything is there.
    pub(super) async fn is_empty(&self) -> Result<bool, Error> {
        let first = self.store.list(None).try_next().await;
        first.map(|found| found.is_none()).map_err(|error| self.error("", &error))
    }

    /// Writes a small file.
    pub(super) async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<(), Error> {
        let put = self.store.put(&ObjectPath::from(name), bytes.into().into()).await;
        put.map(|_| ()).map_err(|error| self.error(name, &error))
    }

    /// Reads a file.
    pub(super) async fn get(&self, name: &str) -> Result<Bytes, Error> {
        let get = async { self.store.get(&ObjectPath::from(name)).await?.bytes().await };
        get.await.map_err(|error| self.error(name, &error))
    }

    /// Removes a file, if it is there.
    pub(super) async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&ObjectPath::from(name)).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(name, &error)),
        }
    }

    /// Removes what a run that was killed had begun to write into a folder. An object store does so by a rule of its bucket.
    pub(super) fn sweep(&self, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
        if self.is_remote() {
            return Ok(());
        }
        let folder = PathBuf::from(&self.location);
        let sweep = || {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                // As the store calls a file that it has not renamed yet.
                let name = entry.file_name();
                if let Some((name, number)) = name.to_str().and_then(|name| name.rsplit_once('#'))
                    && is_ours(name)
                    && number.bytes().all(|byte| byte.is_ascii_digit())
                {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        sweep().map_err(Error::file(&folder))
    }

    /// What the store said of a file, or of the whole place.
    pub(super) fn error(&self, name: &str, error: &StoreError) -> Error {
        let separator = if name.is_empty() { "" } else { "/" };
        Error::Backfill(format!("{}{separator}{name}: {}", self.location, store_error(error)))
    }
}
