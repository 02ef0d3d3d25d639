//! A registry as its readers see it: models, versions, metadata, the pointer.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use embed_schemas::{
    CurrentPointer, ModelMetadata, Slug,
    model::{CURRENT_FILE, FileRef, METADATA_FILE, MODELS_DIR, current_path, version_path},
};
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Attributes, GetResult, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as ObjectPath,
};
use serde::de::DeserializeOwned;

use crate::{
    RegistryError,
    integrity::check_size,
    layout::{MAX_JSON_BYTES, check_metadata, check_version, too_large},
    local::{self, OpenError},
    location::{masked, masked_addresses},
    store::{self, Folder},
    verify,
};

/// How many small requests are under way at once.
const AT_ONCE: usize = 8;

/// How a registry is reached.
#[derive(Clone)]
pub struct RegistryOptions {
    /// How long a request is tried again, with growing pauses, while the store does not answer.
    pub retry_for: Duration,
    /// What the environment would say otherwise, such as (`aws_endpoint`, `http://127.0.0.1:9000`).
    pub settings: Vec<(String, String)>,
}

/// Without what the settings say: a key may be among them.
impl std::fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|(name, _)| name).collect();
        f.debug_struct("RegistryOptions").field("retry_for", &self.retry_for).field("settings", &names).finish()
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { retry_for: Duration::from_secs(30), settings: Vec::new() }
    }
}

/// A registry of models in an object store. Clones share one connection pool.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    location: String,
    folder: Option<Folder>,
    endpoint: Option<String>,
}

/// Without the store, which may hold keys.
impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("location", &self.location).finish_non_exhaustive()
    }
}

/// A version that is in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its name.
    pub version: String,
    /// When it was published there.
    pub published: SystemTime,
}

impl Registry {
    /// Opens a registry: a path, `file://`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`. Credentials and
    /// endpoints come from the usual environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`,
    /// `AWS_ALLOW_HTTP`, …, `GOOGLE_SERVICE_ACCOUNT`, …, `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, …
    ///
    /// A store that cannot be reached is found out at the first request.
    ///
    /// # Errors
    /// If the folder does not exist, the scheme is not known, or the environment is contradictory.
    pub fn open(location: &str) -> Result<Self, RegistryError> {
        Self::open_with(location, &RegistryOptions::default())
    }

