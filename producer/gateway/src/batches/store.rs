//! Files and batches in an object store: what is there after a restart.
//!
//! ```text
//! files/<owner>/<file>.json           a file, and how many parts its content has; written last, so that a file that is seen is whole
//! contents/<owner>/<file>/<part>      its content, in parts that follow each other
//! batches/<owner>/<batch>.json        a batch, and how far it is
//! cancelled/<owner>/<batch>           there, if somebody wants it cancelled
//! open/<owner>/<batch>                there, as long as something is to become of it; written again and again by the gateway that sees to it
//! ```
//!
//! An owner is the digest of whose it is: what is under another is not found.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{objects::FileObject, state::State};

/// Whose a file or a batch is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner(String);

impl Owner {
    /// Whoever has the key of this name, or everybody where there are no keys.
    pub(super) fn of(key: Option<&str>) -> Self {
        let Some(key) = key else { return Self("anybody".to_owned()) };
        let digest = Sha256::digest(key.as_bytes());
        Self(digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredFile {
    pub(super) file: FileObject,
    pub(super) parts: u64,
}

/// What the store does not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It fails.
    #[error("the store of files and batches: {0}")]
    Store(#[from] StoreError),
    /// Another gateway has gone on with the batch.
    #[error("another gateway runs the batch now")]
    TakenOver,
    /// What is there is not what was written.
    #[error("the store of files and batches: {path} cannot be read: {source}")]
    Damaged {
        /// The object.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// The store.
#[derive(Debug, Clone)]
pub(super) struct Store(Arc<dyn ObjectStore>);

impl Store {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self(store)
    }

    pub(super) async fn file(&self, owner: &Owner, id: &str) -> Result<Option<StoredFile>, Failure> {
        self.read(&Path::from_iter(["files", &owner.0, &format!("{id}.json")])).await
    }

    pub(super) async fn put_file(&self, owner: &Owner, file: &StoredFile) -> Result<(), Failure> {
        self.write(&Path::from_iter(["files", &owner.0, &format!("{}.json", file.file.id)]), file).await
    }

    /// Ids of all files, newest first.
    pub(super) async fn files(&self, owner: &Owner) -> Result<Vec<String>, Failure> {
        self.names("files", owner).await
    }

    /// Removes a file and its content; what is left of it if that is interrupted is nobody's.
    pub(super) async fn remove_file(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        self.remove(&Path::from_iter(["files", &owner.0, &format!("{id}.json")])).await?;
        self.remove_content(owner, id).await
    }

    pub(super) async fn remove_content(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        let prefix = Path::from_iter(["contents", &owner.0, id]);
        let parts: Vec<_> = self.0.list(Some(&prefix)).try_collect().await?;
        for part in parts {
            self.remove(&part.location).await?;
        }
        Ok(())
    }

    pub(super) async fn put_part(&self, owner: &Owner, file: &str, part: u64, bytes: Bytes) -> Result<(), Failure> {
        self.0.put(&part_path(owner, file, part), bytes.into()).await?;
        Ok(())
    }

    /// The content of a file, part by part.
    pub(super) fn content(
        &self,
        owner: &Owner,
        file: &StoredFile,
    ) -> impl Stream<Item = Result<Bytes, Failure>> + Send + use<> {
        let (store, owner, id) = (Arc::clone(&self.0), owner.clone(), file.file.id.clone());
        stream::iter(0..file.parts).then(move |part| {
            let (store, path) = (Arc::clone(&store), part_path(&owner, &id, part));
            async move { Ok(store.get(&path).await?.bytes().await?) }
        })
    }

    pub(super) async fn batch(&self, owner: &Owner, id: &str) -> Result<Option<State>, Failure> {
        self.read(&Path::from_iter(["batches", &owner.0, &format!("{id}.json")])).await
    }

    pub(super) async fn put_batch(&self, owner: &Owner, state: &State) -> Result<(), Failure> {
        self.write(&Path::from_iter(["batches", &owner.0, &format!("{}.json", state.batch.id)]), state).await
    }

    /// Ids of all batches, newest first.
    pub(super) async fn batches(&self, owner: &Owner) -> Result<Vec<String>, Failure> {
        self.names("batches", owner).await
    }

    /// Removes a batch.
    pub(super) async fn remove_batch(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        self.remove(&Path::from_iter(["batches", &owner.0, &format!("{id}.json")])).await
    }

    /// Says that somebody wants a batch cancelled.
    pub(super) async fn cancel(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        self.0.put(&Path::from_iter(["cancelled", &owner.0, id]), Bytes::new().into()).await?;
        Ok(())
    }

    /// Since when somebody wants it cancelled, in seconds since 1970.
    pub(super) async fn cancelled_at(&self, owner: &Owner, id: &str) -> Result<Option<u64>, Failure> {
        match self.0.head(&Path::from_iter(["cancelled", &owner.0, id])).await {
            Ok(found) => Ok(Some(seconds(&found))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Something is to become of a batch, and somebody sees to it.
    pub(super) async fn open(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        self.0.put(&Path::from_iter(["open", &owner.0, id]), Bytes::new().into()).await?;
        Ok(())
    }

    /// Nothing becomes of it any more.
    pub(super) async fn close(&self, owner: &Owner, id: &str) -> Result<(), Failure> {
        self.remove(&Path::from_iter(["cancelled", &owner.0, id])).await?;
        self.remove(&Path::from_iter(["open", &owner.0, id])).await
    }

    /// All batches that something is to become of, and when somebody has seen to them last.
    pub(super) async fn all_open(&self) -> Result<Vec<(Owner, String, u64)>, Failure> {
        let listed: Vec<_> = self.0.list(Some(&Path::from("open"))).try_collect().await?;
        let open = |object: &ObjectMeta| {
            let mut names = object.location.parts().skip(1).map(|part| part.as_ref().to_owned());
            Some((Owner(names.next()?), names.next()?, seconds(object)))
        };
        Ok(listed.iter().filter_map(open).collect())
    }

    /// Everybody who has something here.
    pub(super) async fn owners(&self) -> Result<Vec<Owner>, Failure> {
        let mut owners = Vec::new();
        for kind in ["files", "batches"] {
            let listed = self.0.list_with_delimiter(Some(&Path::from(kind))).await?;
            owners.extend(listed.common_prefixes.iter().filter_map(|path| Some(Owner(path.filename()?.to_owned()))));
        }
        owners.sort_by(|a, b| a.0.cmp(&b.0));
        owners.dedup();
        Ok(owners)
    }

    async fn names(&self, kind: &str, owner: &Owner) -> Result<Vec<String>, Failure> {
        let prefix = Path::from_iter([kind, &owner.0]);
        let listed: Vec<_> = self.0.list(Some(&prefix)).try_collect().await?;
        let name = |path: &Path| Some(path.filename()?.strip_suffix(".json")?.to_owned());
        let mut names: Vec<String> = listed.iter().filter_map(|object| name(&object.location)).collect();
        // Ids begin with the time.
        names.sort_by(|a, b| b.cmp(a));
        Ok(names)
    }

    async fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, Failure> {
        let bytes = match self.0.get(path).await {
            Ok(found) => found.bytes().await?,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |source| Failure::Damaged { path: path.to_string(), source };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    async fn write<T: Serialize + Sync>(&self, path: &Path, value: &T) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(value).expect("what is kept can be written as JSON");
        self.0.put(path, bytes.into()).await?;
        Ok(())
    }

    async fn remove(&self, path: &Path) -> Result<(), Failure> {
        match self.0.delete(path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn part_path(owner: &Owner, file: &str, part: u64) -> Path {
    Path::from_iter(["contents", &owner.0, file, &format!("{part:06}")])
}

fn seconds(object: &ObjectMeta) -> u64 {
    u64::try_from(object.last_modified.timestamp()).unwrap_or_default()
}
