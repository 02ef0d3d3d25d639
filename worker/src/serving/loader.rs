//! Loads versions, on a thread of their own, and lets those that have files in common share them.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::{
    config::{Config, EngineConfig},
    engine::{OnnxModel, give_back_memory, give_way},
    model::{self, Files, LoadError, LoadedVersion, Selected, Shelf, Source},
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

    /// From the registry to engines for `runners` threads that are verified and warm. `aside`: at the lowest priority,
    /// since others are being served meanwhile.
    ///
    /// # Errors
    /// At the first step that fails.
    pub async fn load(
        &self,
        selected: &Selected,
        runners: usize,
        aside: bool,
    ) -> Result<LoadedVersion<OnnxModel>, LoadError> {
        let files = self.source.files(selected).await?;
        let (this, selected) = (self.clone(), selected.clone());
        let (done, result) = oneshot::channel();
        // Not on the runtime's threads: those take in and answer calls.
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                if aside {
                    give_way(NICE);
                }
                let result = this.prepare(&files, &selected, runners);
                drop(files);
                give_back_memory();
                // Whoever asked may be gone, because the worker stops.
                let _ = done.send(result);
            })
            .map_err(LoadError::Thread)?;
        result.await.unwrap_or(Err(LoadError::Died))
    }

    fn prepare(
        &self,
        files: &Files,
        selected: &Selected,
        runners: usize,
    ) -> Result<LoadedVersion<OnnxModel>, LoadError> {
        let library = self.engine.library.as_deref();
        let threads = self.engine.threads_per_runner;
        model::prepare(files, selected, library, runners, threads, self.max_text_bytes, &self.shelf)
    }
}
