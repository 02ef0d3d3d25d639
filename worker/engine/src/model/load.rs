//! From files to engines that are ready: verify, load, warm up, reproduce the golden vectors.

use std::{
    fmt::Write,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use embed_schemas::{Artefact, ModelMetadata, Precision};

use super::{
    EngineCache, GoldenError, ProviderGraph, RegistryError, ResolvedModel, SharedModels, Skipped, Weights,
    golden::Tolerance,
    sessions::{Engines, Sessions},
    verify_golden,
};
use crate::{
    batch::{CostTable, Unit},
    engine::{Engine, EngineError, capture_lock, library},
    model::Activity,
    settings::{BatchConfig, EngineConfig, Provider},
    tokenize::{TextTokenizer, TokenizeError},
};

/// A version that is loaded and verified.
#[derive(Debug)]
pub struct LoadedModel {
    /// One engine for each runner.
    pub engines: Vec<Box<dyn Engine>>,
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
    /// What its weights take.
    pub weights: Weights,
    /// What bounds batches, if it is not for `[batch]` to say.
    pub bounds: Option<DeviceBounds>,
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
}

impl DeviceBounds {
    /// What `batch` says, but within these bounds.
    #[must_use]
    pub fn within(self, batch: &BatchConfig) -> BatchConfig {
        let Self { texts: max_texts, tokens: max_tokens, online_run } = self;
        BatchConfig { max_texts, max_tokens, online_run, ..batch.clone() }
    }
}

impl LoadReport {
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
        match self.nodes_elsewhere {
            Some(0) => line += "; all nodes of the graph run there",
            Some(nodes) => {
                let _ = write!(line, "; {nodes} nodes of the graph run on another provider");
            }
            None => line += "; ONNX Runtime does not tell whether all nodes of the graph run there",
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

/// The files of a version that serving needs, verified: what was verified is what is loaded.
#[derive(Debug)]
pub struct Files {
    /// The graph.
    pub(super) graph: Bytes,
    /// The graph without padding.
    pub(super) packed: Option<Bytes>,
    /// The tokenizer.
    pub(super) tokenizer: Bytes,
    /// The golden texts.
    pub(super) golden: Bytes,
}

impl Files {
    /// The tokenizer alone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tokenizer(&self, metadata: &ModelMetadata, max_text_bytes: usize) -> Result<TextTokenizer, TokenizeError> {
        TextTokenizer::new(&self.tokenizer, metadata, max_text_bytes)
    }
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

/// Makes a version ready on one provider. Takes from a fraction of a second to minutes, on the calling thread.
///
/// # Errors
/// At the first step that fails; nothing is served then.
pub fn prepare(
    files: &Files,
    model: &ResolvedModel,
    target: &ProviderGraph,
    context: &LoadContext<'_>,
) -> Result<LoadedModel, LoadError> {
    let LoadContext { config, max_text_bytes, shared, .. } = *context;
    let started = Instant::now();
    let metadata = &model.metadata;
    if target.provider == Provider::Cuda && matches!(target.graph.precision, Precision::Int8 | Precision::Fp8) {
        tracing::warn!(
            model = %model.model,
            variant = %model.variant,
            precision = %target.graph.precision,
            "the CUDA provider computes this precision no faster than FP16, and often slower; \
             use `precision = \"fp16\"` there, or TensorRT"
        );
    }
    // Until nothing of it is used that has failed, either.
    let _loading = target.provider.on_device().then(capture_lock::load);
    let environment = library::environment(config.library.as_deref()).map_err(EngineError::from)?;
    let key = (metadata.tokenizer.sha256.clone(), metadata.max_seq_length, max_text_bytes);
    let tokenizer = shared.tokenizer(key, || files.tokenizer(metadata, max_text_bytes))?;
    let sessions = Sessions { environment: &environment, files, model, target, context };
    let Engines { mut engines, costs, devices, bounds, nodes_elsewhere } = sessions.engines()?;
    let tolerance = Tolerance::of(target.graph.precision, target.provider, config);
    let mut verified = None;
    for engine in &mut engines {
        // Each device computes for itself, and each graph.
        if verified.replace(engine.unit()) == Some(engine.unit())
            || (!target.provider.on_device() && engine.unit() != Unit(0))
        {
            continue;
        }
        for form in engine.forms() {
            verify_golden(&files.golden, metadata, tolerance, *form, &tokenizer, engine)?;
        }
    }
    let report = LoadReport {
        provider: target.provider,
        weights: Weights::of(model, target, devices.len(), config),
        devices,
        artefact: target.graph.clone(),
        packed: target.packed.is_some(),
        nodes_elsewhere,
        skipped: Vec::new(),
        bounds,
    };
    tracing::info!(
        model = %model.model,
        variant = %model.variant,
        version = %metadata.version,
        precision = %report.artefact.precision,
        provider = %report.provider,
        devices = ?report.devices,
        packed = report.packed,
        nodes_elsewhere = report.nodes_elsewhere,
        runners = engines.len(),
        milliseconds = started.elapsed().as_millis() as u64,
        "model loaded, verified and warm"
    );
    Ok(LoadedModel { engines, tokenizer, costs, report })
}
