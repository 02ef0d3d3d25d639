//! What a loaded version is, and why one cannot be loaded.

use std::{fmt::Write, io, sync::Arc, time::Duration};

use embed_registry::RegistryError;
use embed_schemas::Artefact;

use super::{
    activity::Activity, engine_cache::EngineCache, golden::GoldenError, provider_chain::Skipped, shared::SharedModels,
    weights::Weights,
};
use crate::{
    batch::CostTable,
    engine::{Engine, EngineError},
    settings::{BatchConfig, BatchPolicy, EngineConfig, Provider},
    tokenize::{TextTokenizer, TokenizeError},
};

/// A version that is loaded and verified.
#[derive(Debug)]
pub struct LoadedModel {
    /// One engine for each runner.
    pub engines: Vec<Box<dyn Engine>>,
    /// Engines for calls alone, whose runs go before those of the others on the same devices.
    pub urgent: Vec<Box<dyn Engine>>,
    /// The tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// What runs cost, for the planner.
    pub costs: CostTable,
    /// What it runs on.
    pub report: LoadReport,
}

/// What a version runs on.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// The execution provider.
    pub provider: Provider,
    /// The devices, by CUDA's numbers. Empty on the CPU.
    pub devices: Vec<u32>,
    /// The graph in use.
    pub artefact: Artefact,
    /// Whether there is one without padding as well.
    pub packed: bool,
    /// Nodes of the graph that another provider runs. `None` if ONNX Runtime does not tell.
    pub nodes_elsewhere: Option<usize>,
    /// Providers that were to be tried before, and why they do not run it.
    pub skipped: Vec<Skipped>,
    /// What a few runs took on it and on others, where the fastest was to be taken.
    pub measured: Vec<(Provider, Duration)>,
    /// What its weights take.
    pub weights: Weights,
    /// What bounds batches, if it is not for `[batch]` to say.
    pub bounds: Option<DeviceBounds>,
    /// Whether each text is run by itself: the graph takes scales from what is in a run, and a vector is to depend on its text alone.
    pub one_by_one: bool,
    /// On the CPU: threads for the run of a call that has the cores to itself. `None`: as many as for all others.
    pub spread: Option<usize>,
    /// Why it has not more, if it was to.
    pub spread_refused: Option<String>,
    /// On devices: whether calls have engines of their own.
    pub urgent: bool,
    /// Why they have none, if they were to.
    pub urgent_refused: Option<String>,
    /// Why it runs without the worker's own operators, if there is a graph of them that was to be taken.
    pub kernels_refused: Option<String>,
}

/// What bounds batches on devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceBounds {
    /// Most texts.
    pub texts: usize,
    /// Most tokens.
    pub tokens: usize,
    /// Longest run while online calls are coming in.
    pub online_run: Duration,
    /// The same of what are no calls, where those have engines of their own.
    pub beside_calls: Duration,
}

impl DeviceBounds {
    /// What `batch` says, but within these bounds.
    #[must_use]
    pub fn within(self, batch: &BatchConfig) -> BatchConfig {
        let Self { texts: max_texts, tokens: max_tokens, online_run, beside_calls: _ } = self;
        BatchConfig { max_texts, max_tokens, online_run, ..batch.clone() }
    }
}

impl LoadReport {
    /// What `batch` says, but as the engines need it.
    #[must_use]
    pub fn batches(&self, batch: &BatchConfig) -> BatchConfig {
        let batch = self.bounds.map_or_else(|| batch.clone(), |bounds| bounds.within(batch));
        if self.one_by_one {
            // Nobody is waited for who would not come along.
            return BatchConfig { policy: BatchPolicy::Adaptive, max_texts: 1, max_wait: Duration::ZERO, ..batch };
        }
        batch
    }

    /// In one line, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut line = format!("{} in {}", self.provider, self.artefact.precision);
        if !self.devices.is_empty() {
            let _ = write!(line, ", devices {:?}", self.devices);
        }
        if self.packed {
            line += ", padded or packed";
        }
        if self.one_by_one {
            line += ", one text a run, since its quantization depends on what is in one";
        }
        for (i, (provider, took)) in self.measured.iter().enumerate() {
            let _ = write!(
                line,
                "{} {provider} {:.1} ms",
                if i == 0 { ", the fastest:" } else { "," },
                took.as_secs_f64() * 1e3
            );
        }
        match self.nodes_elsewhere {
            Some(0) => line += "; all nodes of the graph run there",
            Some(nodes) => {
                let _ = write!(line, "; {nodes} nodes of the graph run on another provider");
            }
            None => line += "; ONNX Runtime does not tell whether all nodes of the graph run there",
        }
        if let Some(threads) = self.spread {
            let _ = write!(line, "; a call that is alone has {threads} threads");
        }
        if let Some(reason) = &self.spread_refused {
            let _ = write!(line, "; a call that is alone has no more threads than others: {reason}");
        }
        if self.urgent {
            line += "; calls have streams of their own, which go first";
        }
        if let Some(reason) = &self.urgent_refused {
            let _ = write!(line, "; calls have no streams of their own: {reason}");
        }
        if let Some(reason) = &self.kernels_refused {
            let _ = write!(line, "; without the worker's own operators: {reason}");
        }
        line
    }
}

/// A version could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The registry failed, or lacks a file, or a file is damaged.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The golden vectors are not reproduced.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// No provider of the chain can run it.
    #[error("no provider of its chain can run it: {}", .0.join("; "))]
    Chain(Vec<String>),
    /// The system gave no thread to load with.
    #[error("a thread to load with: {0}")]
    Thread(io::Error),
    /// Loading panicked.
    #[error("loading ended without a result: see the log")]
    Died,
}

/// What a version is made ready with.
#[derive(Debug, Clone, Copy)]
pub struct LoadContext<'a> {
    /// How graphs are run.
    pub config: &'a EngineConfig,
    /// Most bytes of a text.
    pub max_text_bytes: usize,
    /// Where engines are kept, one for each profile. Empty if they are not.
    pub engines: &'a [EngineCache],
    /// What is loaded already.
    pub shared: &'a SharedModels,
    /// Hears of what is being done.
    pub activity: &'a Activity,
}
