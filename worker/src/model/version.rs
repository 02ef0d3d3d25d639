//! From files to engines that are ready: verify, load, warm up, reproduce the golden vectors.

use std::{io, path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use embed_schemas::ModelMetadata;

use super::{GoldenError, RegistryError, Selected, Shelf, verify_golden};
use crate::{
    batch::Measured,
    engine::{Engine, EngineError, Input, OnnxModel, Stopwatch, library},
    tokenize::{TextTokenizer, TokenizeError},
};

/// Shapes, rows and width, whose cost is measured: few, since starting must be quick, and chosen so that what a run, a
/// token and a pair of tokens cost can be told apart.
const MEASURED_SHAPES: [(usize, usize); 5] = [(1, 16), (1, 64), (1, 256), (8, 16), (4, 64)];

/// A version that is loaded and verified.
#[derive(Debug)]
pub struct LoadedVersion<E> {
    /// One engine for each runner.
    pub engines: Vec<E>,
    /// The tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// What some runs took, for the planner.
    pub measured: Vec<Measured>,
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
    graph: Bytes,
    tokenizer: Bytes,
    golden: Bytes,
}

impl Files {
    /// Puts them together, verified.
    pub(super) const fn new(graph: Bytes, tokenizer: Bytes, golden: Bytes) -> Self {
        Self { graph, tokenizer, golden }
    }

    /// The tokenizer alone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn tokenizer(&self, metadata: &ModelMetadata, max_text_bytes: usize) -> Result<TextTokenizer, TokenizeError> {
        TextTokenizer::new(&self.tokenizer, metadata, max_text_bytes)
    }
}

/// Makes a version ready. Takes from a fraction of a second to minutes, on the calling thread.
///
/// # Errors
/// At the first step that fails; nothing is served then.
pub fn prepare(
    files: &Files,
    selected: &Selected,
    library: Option<&Path>,
    runners: usize,
    threads: usize,
    max_text_bytes: usize,
    shelf: &Shelf,
) -> Result<LoadedVersion<OnnxModel>, LoadError> {
    let started = Instant::now();
    let metadata = &selected.metadata;
    let environment = library::environment(library).map_err(EngineError::from)?;
    let key = (metadata.tokenizer.sha256.clone(), metadata.max_seq_length, max_text_bytes);
    let tokenizer = shelf.tokenizer(key, || files.tokenizer(metadata, max_text_bytes))?;
    let load = || OnnxModel::load(&environment, &files.graph, metadata, threads);
    let mut engine = shelf.model(&selected.artefact.file.sha256, threads, load)?;
    // The largest run once, so that no request pays for the first allocations.
    time_run(&mut engine, 1, metadata.max_seq_length as usize, threads)?;
    let mut measured = Vec::new();
    for (rows, width) in MEASURED_SHAPES.into_iter().filter(|(_, w)| *w <= metadata.max_seq_length as usize) {
        measured.push(time_run(&mut engine, rows, width, threads)?);
    }
    verify_golden(&files.golden, metadata, selected.artefact.precision, &tokenizer, &mut engine)?;
    // Side by side on the same weights.
    let engines = vec![engine; runners];
    tracing::info!(
        model = %selected.model,
        variant = %selected.variant,
        version = %metadata.version,
        precision = %selected.artefact.precision,
        runners,
        milliseconds = started.elapsed().as_millis() as u64,
        "model loaded, verified and warm"
    );
    Ok(LoadedVersion { engines, tokenizer, measured })
}

fn time_run(engine: &mut impl Engine, rows: usize, width: usize, threads: usize) -> Result<Measured, EngineError> {
    let mut input = Input::default();
    // Any id of the vocabulary does; 1 is in every one.
    let row = vec![1; width];
    input.fill(std::iter::repeat_n(row.as_slice(), rows));
    let stopwatch = Stopwatch::start(threads == 1);
    engine.embed(&input)?;
    Ok(Measured { rows, width, took: stopwatch.elapsed() })
}
