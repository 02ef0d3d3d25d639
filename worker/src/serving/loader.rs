//! Loads versions, on a thread of their own, and lets those that have files in common share them.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    config::{Config, EngineConfig, Provider},
    engine::{EngineError, OnnxEngine, Place, give_back_memory, give_way, library, providers},
    model::{self, Link, LoadError, LoadedVersion, Selected, Shelf, Skipped, Source},
};

/// By how much the priority of loading is lowered while others are served: they must hardly notice it.
const NICE: u8 = 19;

/// Loads versions.
#[derive(Debug, Clone)]
pub struct Loader {
    source: Source,
    engine: EngineConfig,
    max_text_bytes: usize,
    shelf: Arc<Shelf>,
}

impl Loader {
    /// A loader of versions from there.
    pub fn new(source: Source, config: &Config) -> Self {
        let (engine, max_text_bytes) = (config.engine.clone(), config.tokenize.max_text_bytes);
        Self { source, engine, max_text_bytes, shelf: Arc::default() }
    }

    /// Where versions come from.
    pub const fn source(&self) -> &Source {
        &self.source
    }

    /// From the registry to engines that are verified and warm, on the first provider of the chain that can run it. `aside`:
    /// at the lowest priority, since others are being served meanwhile.
    ///
    /// # Errors
    /// If the registry fails, or no provider can run it.
    pub async fn load(&self, selected: &Selected, aside: bool) -> Result<LoadedVersion<OnnxEngine>, LoadError> {
        let mut skipped = selected.skipped.clone();
        for (i, link) in selected.chain.iter().enumerate() {
            let error = match self.load_on(selected, link, aside).await {
                Ok(mut loaded) => {
                    loaded.running.skipped = skipped;
                    return Ok(loaded);
                }
                // What is wrong with the registry is not the provider's fault.
                Err(error @ LoadError::Registry(_)) => return Err(error),
                Err(error) if i == 0 && selected.chain.len() == 1 && skipped.is_empty() => return Err(error),
                Err(error) => error,
            };
            let reason = match error {
                LoadError::Engine(EngineError::Provider { reason, .. }) => reason,
                error => error.to_string(),
            };
            tracing::warn!(model = %selected.model, variant = %selected.variant, provider = %link.provider, reason, "a provider cannot run it");
            skipped.push(Skipped { provider: link.provider, reason });
        }
        Err(LoadError::Chain(skipped.into_iter().map(|one| format!("{}: {}", one.provider, one.reason)).collect()))
    }

    async fn load_on(
        &self,
        selected: &Selected,
        link: &Link,
        aside: bool,
    ) -> Result<LoadedVersion<OnnxEngine>, LoadError> {
        if link.provider.on_device() {
            // Before its graph is fetched in vain.
            let (engine, provider) = (self.engine.clone(), link.provider);
            on_a_thread(aside, move || probe(&engine, provider)).await?;
        }
        let files = self.source.files(selected, link).await?;
        let (this, selected, link) = (self.clone(), selected.clone(), link.clone());
        on_a_thread(aside, move || {
            let result = model::prepare(&files, &selected, &link, &this.engine, this.max_text_bytes, &this.shelf);
            drop(files);
            give_back_memory();
            result
        })
        .await
    }
}

/// Whether the provider's library can be loaded here.
fn probe(engine: &EngineConfig, provider: Provider) -> Result<(), LoadError> {
    let environment = library::environment(engine.library.as_deref()).map_err(EngineError::from)?;
    let place = Place { provider, device: 0 };
    let failed = |reason| EngineError::Provider { provider: provider.as_str(), reason };
    Ok(providers::probe(&environment, engine, place).map_err(failed)?)
}

/// Not on the runtime's threads: those take in and answer calls.
async fn on_a_thread<T: Send + 'static>(
    aside: bool,
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let (done, result) = oneshot::channel();
    let body = move || {
        if aside {
            give_way(NICE);
        }
        // Whoever asked may be gone, because the worker stops.
        let _ = done.send(work());
    };
    std::thread::Builder::new().name("load".to_owned()).spawn(body).map_err(LoadError::Thread)?;
    result.await.unwrap_or(Err(LoadError::Died))
}
