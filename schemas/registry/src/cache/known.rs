//! What was last read of a registry: with it, and the files, a worker starts while the registry is down.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use embed_schemas::{CurrentPointer, ModelMetadata, Slug};
use serde::{Serialize, de::DeserializeOwned};

use super::Cache;
use crate::{
    Registry, RegistryError,
    integrity::Sum,
    layout::{MAX_JSON_BYTES, check_metadata},
    local,
};

/// A registry that does not answer is not waited for any longer, if it is known what it said before.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which version is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionSpec {
    /// Whichever the pointer names.
    Current,
    /// This one.
    Exact(String),
}

impl From<&str> for VersionSpec {
    /// `current`, or a version.
    fn from(version: &str) -> Self {
        if version == "current" { Self::Current } else { Self::Exact(version.to_owned()) }
    }
}

/// A version that was found.
#[derive(Debug)]
pub struct Resolved {
    /// Its metadata.
    pub metadata: ModelMetadata,
    /// Why the registry could not say which version is current, if that is taken from what it said before. Worth a warning.
    pub stale: Option<RegistryError>,
}

impl Resolved {
    /// Whether the registry could not be asked.
    #[must_use]
    pub const fn from_cache(&self) -> bool {
        self.stale.is_some()
    }
}

impl Cache {
    /// The metadata of the wanted version. If the registry does not answer, what it said before holds.
    ///
    /// A version never changes, so its metadata is asked for once.
    ///
    /// # Errors
    /// If it is not there, or the registry does not answer and it was never read before.
    pub async fn resolve(
        &self,
        registry: &Registry,
        model: &Slug,
        version: &VersionSpec,
    ) -> Result<Resolved, RegistryError> {
        let (version, stale) = match version {
            VersionSpec::Exact(version) => (version.clone(), None),
            VersionSpec::Current => {
                let known = self.known(registry, &format!("{model}/current.json"));
                let (pointer, stale) = self.ask::<CurrentPointer>(registry, &known, registry.current(model)).await?;
                (pointer.version, stale)
            }
        };
        let known = self.known(registry, &format!("{model}/{version}/metadata.json"));
        let before = known.as_deref().and_then(read::<ModelMetadata>);
        let metadata = match before.filter(|metadata| check_metadata(metadata, model, &version).is_ok()) {
            Some(metadata) => metadata,
            None => {
                let metadata = registry.metadata(model, &version).await?;
                remember(known.as_deref(), &metadata);
                metadata
            }
        };
        Ok(Resolved { metadata, stale })
    }

    /// The models that have a current version, as [`Registry::models`]; if the registry does not answer, those that it had before,
    /// and the reason.
    ///
    /// # Errors
    /// If the registry does not answer and was never asked before.
    pub async fn models(&self, registry: &Registry) -> Result<(Vec<Slug>, Option<RegistryError>), RegistryError> {
        let known = self.known(registry, "models.json");
        self.ask(registry, &known, registry.models()).await
    }

    async fn ask<T: Serialize + DeserializeOwned>(
        &self,
        registry: &Registry,
        known: &Option<PathBuf>,
        question: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<(T, Option<RegistryError>), RegistryError> {
        let Some(before) = known.as_deref().and_then(read::<T>) else {
            let answer = question.await?;
            remember(known.as_deref(), &answer);
            return Ok((answer, None));
        };
        let no_answer =
            || Err(RegistryError::NoAnswer { location: registry.location().to_owned(), waited_s: PATIENCE.as_secs() });
        match tokio::time::timeout(PATIENCE, question).await.unwrap_or_else(|_| no_answer()) {
            Ok(answer) => {
                remember(known.as_deref(), &answer);
                Ok((answer, None))
            }
            Err(error) if error.is_store() => Ok((before, Some(error))),
            Err(error) => Err(error),
        }
    }

    /// Where something is remembered; nowhere if the registry is a folder.
    fn known(&self, registry: &Registry, name: &str) -> Option<PathBuf> {
        if registry.folder().is_some() {
            return None;
        }
        let mut sum = Sum::default();
        sum.update(registry.identity().as_bytes());
        Some(self.folder().join("known").join(&sum.hex()[..16]).join(name))
    }
}

/// What cannot be read is not known.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = local::open_regular(path).ok()?;
    serde_json::from_slice(&local::read(&file, MAX_JSON_BYTES).ok()??).ok()
}

/// It helps later; if it fails, nothing is wrong now.
fn remember(path: Option<&Path>, value: &impl Serialize) {
    /// Several tasks may remember the same.
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let Some(path) = path else { return };
    let write = || {
        let folder = path.parent().ok_or_else(|| std::io::Error::other("a file has a folder"))?;
        fs::create_dir_all(folder)?;
        let partial = folder.join(format!(".{}.{}.partial", process::id(), WRITES.fetch_add(1, Ordering::Relaxed)));
        let written = fs::write(&partial, serde_json::to_vec(value)?).and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    };
    if let Err(error) = write() {
        tracing::warn!(%error, path = %path.display(), "the cache could not be written");
    }
}
