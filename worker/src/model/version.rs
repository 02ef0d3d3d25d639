//! From the registry to engines that are ready: read, verify, load, warm up, reproduce the golden vectors.

use std::{path::Path, sync::Arc, time::Instant};

use super::{GoldenError, Registry, RegistryError, Selected, verify_golden};
use crate::{
    batch::Measured,
    engine::{Engine, EngineError, Input, OnnxModel, library},
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
}

/// Loads what was selected.
///
/// # Errors
/// At the first step that fails; nothing is served then.
pub async fn load(
    registry: &Registry,
    selected: &Selected,
    library: Option<&Path>,
    runners: usize,
    threads_per_runner: usize,
    max_text_bytes: usize,
) -> Result<LoadedVersion<OnnxModel>, LoadError> {
    let started = Instant::now();
    let metadata = &selected.metadata;
    let mut files = Vec::new();
    for file in [&selected.artefact.file, &metadata.tokenizer, &metadata.golden] {
        // What was verified is what is loaded: the file is not read a second time.
        files.push(registry.read_verified(&selected.model, &metadata.version, file).await?);
    }
    let [graph, tokenizer, golden] = &files[..] else { unreachable!("three files were read") };
    let environment = library::environment(library).map_err(EngineError::from)?;
    let tokenizer = Arc::new(TextTokenizer::new(tokenizer, metadata, max_text_bytes)?);
    let mut engine = OnnxModel::load(&environment, graph, metadata, threads_per_runner)?;
    // The largest run once, so that no request pays for the first allocations.
    time_run(&mut engine, 1, metadata.max_seq_length as usize)?;
    let mut measured = Vec::new();
    for (rows, width) in MEASURED_SHAPES.into_iter().filter(|(_, w)| *w <= metadata.max_seq_length as usize) {
        measured.push(time_run(&mut engine, rows, width)?);
    }
    verify_golden(golden, metadata, selected.artefact.precision, &tokenizer, &mut engine)?;
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

fn time_run(engine: &mut impl Engine, rows: usize, width: usize) -> Result<Measured, EngineError> {
    let mut input = Input::default();
    // Any id of the vocabulary does; 1 is in every one.
    let row = vec![1; width];
    input.fill(std::iter::repeat_n(row.as_slice(), rows));
    let started = Instant::now();
    engine.embed(&input)?;
    Ok(Measured { rows, width, took: started.elapsed() })
}
