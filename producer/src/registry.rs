//! Which models a registry holds, as far as a producer needs to know: names, versions, precisions.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use embed_schemas::{
    CurrentPointer, ModelMetadata, Slug,
    model::{METADATA_FILE, MODELS_DIR, current_path, version_path},
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem};
use serde::de::DeserializeOwned;

use crate::Error;

/// A model at its current version.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredModel {
    /// The current version's metadata.
    pub metadata: ModelMetadata,
}

impl RegisteredModel {
    /// The model's slug.
    #[must_use]
    pub fn slug(&self) -> &Slug {
        &self.metadata.slug
    }

    /// The variant that a worker serves if it is told nothing else: called after the first artefact's precision.
    #[must_use]
    pub fn default_variant(&self) -> Option<Slug> {
        self.metadata.artefacts.first().map(|artefact| artefact.precision.variant())
    }
}

/// The folder of a registry given as `file://…` or as a path.
///
/// # Errors
/// [`Error::Registry`] for any other scheme.
pub fn folder(registry: &str) -> Result<PathBuf, Error> {
    match registry.split_once("://") {
        None => Ok(PathBuf::from(registry)),
        Some(("file", path)) => Ok(PathBuf::from(path)),
        Some((scheme, _)) => Err(Error::Registry(format!(
            "{registry}: this command reads registries in folders (a path, or file://…), not {scheme}://; \
             copy the registry's models/*/current.json and metadata.json into a folder"
        ))),
    }
}

/// The models of a registry, in the order of their slugs.
///
/// # Errors
/// [`Error::Registry`], naming the path and the fix, if there is no model, if a file is missing or broken, or if a
/// model's slug is not that of its folder and name.
pub async fn list(registry: &str) -> Result<Vec<RegisteredModel>, Error> {
    let root = folder(registry)?;
    let none = || {
        Error::Registry(format!(
            "no model in the registry {}: run `make setup`, or import one with `embed-models import`",
            root.join(MODELS_DIR).display()
        ))
    };
    if !root.join(MODELS_DIR).is_dir() {
        return Err(none());
    }
    let store = LocalFileSystem::new_with_prefix(&root)
        .map_err(|error| Error::Registry(format!("{}: {error}", root.display())))?;
    let listed = store
        .list_with_delimiter(Some(&MODELS_DIR.into()))
        .await
        .map_err(|error| Error::Registry(format!("{}: {error}", root.display())))?;
    let mut models = BTreeMap::new();
    for prefix in listed.common_prefixes {
        let folder = prefix.filename().unwrap_or_default().to_owned();
        let Ok(slug) = folder.parse::<Slug>() else {
            return Err(Error::Registry(format!(
                "{}: {folder:?} is not a slug; a model's folder is called after the slug of its name",
                root.join(MODELS_DIR).display()
            )));
        };
        // A folder without a pointer is a model that has not been published yet.
        let Some(pointer) = read::<CurrentPointer>(&store, &root, &current_path(&slug)).await? else { continue };
        let path = version_path(&slug, &pointer.version, METADATA_FILE);
        let metadata: ModelMetadata = read(&store, &root, &path).await?.ok_or_else(|| {
            Error::Registry(format!(
                "{}: missing, but {} points to it",
                root.join(&path).display(),
                current_path(&slug)
            ))
        })?;
        check_slug(&metadata, &slug, &root.join(&path))?;
        models.insert(slug, RegisteredModel { metadata });
    }
    if models.is_empty() {
        return Err(none());
    }
    Ok(models.into_values().collect())
}

/// Two models whose names share a slug would share subjects; each must live in the folder of its own slug.
fn check_slug(metadata: &ModelMetadata, folder: &Slug, path: &Path) -> Result<(), Error> {
    let named = Slug::from_name(&metadata.model_name)
        .map_err(|error| Error::Registry(format!("{}: model_name: {error}", path.display())))?;
    if &metadata.slug != folder || &named != folder {
        return Err(Error::Registry(format!(
            "{}: the folder is {folder}, slug is {}, and the slug of the name {:?} is {named}; all three must agree",
            path.display(),
            metadata.slug,
            metadata.model_name
        )));
    }
    Ok(())
}

async fn read<T: DeserializeOwned>(store: &LocalFileSystem, root: &Path, path: &str) -> Result<Option<T>, Error> {
    let broken = |reason: String| Error::Registry(format!("{}: {reason}", root.join(path).display()));
    let bytes = match store.get(&path.into()).await {
        Ok(found) => found.bytes().await.map_err(|error| broken(error.to_string()))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn publish(root: &Path, folder: &str, name: &str) {
        let dir = root.join(MODELS_DIR).join(folder);
        let file = json!({"file": "x", "bytes": 1, "sha256": "0".repeat(64)});
        let metadata = json!({
            "model_name": name, "slug": Slug::from_name(name).unwrap(), "model_id": "a/b", "version": "v1",
            "dimension": 4, "max_seq_length": 8, "pooling": "mean", "normalized": true, "space": "s",
            "tokenizer": file, "golden": file,
            "artefacts": [{"precision": "int8", "file": "x", "bytes": 1, "sha256": "0".repeat(64)}],
            "created_at": "2026-01-01T00:00:00Z",
        });
        std::fs::create_dir_all(dir.join("v1")).unwrap();
        std::fs::write(dir.join("v1").join(METADATA_FILE), metadata.to_string()).unwrap();
        std::fs::write(dir.join("current.json"), r#"{"version":"v1"}"#).unwrap();
    }

    #[tokio::test]
    async fn lists_current_versions() {
        let root = tempfile::tempdir().unwrap();
        publish(root.path(), "b-1-5", "B 1.5");
        publish(root.path(), "a", "a");
        std::fs::create_dir_all(root.path().join("models/unpublished/v1")).unwrap();
        let found = list(&format!("file://{}", root.path().display())).await.unwrap();
        assert_eq!(found.iter().map(|m| m.slug().as_str()).collect::<Vec<_>>(), ["a", "b-1-5"]);
        assert_eq!(found[0].default_variant().unwrap().as_str(), "int8");
    }

    #[tokio::test]
    async fn an_empty_registry_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = list(root.path().to_str().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("models") && error.contains("make setup"), "{error}");
        let error = list("s3://bucket").await.unwrap_err().to_string();
        assert!(error.contains("s3://"), "{error}");
    }

    #[tokio::test]
    async fn a_second_model_of_the_same_slug_is_refused() {
        let root = tempfile::tempdir().unwrap();
        publish(root.path(), "b-1-5-again", "B 1.5");
        let error = list(root.path().to_str().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("b-1-5-again") && error.contains("must agree"), "{error}");
    }
}
