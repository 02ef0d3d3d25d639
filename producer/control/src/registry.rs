//! Which models a registry holds, as far as a producer needs to know: names, versions, precisions.

use embed_registry::{Registry, RegistryError, masked};
use embed_schemas::{ModelMetadata, Slug, model::MODELS_DIR};

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

/// The models of a registry, in the order of their slugs. A model of which no version is current is not one yet.
///
/// A model whose files are missing or broken, or whose slug is not that of its folder and name, keeps no other from being listed: `warn`
/// hears of it, unless it is one of `named`, which were asked for.
///
/// # Errors
/// If there is no model, if the store fails, if one of `named` is broken, or if all models are.
pub async fn list(location: &str, named: &[Slug], mut warn: impl FnMut(&str)) -> Result<Vec<RegisteredModel>, Error> {
    let registry = match Registry::open(location) {
        Err(RegistryError::Location { reason, .. }) if reason.contains("no such folder") => return Err(none(location)),
        other => other?,
    };
    let (mut models, mut broken) = (Vec::new(), Vec::new());
    for model in registry.models().await? {
        match current(&registry, &model).await {
            Ok(metadata) => models.push(RegisteredModel { metadata }),
            Err(error) if error.is_store() || named.contains(&model) => return Err(error.into()),
            Err(error) => broken.push((model, error)),
        }
    }
    if models.is_empty() {
        return Err(broken.into_iter().next().map_or_else(|| none(location), |(_, error)| error.into()));
    }
    for (model, error) in broken {
        warn(&format!("model {model} is left out: {error}"));
    }
    Ok(models)
}

async fn current(registry: &Registry, model: &Slug) -> Result<ModelMetadata, RegistryError> {
    let version = registry.current(model).await?.version;
    registry.metadata(model, &version).await
}

/// The same registry, for a process that may run in another folder.
///
/// # Errors
/// If the current folder is not known.
pub fn absolute(location: &str) -> Result<String, Error> {
    let path = match location.split_once("://") {
        Some(("file", path)) => path,
        Some(_) => return Ok(location.to_owned()),
        None => location,
    };
    let path = std::path::absolute(path).map_err(Error::file(path))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Error::Registry(format!("{}: the path is not UTF-8", path.display())))
}

fn none(location: &str) -> Error {
    Error::Registry(format!(
        "no model in the registry {} (below {MODELS_DIR}): run `make setup`, or import one with `embed-models import`",
        masked(location)
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use embed_schemas::model::METADATA_FILE;
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
        let location = format!("file://{}", root.path().display());
        let found = list(&location, &[], |warning| panic!("{warning}")).await.unwrap();
        assert_eq!(found.iter().map(|m| m.slug().as_str()).collect::<Vec<_>>(), ["a", "b-1-5"]);
        assert_eq!(found[0].default_variant().unwrap().as_str(), "int8");
    }

    #[tokio::test]
    async fn an_empty_registry_says_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = list(root.path().to_str().unwrap(), &[], |_| ()).await.unwrap_err().to_string();
        assert!(error.contains("models") && error.contains("make setup"), "{error}");
        let error = list("ftp://host", &[], |_| ()).await.unwrap_err().to_string();
        assert!(error.contains("ftp"), "{error}");
    }

    #[tokio::test]
    async fn a_second_model_of_the_same_slug_is_refused() {
        let root = tempfile::tempdir().unwrap();
        publish(root.path(), "b-1-5-again", "B 1.5");
        let error = list(root.path().to_str().unwrap(), &[], |_| ()).await.unwrap_err().to_string();
        assert!(error.contains("b-1-5-again") && error.contains("must agree"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_read_keeps_no_other_model_from_being_listed() {
        let root = tempfile::tempdir().unwrap();
        let location = root.path().to_str().unwrap();
        for name in ["a", "b", "c"] {
            publish(root.path(), name, name);
        }
        let metadata = root.path().join("models/b/v1").join(METADATA_FILE);
        std::fs::write(&metadata, r#"{"pooling": "of the next version"}"#).unwrap();
        std::fs::write(root.path().join("models/c/current.json"), "{").unwrap();
        let mut warnings = Vec::new();
        let found = list(location, &[], |warning| warnings.push(warning.to_owned())).await.unwrap();
        assert_eq!(found.iter().map(|m| m.slug().as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("model b is left out:") && warnings[0].contains(METADATA_FILE), "{warnings:?}");
        assert!(
            warnings[1].starts_with("model c is left out:") && warnings[1].contains("current.json"),
            "{warnings:?}"
        );

        let b: Slug = "b".parse().unwrap();
        let error = list(location, &[b], |_| ()).await.unwrap_err().to_string();
        assert!(error.contains(METADATA_FILE), "{error}");
        // Nothing is left.
        std::fs::remove_dir_all(root.path().join("models/a")).unwrap();
        let error = list(location, &[], |_| ()).await.unwrap_err().to_string();
        assert!(error.contains(METADATA_FILE), "{error}");
    }
}
