//! Loads versions, on a thread of their own, and lets those that have files in common share them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    activity::Activities,
    backend::Backend,
    engine_cache,
    fastest::fastest,
    loaded::{LoadError, LoadedModel},
    provider_chain::{ProviderGraph, Skipped},
    resolve::ResolvedModel,
    source::Source,
};
use crate::{
    engine::{EngineError, give_back_memory},
    settings::Provider,
    threads::give_way,
};

/// By how much the priority of loading is lowered while others are served: they must hardly notice it.
const NICE: u8 = 19;

/// Loads versions.
#[derive(Debug, Clone)]
pub struct Loader {
    source: Source,
    backend: Arc<dyn Backend>,
    activities: Activities,
}

impl Loader {
    /// A loader of versions from there. What it does is told to `activities`.
    pub const fn new(source: Source, backend: Arc<dyn Backend>, activities: Activities) -> Self {
        Self { source, backend, activities }
    }

    /// Where versions come from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// Whether a provider can be used here at all.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self, provider: Provider) -> Result<(), LoadError> {
        let backend = Arc::clone(&self.backend);
        on_a_thread(NICE, move || backend.probe(provider)).await
    }

    /// From the registry to engines that are verified and warm, on the first provider of the chain that can run it. `aside`:
    /// at the lowest priority, since others are being served meanwhile.
    ///
    /// # Errors
    /// If the registry fails, or no provider can run it.
    pub async fn load(&self, model: &ResolvedModel, aside: bool) -> Result<LoadedModel, LoadError> {
        if model.measures && model.chain.len() > 1 {
            return self.load_fastest(model, aside).await;
        }
        let mut skipped = model.skipped.clone();
        for (i, target) in model.chain.iter().enumerate() {
            let error = match self.load_on(model, target, aside).await {
                Ok(mut loaded) => {
                    loaded.report.skipped = skipped;
                    return Ok(loaded);
                }
                // What is wrong with the registry is not the provider's fault.
                Err(error @ LoadError::Registry(_)) => return Err(error),
                Err(error) if i == 0 && model.chain.len() == 1 && skipped.is_empty() => return Err(error),
                Err(error) => error,
            };
            skipped.push(skip(model, target, error));
        }
        Err(chain_error(skipped))
    }

    /// On every provider that can run it, and of those the fastest: none of the others is missed.
    async fn load_fastest(&self, model: &ResolvedModel, aside: bool) -> Result<LoadedModel, LoadError> {
        let (mut loaded, mut skipped) = (Vec::new(), Vec::new());
        for target in &model.chain {
            match self.load_on(model, target, aside).await {
                Ok(one) => loaded.push(one),
                Err(error @ LoadError::Registry(_)) => return Err(error),
                Err(error) => skipped.push(skip(model, target, error)),
            }
        }
        // At the priority at which each of them is going to run: some compute on threads of their own, which have it already.
        let longest = model.metadata.max_seq_length as usize;
        let chosen = on_a_thread(self.backend.nice(), move || {
            let chosen = fastest(loaded, longest);
            // Of those that were not.
            give_back_memory();
            Ok(chosen)
        })
        .await?;
        chosen.ok_or_else(|| chain_error(skipped))
    }

    /// On a provider: with the worker's own operators, or without them if it cannot be.
    async fn load_on(
        &self,
        model: &ResolvedModel,
        target: &ProviderGraph,
        aside: bool,
    ) -> Result<LoadedModel, LoadError> {
        match (self.load_graphs(model, target, aside).await, &target.otherwise) {
            (Err(error), Some(otherwise)) if !matches!(error, LoadError::Registry(_)) => {
                tracing::warn!(%error, model = %model.model, variant = %model.variant, provider = %target.provider,
                    "the worker's own operators cannot be used; runs take longer with those of ONNX Runtime");
                let mut loaded = self.load_graphs(model, otherwise, aside).await?;
                loaded.report.kernels_refused = Some(error.to_string());
                Ok(loaded)
            }
            (loaded, _) => loaded,
        }
    }

    async fn load_graphs(
        &self,
        model: &ResolvedModel,
        target: &ProviderGraph,
        aside: bool,
    ) -> Result<LoadedModel, LoadError> {
        let provider = target.provider;
        // Its threads have the priority of the one that loads, for as long as the version is there.
        let nice = if aside && provider != Provider::Openvino { NICE } else { 0 };
        let activity = self.activities.begin(format!("{} {}: loading for {provider}", model.model, model.variant));
        // Before its graph is fetched in vain.
        let backend = Arc::clone(&self.backend);
        on_a_thread(nice, move || backend.probe(provider)).await?;
        let files = self.source.files(model, target).await?;
        let caches = self.backend.engine_caches(model, target);
        engine_cache::fetch(&self.source, model, target, &caches, &activity).await;
        let (backend, one, its) = (Arc::clone(&self.backend), model.clone(), target.clone());
        let (loaded, activity) = on_a_thread(nice, move || {
            let result = backend.prepare(&files, &one, &its, &activity);
            drop(files);
            give_back_memory();
            Ok((result?, activity))
        })
        .await?;
        engine_cache::share(&self.source, model, target, &caches, &activity).await;
        Ok(loaded)
    }
}

/// A provider that cannot run a version, and why.
fn skip(model: &ResolvedModel, target: &ProviderGraph, error: LoadError) -> Skipped {
    let reason = match error {
        LoadError::Engine(EngineError::Provider { reason, .. }) => reason,
        error => error.to_string(),
    };
    tracing::warn!(model = %model.model, variant = %model.variant, provider = %target.provider, reason, "a provider cannot run it");
    Skipped { provider: target.provider, reason }
}

fn chain_error(skipped: Vec<Skipped>) -> LoadError {
    LoadError::Chain(skipped.into_iter().map(|one| format!("{}: {}", one.provider, one.reason)).collect())
}

/// Not on the runtime's threads: those take in and answer calls.
async fn on_a_thread<T: Send + 'static>(
    nice: u8,
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let (done, result) = oneshot::channel();
    let body = move || {
        give_way(nice);
        // Whoever asked may be gone, because the worker stops.
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("load".to_owned()).spawn(body).map_err(LoadError::Thread)?;
    result.await.unwrap_or(Err(LoadError::Died))
}