    /// Opens a registry, reached in a particular way.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_with(location: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let opened = store::open(location, options).map_err(|reason| RegistryError::Location {
            location: masked(location),
            reason: masked_addresses(&reason),
        })?;
        let store::Opened { store, folder, endpoint } = opened;
        let inner = Inner { store, location: location.to_owned(), folder, endpoint };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The location, as it was given. There is no secret in it: one that has is not opened.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// The folder, if the registry is one: files can be read in place.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.inner.folder.as_ref().map(|folder| folder.given.as_path())
    }

    /// The same without links on the way: what files are opened from.
    pub(crate) fn root(&self) -> Option<&Path> {
        self.inner.folder.as_ref().map(|folder| folder.root.as_path())
    }

    /// What tells it apart from every other registry: buckets of the same name may be behind different endpoints.
    pub(crate) fn identity(&self) -> String {
        let endpoint = self.inner.endpoint.as_deref().map(|endpoint| format!("\n{endpoint}"));
        format!("{}{}", self.location(), endpoint.unwrap_or_default())
    }

    /// The models that have a current version, by slug.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn models(&self) -> Result<Vec<Slug>, RegistryError> {
        let published = |model: Slug| async move {
            let is_there = self.is_file(&current_path(&model)).await?.is_some();
            if !is_there {
                tracing::warn!(%model, "the registry has this model, but no {CURRENT_FILE} for it");
            }
            Ok::<_, RegistryError>(is_there.then_some(model))
        };
        let all = self.all_models().await?;
        let found = futures::stream::iter(all).map(published).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// All models, also those of which no version is current.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn all_models(&self) -> Result<Vec<Slug>, RegistryError> {
        let mut models = Vec::new();
        for folder in self.folders(MODELS_DIR).await? {
            match folder.parse::<Slug>() {
                Ok(model) => models.push(model),
                Err(error) => {
                    tracing::warn!("{MODELS_DIR}/{folder}: a model's folder is called after its slug: {error}");
                }
            }
        }
        models.sort();
        Ok(models)
    }

    /// The versions of a model, in the order in which they were published. What is still being published is not among them.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn versions(&self, model: &Slug) -> Result<Vec<String>, RegistryError> {
        Ok(self.published(model).await?.into_iter().map(|info| info.version).collect())
    }

    /// As [`Registry::versions`], with the times.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn published(&self, model: &Slug) -> Result<Vec<VersionInfo>, RegistryError> {
        let info = |version: String| async move {
            let found = self.is_file(&version_path(model, &version, METADATA_FILE)).await?;
            Ok::<_, RegistryError>(found.map(|meta| VersionInfo { version, published: meta.last_modified.into() }))
        };
        let names = self.folders(&format!("{MODELS_DIR}/{model}")).await?;
        let names = names.into_iter().filter(|name| check_version(name).is_ok());
        let found = futures::stream::iter(names).map(info).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let mut versions: Vec<VersionInfo> = found.into_iter().flatten().collect();
        versions.sort_by(|a, b| (a.published, &a.version).cmp(&(b.published, &b.version)));
        Ok(versions)
    }

    /// The model of this name or slug, if it is there.
    ///
    /// # Errors
    /// [`RegistryError::UnknownModel`] with what is there, and the nearest name.
    pub async fn find(&self, name: &str) -> Result<Slug, RegistryError> {
        let model = Slug::from_name(name)?;
        let known = self.all_models().await?;
        if known.contains(&model) { Ok(model) } else { Err(self.unknown_model(&model, known)) }
    }

    /// The pointer of a model.
    ///
    /// # Errors
    /// [`RegistryError::UnknownModel`] if the model is not there, [`RegistryError::NoCurrent`] if no version is current.
    pub async fn current(&self, model: &Slug) -> Result<CurrentPointer, RegistryError> {
        match self.read_json::<CurrentPointer>(&current_path(model)).await {
            Err(RegistryError::Missing { .. }) => {
                let known = self.all_models().await?;
                let location = self.location().to_owned();
                Err(match known.contains(model) {
                    true => RegistryError::NoCurrent { location, model: model.clone() },
                    false => self.unknown_model(model, known),
                })
            }
            other => other,
        }
    }

    /// A version's metadata, checked against where it stands.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or belongs to another model or version.
    pub async fn metadata(&self, model: &Slug, version: &str) -> Result<ModelMetadata, RegistryError> {
        let path = version_path(model, version, METADATA_FILE);
        check_version(version).map_err(|reason| self.invalid(&path, reason))?;
        let metadata = match self.read_json::<ModelMetadata>(&path).await {
            Err(RegistryError::Missing { .. }) => return Err(self.unknown_version(model, version).await?),
            other => other?,
        };
        check_metadata(&metadata, model, version).map_err(|reason| self.invalid(&path, reason))?;
        Ok(metadata)
    }

    /// The bytes of a file, whatever they are.
    ///
    /// # Errors
    /// If it is missing or the store fails.
    pub async fn read(&self, path: &str) -> Result<Bytes, RegistryError> {
        self.read_at_most(path, u64::MAX).await
    }

    /// The bytes of a file that has at most so many: no more are taken in.
    pub(crate) async fn read_at_most(&self, path: &str, most: u64) -> Result<Bytes, RegistryError> {
        let found = self.get(path).await?;
        self.bytes_of(path, found, most).await
    }

    pub(crate) async fn bytes_of(&self, path: &str, found: GetResult, most: u64) -> Result<Bytes, RegistryError> {
        if found.meta.size > most {
            return Err(self.invalid(path, too_large(most)));
        }
        found.bytes().await.map_err(|error| self.store_error(path, error))
    }

    /// The content of a file of a version, verified: what is returned is what was verified. Nothing is cached.
    ///
    /// # Errors
    /// If it is missing, the store fails, or it is not what the metadata says.
    pub async fn read_verified(&self, model: &Slug, version: &str, file: &FileRef) -> Result<Bytes, RegistryError> {
        let path = version_path(model, version, &file.file);
        let found = self.get(&path).await?;
        // What has not its size is not read at all.
        check_size(file, found.meta.size).map_err(RegistryError::integrity(model, version))?;
        let content = self.bytes_of(&path, found, file.bytes).await?;
        verify(file, &content).map_err(RegistryError::integrity(model, version))?;
        Ok(content)
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    pub(crate) async fn get(&self, path: &str) -> Result<GetResult, RegistryError> {
        if self.root().is_some() {
            let (file, meta) = self.open_file(path)?;
            return Ok(GetResult {
                range: 0..meta.size,
                payload: GetResultPayload::File(file, PathBuf::from(path)),
                attributes: Attributes::default(),
                extensions: Default::default(),
                meta,
            });
        }
        self.store().get(&ObjectPath::from(path)).await.map_err(|error| self.store_error(path, error))
    }

    /// Opens a file of a registry that is a folder.
    fn open_file(&self, path: &str) -> Result<(File, ObjectMeta), RegistryError> {
        let root = self.root().unwrap_or(Path::new(""));
        let file = local::open_beneath(root, path).map_err(|error| self.open_error(path, error))?;
        let meta = object_meta(path, &file).map_err(RegistryError::io(root.join(path)))?;
        Ok((file, meta))
    }

    /// Whether a file of a version can be read where it is.
    pub(crate) fn check_in_place(&self, metadata: &ModelMetadata, file: &FileRef) -> Result<(), RegistryError> {
        let (_, meta) = self.open_file(&version_path(&metadata.slug, &metadata.version, &file.file))?;
        check_size(file, meta.size).map_err(RegistryError::integrity(&metadata.slug, &metadata.version))
    }

    /// Whether something can be written there without being led elsewhere.
    pub(crate) fn check_place(&self, path: &str) -> Result<(), RegistryError> {
        self.root().map_or(Ok(()), |root| local::check_place(root, path).map_err(|error| self.open_error(path, error)))
    }

    /// As [`Registry::head`], but what is not a file is not there: one model's must not keep others from being listed.
    async fn is_file(&self, path: &str) -> Result<Option<ObjectMeta>, RegistryError> {
        match self.head(path).await {
            Err(error @ RegistryError::Irregular { .. }) => {
                tracing::warn!(%error, "passed over");
                Ok(None)
            }
            other => other,
        }
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, RegistryError> {
        if self.root().is_some() {
            return match self.open_file(path) {
                Ok((_, meta)) => Ok(Some(meta)),
                Err(RegistryError::Missing { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        }
        match self.store().head(&ObjectPath::from(path)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store_error(path, error)),
        }
    }

    pub(crate) async fn read_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RegistryError> {
        let bytes = self.read_at_most(path, MAX_JSON_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.invalid(path, error.to_string()))
    }

    /// Names of the folders in a folder. Names that begin with a dot are not what is published.
    pub(crate) async fn folders(&self, path: &str) -> Result<Vec<String>, RegistryError> {
        if let Some(root) = self.root() {
            let names = local::folders(root, path).map_err(|error| self.open_error(path, error))?;
            return Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect());
        }
        let prefix = ObjectPath::from(path);
        let listed = self.store().list_with_delimiter(Some(&prefix)).await.map_err(|e| self.store_error(path, e))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename());
        Ok(names.filter(|name| !name.starts_with('.')).map(str::to_owned).collect())
    }

    pub(crate) async fn objects(&self, path: &str) -> Result<Vec<ObjectMeta>, RegistryError> {
        if let Some(root) = self.root() {
            let files = local::files(root, path).map_err(|error| self.open_error(path, error))?;
            let meta =
                |(path, file): (String, File)| object_meta(&path, &file).map_err(RegistryError::io(root.join(&path)));
            return files.into_iter().map(meta).collect();
        }
        let prefix = ObjectPath::from(path);
        self.store().list(Some(&prefix)).try_collect().await.map_err(|error| self.store_error(path, error))
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), RegistryError> {
        match self.store().delete(&ObjectPath::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.store_error(path, error)),
        }
    }

    /// That there is no such version; or no such model.
    async fn unknown_version(&self, model: &Slug, version: &str) -> Result<RegistryError, RegistryError> {
        let known = self.versions(model).await?;
        if known.is_empty() {
            let models = self.all_models().await?;
            if !models.contains(model) {
                return Ok(self.unknown_model(model, models));
            }
        }
        Ok(RegistryError::UnknownVersion {
            location: self.location().to_owned(),
            model: model.clone(),
            version: version.to_owned(),
            known,
        })
    }

    fn unknown_model(&self, model: &Slug, known: Vec<Slug>) -> RegistryError {
        let known = known.into_iter().filter(|slug| slug != model).collect();
        RegistryError::UnknownModel { location: self.location().to_owned(), model: model.to_string(), known }
    }

    pub(crate) fn invalid(&self, path: &str, reason: String) -> RegistryError {
        RegistryError::Invalid { location: self.location().to_owned(), path: path.to_owned(), reason }
    }

    /// What it means that a file of a folder was not opened.
    pub(crate) fn open_error(&self, path: &str, error: OpenError) -> RegistryError {
        match error {
            OpenError::Irregular { path, what } => RegistryError::Irregular { path, what },
            OpenError::Io(source) if source.kind() == std::io::ErrorKind::NotFound => {
                RegistryError::Missing { location: self.location().to_owned(), path: path.to_owned() }
            }
            OpenError::Io(source) => {
                self.store_error(path, object_store::Error::Generic { store: "folder", source: source.into() })
            }
        }
    }

    pub(crate) fn store_error(&self, path: &str, source: object_store::Error) -> RegistryError {
        let (location, path) = (self.location().to_owned(), path.to_owned());
        match source {
            object_store::Error::NotFound { .. } => RegistryError::Missing { location, path },
            // A list of nothing is not an error, so this has no kind of its own.
            source if source.to_string().contains("<Code>NoSuchBucket</Code>") => {
                RegistryError::Location { location, reason: "there is no such bucket; make it first".into() }
            }
            cause => RegistryError::Store { location, path, cause },
        }
    }
}

fn object_meta(path: &str, file: &File) -> std::io::Result<ObjectMeta> {
    let meta = file.metadata()?;
    let last_modified = meta.modified()?.into();
    Ok(ObjectMeta { location: ObjectPath::from(path), last_modified, size: meta.len(), e_tag: None, version: None })
}
