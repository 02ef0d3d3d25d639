//! Where engines that TensorRT builds are kept: on disk, and in the registry for other machines of the same kind.

use std::path::{Path, PathBuf};

use embed_registry::EngineKey;

use super::{activity::Activity, provider_chain::ProviderGraph, resolve::ResolvedModel, source::Source};
use crate::{
    engine::{
        driver,
        tensorrt::{self, Profile},
    },
    settings::{EngineConfig, Provider, TensorrtConfig},
    shape::Padding,
};

/// The folder of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineCache {
    /// For which kind of device, by which TensorRT, for which shapes.
    pub kind: String,
    /// Its files on disk.
    pub folder: PathBuf,
    /// Whether what is built here is put into the registry, and what others have built is taken from there.
    pub share: bool,
}

/// The folder of all engines on disk: beside the copies of the registry's files, unless it is said. `None` if they are not to be kept.
#[must_use]
pub(super) fn engines_dir(config: &TensorrtConfig, cache_dir: &Path) -> Option<PathBuf> {
    let dir = || config.cache_dir.clone().unwrap_or_else(|| cache_dir.join("engines"));
    config.cache.then(dir)
}

/// The profiles of a model's engines.
pub(super) fn profiles(model: &ResolvedModel, config: &EngineConfig) -> Vec<Profile> {
    let longest = model.metadata.max_seq_length as usize;
    let padding = Padding::new(config.device.widths.clone(), config.device.rows.clone(), longest);
    tensorrt::profiles(config, &padding, longest)
}

/// The folders of the engines that a target of a chain needs, one for each profile. Empty if it needs none, or none are kept.
#[must_use]
pub(super) fn engine_caches(
    model: &ResolvedModel,
    target: &ProviderGraph,
    config: &EngineConfig,
    engines_dir: Option<&Path>,
    device: u32,
) -> Vec<EngineCache> {
    let (Provider::Tensorrt, Some(dir)) = (target.provider, engines_dir) else { return Vec::new() };
    let machine = driver::architecture(device).and_then(|architecture| Ok((architecture, tensorrt::version()?)));
    match machine {
        Ok((architecture, version)) => {
            let machine = format!("{architecture}-trt{version}");
            let folders =
                profiles(model, config).into_iter().map(|profile| place(target, config, dir, &machine, profile));
            folders.collect()
        }
        Err(reason) => {
            tracing::warn!(reason, "engines are not kept: it cannot be told for which kind of device they are");
            Vec::new()
        }
    }
}

fn place(target: &ProviderGraph, config: &EngineConfig, dir: &Path, machine: &str, profile: Profile) -> EngineCache {
    let kind = format!("{machine}-{}", tensorrt::fingerprint(config, profile));
    let folder = dir.join(&target.graph.file.sha256).join(&kind);
    EngineCache { kind, folder, share: config.tensorrt.share_cache }
}

/// Fetches what others have built, where that is shared. A registry that fails costs a build, no more.
pub(super) async fn fetch(
    source: &Source,
    model: &ResolvedModel,
    target: &ProviderGraph,
    caches: &[EngineCache],
    activity: &Activity,
) {
    for (i, cache) in caches.iter().enumerate().filter(|(_, cache)| cache.share) {
        activity.step(format!("fetching engine {} of {}, if the registry has it", i + 1, caches.len()));
        match source.registry().fetch_engine(&key(model, target, cache), &cache.folder).await {
            Ok(0) => {}
            Ok(files) => {
                tracing::info!(kind = cache.kind, files, "an engine was built before and need not be built again");
            }
            Err(error) => tracing::warn!(kind = cache.kind, %error, "the engine cannot be fetched; it is built here"),
        }
    }
}

/// Puts what was built here into the registry, where it is to be shared.
pub(super) async fn share(
    source: &Source,
    model: &ResolvedModel,
    target: &ProviderGraph,
    caches: &[EngineCache],
    activity: &Activity,
) {
    for (i, cache) in caches.iter().enumerate().filter(|(_, cache)| cache.share) {
        activity.step(format!("putting engine {} of {} into the registry", i + 1, caches.len()));
        let version = &model.metadata.version;
        match source.registry().share_engine(&key(model, target, cache), version, &cache.folder).await {
            Ok(true) => tracing::info!(kind = cache.kind, "the engine is in the registry, for other machines"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(kind = cache.kind, %error, "the engine cannot be put into the registry; others build it");
            }
        }
    }
}

fn key<'a>(model: &'a ResolvedModel, target: &'a ProviderGraph, cache: &'a EngineCache) -> EngineKey<'a> {
    EngineKey { model: &model.model, graph: &target.graph.file.sha256, kind: &cache.kind }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Artefact, Precision, model::FileRef};

    use super::*;

    #[test]
    fn the_folder_tells_apart_graphs_machines_and_shapes() {
        let file = FileRef { file: "fp16-tensorrt.onnx".into(), bytes: 1, sha256: "ab".repeat(32) };
        let graph = Artefact {
            precision: Precision::Fp16,
            form: Default::default(),
            file,
            quantization: None,
            performance: None,
            validation: None,
        };
        let target = ProviderGraph { provider: Provider::Tensorrt, graph, packed: None, otherwise: None };
        let (config, profile) = (EngineConfig::default(), Profile { min: (1, 1), opt: (64, 32), max: (128, 64) });
        let cache = place(&target, &config, Path::new("/cache"), "sm90-trt10.16.1", profile);
        assert_eq!(cache.kind, "sm90-trt10.16.1-1x1-64x32-128x64");
        assert_eq!(cache.folder, Path::new("/cache").join("ab".repeat(32)).join(&cache.kind));
        assert!(!cache.share, "engines are programs, and not taken from a registry without being asked for");
    }

    #[test]
    fn engines_are_beside_the_copies_of_the_registry_unless_they_are_not_kept() {
        let mut config = TensorrtConfig::default();
        let cache = Path::new("/var/cache/embed");
        assert_eq!(engines_dir(&config, cache), Some("/var/cache/embed/engines".into()));
        config.cache_dir = Some("/engines".into());
        assert_eq!(engines_dir(&config, cache), Some("/engines".into()));
        config.cache = false;
        assert_eq!(engines_dir(&config, cache), None);
    }
}
