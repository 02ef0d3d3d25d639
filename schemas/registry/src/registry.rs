//! A registry as its readers see it: models, versions, metadata, the pointer.

use std::{
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
use object_store::{GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use serde::de::DeserializeOwned;

use crate::{
    RegistryError,
    layout::{check_metadata, check_version},
    location::{masked, masked_addresses},
    store, verify,
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
    folder: Option<PathBuf>,
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
        let inner = Inner { store: opened.store, location: location.to_owned(), folder: opened.folder };
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
        self.inner.folder.as_deref()
    }

    /// The models that have a current version, by slug.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn models(&self) -> Result<Vec<Slug>, RegistryError> {
        let published = |model: Slug| async move {
            let is_there = self.head(&current_path(&model)).await?.is_some();
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
            let found = self.head(&version_path(model, &version, METADATA_FILE)).await?;
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
        self.get(path).await?.bytes().await.map_err(|error| self.store_error(path, error))
    }

    /// The content of a file of a version, verified: what is returned is what was verified. Nothing is cached.
    ///
    /// # Errors
    /// If it is missing, the store fails, or it is not what the metadata says.
    pub async fn read_verified(&self, model: &Slug, version: &str, file: &FileRef) -> Result<Bytes, RegistryError> {
        let content = self.read(&version_path(model, version, &file.file)).await?;
        verify(file, &content).map_err(RegistryError::integrity(model, version))?;
        Ok(content)
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    pub(crate) async fn get(&self, path: &str) -> Result<GetResult, RegistryError> {
        self.store().get(&ObjectPath::from(path)).await.map_err(|error| self.store_error(path, error))
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, RegistryError> {
        match self.store().head(&ObjectPath::from(path)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store_error(path, error)),
        }
    }

    pub(crate) async fn read_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RegistryError> {
        let bytes = self.read(path).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.invalid(path, error.to_string()))
    }

    /// Names of the folders in a folder. Names that begin with a dot are not what is published.
    pub(crate) async fn folders(&self, path: &str) -> Result<Vec<String>, RegistryError> {
        let prefix = ObjectPath::from(path);
        let listed = self.store().list_with_delimiter(Some(&prefix)).await.map_err(|e| self.store_error(path, e))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| folder.filename());
        Ok(names.filter(|name| !name.starts_with('.')).map(str::to_owned).collect())
    }

    pub(crate) async fn objects(&self, path: &str) -> Result<Vec<ObjectMeta>, RegistryError> {
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
