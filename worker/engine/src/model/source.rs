//! Where versions come from: the registry, with copies of its files on local disk unless it is on local disk itself.

use std::{path::PathBuf, time::Duration};

use embed_registry::{Cache, Progress, Registry, RegistryError, RegistryOptions, Step, VersionSpec};
use embed_schemas::{ModelMetadata, Slug};
use parking_lot::Mutex;

use super::{
    files::Files,
    provider_chain::ProviderGraph,
    resolve::{ResolveError, ResolvedModel, graphs},
};
use crate::settings::{EngineConfig, ModelSpec};

/// How long a request to a registry that does not answer is tried again. Whoever asked says then that it failed, and tries later; what
/// was downloaded until then is kept.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// A registry and its cache.
#[derive(Debug, Clone)]
pub struct Source {
    registry: Registry,
    cache: Option<Cache>,
}

impl Source {
    /// Opens both. Copies go to `cache_dir`, up to `cache_bytes` of them; a registry that is a folder needs none.
    ///
    /// # Errors
    /// If the location is not one of a registry, or the cache's folder cannot be made.
    pub fn open(location: &str, cache_dir: PathBuf, cache_bytes: u64) -> Result<Self, RegistryError> {
        let options = RegistryOptions { retry_for: RETRY_FOR, ..RegistryOptions::default() };
        let registry = Registry::open_with(location, &options)?;
        let cache = match registry.folder() {
            Some(_) => None,
            None => Some(Cache::open(cache_dir, cache_bytes)?),
        };
        Ok(Self { registry, cache })
    }

    /// The registry.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The models that have a current version, by slug.
    ///
    /// # Errors
    /// If the registry does not answer, and it is not known what it said before.
    pub async fn models(&self) -> Result<Vec<Slug>, RegistryError> {
        let Some(cache) = &self.cache else { return self.registry.models().await };
        let (models, stale) = cache.models(&self.registry).await?;
        warn(stale.as_ref());
        Ok(models)
    }

    /// The metadata of a version, or of the one that the model's pointer names (`current`).
    ///
    /// # Errors
    /// If it is not there, or the registry does not answer and it is not known what it said before.
    pub async fn metadata(&self, model: &Slug, version: &str) -> Result<ModelMetadata, RegistryError> {
        let spec = VersionSpec::from(version);
        match (&self.cache, spec) {
            (Some(cache), spec) => {
                let resolved = cache.resolve(&self.registry, model, &spec).await?;
                warn(resolved.stale.as_ref());
                Ok(resolved.metadata)
            }
            (None, VersionSpec::Exact(version)) => self.registry.metadata(model, &version).await,
            (None, VersionSpec::Current) => {
                let pointer = self.registry.current(model).await?;
                self.registry.metadata(model, &pointer.version).await
            }
        }
    }

    /// The files that serving needs, verified.
    ///
    /// # Errors
    /// If one is missing or not what the metadata says, or it can neither be fetched nor is it here already.
    pub async fn files(&self, resolved: &ResolvedModel, target: &ProviderGraph) -> Result<Files, RegistryError> {
        let (model, metadata) = (&resolved.model, &resolved.metadata);
        let Some(cache) = &self.cache else {
            let read = async |file| self.registry.read_verified(model, &metadata.version, file).await;
            let packed = match &target.packed {
                Some(packed) => Some(read(&packed.file).await?),
                None => None,
            };
            let (tokenizer, golden) = (read(&metadata.tokenizer).await?, read(&metadata.golden).await?);
            return Ok(Files { graph: read(&target.graph.file).await?, packed, tokenizer, golden });
        };
        match self.cached(cache, resolved, target).await {
            // The damaged copy is gone now: another can be fetched.
            Err(RegistryError::DamagedCopy { path, source }) => {
                tracing::warn!(path = %path.display(), error = %source, "a copy in the cache is damaged; fetching another");
                self.cached(cache, resolved, target).await
            }
            other => other,
        }
    }

    async fn cached(
        &self,
        cache: &Cache,
        model: &ResolvedModel,
        target: &ProviderGraph,
    ) -> Result<Files, RegistryError> {
        let metadata = &model.metadata;
        let mut files = vec![target.graph.file.clone(), metadata.tokenizer.clone(), metadata.golden.clone()];
        files.extend(target.packed.as_ref().map(|packed| packed.file.clone()));
        let log = DownloadLog::default();
        let local = cache.fetch(&self.registry, &model.model, &metadata.version, &files, &log).await?;
        let packed = match &target.packed {
            Some(packed) => Some(local.read(&packed.file).await?),
            None => None,
        };
        let (tokenizer, golden) = (local.read(&metadata.tokenizer).await?, local.read(&metadata.golden).await?);
        Ok(Files { graph: local.read(&target.graph.file).await?, packed, tokenizer, golden })
    }
}

/// Resolves what is asked for against the registry.
///
/// # Errors
/// If the model, the version or the precision is missing.
pub async fn resolve(source: &Source, spec: &ModelSpec, engine: &EngineConfig) -> Result<ResolvedModel, ResolveError> {
    let model = Slug::from_name(&spec.model)?;
    let metadata = source.metadata(&model, &spec.version).await?;
    graphs(model, metadata, spec, engine)
}

/// The version that a model's pointer named before it was moved the last time. `None` if there is none, or it cannot be found out.
pub async fn previous_of_current(source: &Source, spec: &ModelSpec, engine: &EngineConfig) -> Option<ResolvedModel> {
    let model = Slug::from_name(&spec.model).ok()?;
    let pointer = source.registry().current(&model).await.ok()?;
    let before = pointer.history.last()?.from.clone()?;
    resolve(source, &ModelSpec { version: before, ..spec.clone() }, engine).await.ok()
}

fn warn(stale: Option<&RegistryError>) {
    if let Some(error) = stale {
        tracing::warn!(%error, "the registry does not answer; what it said before holds");
    }
}

/// Logs how far a download is, at each tenth of a file.
#[derive(Debug, Default)]
struct DownloadLog(Mutex<(String, u64, u64)>);

impl Progress for DownloadLog {
    fn begin(&self, step: Step, file: &str, bytes: u64) {
        match step {
            Step::Download => tracing::info!(file, bytes, "downloading"),
            Step::Wait => tracing::info!(file, "another worker downloads it; waiting"),
            _ => tracing::debug!(?step, file, bytes, "cache"),
        }
        *self.0.lock() = (file.to_owned(), 0, bytes);
    }

    fn advance(&self, more: u64) {
        let mut state = self.0.lock();
        let (file, done, all) = &mut *state;
        let tenths = |bytes: u64| bytes * 10 / (*all).max(1);
        let before = tenths(*done);
        *done += more;
        if tenths(*done) > before {
            tracing::info!(file, percent = tenths(*done) * 10, "downloading");
        }
    }
}
