//! Embeds the lines of a text file, without a server. Prints for each line in turn `{"text":…,"embedding":[…]}`, or
//! `{"text":…,"error":…}`.
//!
//! ```sh
//! cargo run --release -p embed-engine --example embed_file -- FILE --registry build/registry
//! ```

use std::{
    env, fs,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use clap::Parser;
use embed_engine::{
    model::{Activities, Loader, OnnxRuntime, Source, resolve},
    pipeline::{Pipeline, PipelineContext, Request},
    runner::RunLimit,
    settings::{BatchConfig, EngineConfig, ModelSpec, TokenizeConfig},
};
use embed_schemas::Lane;
use serde_json::json;

/// Embeds the lines of a text file.
#[derive(Parser)]
struct Arguments {
    /// The file
    file: PathBuf,
    /// The model's name
    #[arg(default_value = "all-MiniLM-L6-v2")]
    model: String,
    /// The folder of the model registry
    #[arg(long, env = "EMBED_REGISTRY")]
    registry: String,
}

/// Lines that are embedded together, at most: the more there are, the closer are the lengths of those that share a run.
const CHUNK: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let lines = fs::read_to_string(&arguments.file).with_context(|| arguments.file.display().to_string())?;

    // Which version of the model, and on what: its current one, on the processor.
    let (config, cache) = (EngineConfig::default(), env::temp_dir().join("embed-cache"));
    let source = Source::open(&arguments.registry, cache.clone(), 10 << 30)?;
    let model = resolve(&source, &ModelSpec::current(arguments.model), &config).await?;

    // From its files to engines that are verified and warm.
    let backend = OnnxRuntime::new(config, TokenizeConfig::default().max_text_bytes, &cache);
    let loaded = Loader::new(source, Arc::new(backend), Activities::default()).load(&model, false).await?;

    // Threads that tokenize, batch and run.
    let (batch, limit) = (BatchConfig::default(), Arc::new(RunLimit::new(loaded.engines.len())));
    let pipeline = Pipeline::start(model.metadata, loaded, PipelineContext::new(&batch, limit))?;
    let dimension = pipeline.metadata().dimension as usize;

    let mut out = io::stdout().lock();
    for texts in lines.lines().collect::<Vec<_>>().chunks(CHUNK) {
        let request = Request { lane: Lane::Bulk, ..Request::new(texts.iter().copied()) };
        let embedded = pipeline.embed(request).await.context("an engine's thread has died")?;
        for (text, result) in texts.iter().zip(&embedded.texts) {
            let row = match result.vector(dimension) {
                Some(vector) => json!({ "text": text, "embedding": vector }),
                None => json!({ "text": text, "error": result.item.error }),
            };
            writeln!(out, "{row}")?;
        }
    }
    pipeline.stop();
    Ok(())
}
