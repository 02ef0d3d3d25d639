//! The model registry: an object store with a fixed layout, see [`embed_schemas::model`].

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use embed_schemas::{
    CurrentPointer, ModelMetadata, Slug,
    model::{CURRENT_FILE, METADATA_FILE, MODELS_DIR, current_path, version_path},
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath};
use serde::de::DeserializeOwned;

/// The registry could not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The location is not one that can be opened.
    #[error("registry {location}: {reason}")]
    Location {
        /// As configured.
        location: String,
        /// What is wrong, and the fix.
        reason: String,
    },
    /// There is no such model.
    #[error("registry {location}: there is no model `{model}`; there {}: import it, for example with `embed-models import`", list(.known))]
    UnknownModel {
        /// The registry.
        location: String,
        /// What was asked for.
        model: String,
        /// What is there.
        known: Vec<Slug>,
    },
    /// A file is missing.
    #[error("registry {location}: there is no {path}")]
    Missing {
        /// The registry.
        location: String,
        /// Below its root.
        path: String,
    },
    /// A file is there but cannot be understood.
    #[error("registry {location}: {path}: {reason}")]
    Invalid {
        /// The registry.
        location: String,
        /// Below its root.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error("registry {location}: {source}")]
    Store {
        /// The registry.
        location: String,
        /// What it said.
        source: object_store::Error,
    },
}

fn list(known: &[Slug]) -> String {
    match known {
        [] => "are none".to_owned(),
        [one] => format!("is `{one}`"),
        many => format!("are {}", many.iter().map(|slug| format!("`{slug}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// A registry of models.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    location: String,
}

impl Registry {
    /// Opens a registry: `file:///…` or a path.
    ///
    /// # Errors
    /// If the folder does not exist or the scheme is not known.
    pub fn open(location: &str) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::Location { location: location.to_owned(), reason };
        let path = match location.split_once("://") {
            Some(("file", path)) => path,
            Some((scheme, _)) => return Err(fail(format!("unknown scheme `{scheme}`; use file:///… or a path"))),
            None => location,
        };
        if !Path::new(path).is_dir() {
            return Err(fail("there is no such folder; make it with `embed-models import … --registry`".into()));
        }
        let store = LocalFileSystem::new_with_prefix(path).map_err(|e| fail(e.to_string()))?;
        Ok(Self { store: Arc::new(store), location: location.to_owned() })
    }

    /// The models that have a current version, by slug.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub async fn models(&self) -> Result<Vec<Slug>, RegistryError> {
        let prefix = ObjectPath::from(MODELS_DIR);
        let folders = self.store.list_with_delimiter(Some(&prefix)).await.map_err(|e| self.store_error(e))?;
        let mut models = Vec::new();
        for folder in folders.common_prefixes {
            let Some(Ok(model)) = folder.filename().map(str::parse::<Slug>) else { continue };
            match self.store.head(&ObjectPath::from(current_path(&model))).await {
                Ok(_) => models.push(model),
                Err(object_store::Error::NotFound { .. }) => {
                    tracing::warn!(%model, "the registry has this model, but no {CURRENT_FILE} for it");
                }
                Err(e) => return Err(self.store_error(e)),
            }
        }
        models.sort();
        Ok(models)
    }

    /// A model's pointer to its current version.
    ///
    /// # Errors
    /// [`RegistryError::UnknownModel`] if there is no pointer.
    pub async fn current(&self, model: &Slug) -> Result<CurrentPointer, RegistryError> {
        match self.read_json(&current_path(model)).await {
            Ok(pointer) => Ok(pointer),
            Err(RegistryError::Missing { .. }) => Err(RegistryError::UnknownModel {
                location: self.location.clone(),
                model: model.to_string(),
                known: self.models().await?,
            }),
            Err(e) => Err(e),
        }
    }

    /// A version's metadata, checked against where it stands.
    ///
    /// # Errors
    /// If it is missing, cannot be read, or belongs to another model or version.
    pub async fn metadata(&self, model: &Slug, version: &str) -> Result<ModelMetadata, RegistryError> {
        let path = version_path(model, version, METADATA_FILE);
        let metadata: ModelMetadata = self.read_json(&path).await?;
        let fail = |reason: String| {
            Err(RegistryError::Invalid { location: self.location.clone(), path: path.clone(), reason })
        };
        if metadata.slug != *model {
            return fail(format!("`slug` is `{}`, but it stands under `{model}`", metadata.slug));
        }
        if Slug::from_name(&metadata.model_name).as_ref() != Ok(model) {
            return fail(format!("`model_name` is {:?}, which does not have the slug `{model}`", metadata.model_name));
        }
        if metadata.version != version {
            return fail(format!("`version` is `{}`, but it stands under `{version}`", metadata.version));
        }
        if metadata.artefacts.is_empty() || metadata.dimension == 0 || metadata.max_seq_length < 2 {
            return fail("`artefacts` must not be empty, `dimension` not 0, `max_seq_length` at least 2".into());
        }
        Ok(metadata)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If it is missing or the store fails.
    pub async fn read(&self, path: &str) -> Result<Bytes, RegistryError> {
        let fetch = async { self.store.get(&ObjectPath::from(path)).await?.bytes().await };
        fetch.await.map_err(|e| match e {
            object_store::Error::NotFound { .. } => {
                RegistryError::Missing { location: self.location.clone(), path: path.to_owned() }
            }
            e => self.store_error(e),
        })
    }

    async fn read_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RegistryError> {
        let bytes = self.read(path).await?;
        serde_json::from_slice(&bytes).map_err(|e| RegistryError::Invalid {
            location: self.location.clone(),
            path: path.to_owned(),
            reason: e.to_string(),
        })
    }

    fn store_error(&self, source: object_store::Error) -> RegistryError {
        RegistryError::Store { location: self.location.clone(), source }
    }
}
