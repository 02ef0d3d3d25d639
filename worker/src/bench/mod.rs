//! `embed-worker bench`: how fast the engine is alone, without NATS and without tokenizing, and what becomes of that
//! when texts have different lengths. It is what end-to-end throughput is to be compared with. And how fast texts are
//! tokenized, so how many cores an engine needs beside it.

mod args;
mod batches;
mod feed;
mod html;
mod lengths;
mod machine;
mod matrix;
mod mix;
mod plan;
mod planner_cost;
mod progress;
mod report;
mod stats;
mod texts;
mod tokenizing;

use std::{
    fs,
    io::{self, Write},
    sync::Arc,
};

use anyhow::Context;
pub use args::BenchArgs;

use self::{
    feed::WINDOW,
    machine::Machine,
    plan::Part,
    progress::Progress,
    report::{Parameters, Report, SCHEMA},
};
use crate::{
    app,
    batch::CostTable,
    config::{Config, load},
    serving::{Loader, cores},
    tokenize::TextTokenizer,
};

/// Chooses tokens and texts: the same in every bench, so that benches can be compared.
const SEED: u64 = 1;

/// Measures what the arguments ask for, and prints it.
///
/// # Errors
/// If something that is asked for is not there, a run fails, or the report cannot be written.
pub async fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let mut config = load::load(None, &[])?.config;
    config.registry = args.registry.clone().or(config.registry);
    config.engine.runners = match args.runners.unwrap_or(config.engine.runners) {
        0 => cores(),
        runners => runners,
    };
    config.engine.threads_per_runner = args.threads_per_runner.unwrap_or(config.engine.threads_per_runner);
    if let Some(folder) = &args.out {
        // Before the measuring: a folder that cannot be made is better known now.
        fs::create_dir_all(folder).with_context(|| format!("--out {}", folder.display()))?;
    }
    let source = app::open_source(&config)?;
    let parts = plan::parts(&source, args).await?;
    let loader = Loader::new(source, &config);
    let mut report = Report {
        schema: SCHEMA,
        program: env!("CARGO_PKG_VERSION"),
        parameters: parameters(args, &config),
        machine: Machine::look(config.engine.library.as_deref()),
        matrix: Vec::new(),
        mixes: Vec::new(),
        tokenizing: Vec::new(),
        planner: planner_cost::measure(&config.batch, SEED),
    };
    let sizes = parts.iter().map(|part| if args.tokenize { 0 } else { part.size(args, config.engine.runners) });
    let mut progress = Progress::new(sizes.sum());
    for part in &parts {
        if args.tokenize {
            let files = loader.source().files(&part.selected).await?;
            let tokenizer = Arc::new(files.tokenizer(&part.selected.metadata, config.tokenize.max_text_bytes)?);
            measure_tokenizing(part, args, &tokenizer, &mut progress, &mut report)?;
        } else {
            measure(part, args, &config, &loader, &mut progress, &mut report).await?;
        }
    }
    progress.finish();
    write(args, &report)
}

fn parameters(args: &BenchArgs, config: &Config) -> Parameters {
    Parameters {
        runners: config.engine.runners,
        threads_per_runner: config.engine.threads_per_runner,
        seconds_per_cell: args.seconds_per_cell.as_secs_f64(),
        batch: args.batch.clone(),
        length: args.length.clone(),
        mix_rounds: args.mix_rounds,
        max_tokens: config.batch.max_tokens,
        max_texts: config.batch.max_texts,
        window: WINDOW,
        seed: SEED,
    }
}

/// Measures one graph.
async fn measure(
    part: &Part,
    args: &BenchArgs,
    config: &Config,
    loader: &Loader,
    progress: &mut Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let subject = part.subject();
    let engine = &config.engine;
    progress.begin(&format!("{subject}: loading"));
    let loaded = loader.load(&part.selected, engine.runners, false).await?;
    let mut engines = loaded.engines;
    let ids = texts::ids(&loaded.tokenizer)?;
    for shape in &part.shapes {
        progress.begin(&format!("{subject}: {} x {} tokens", shape.0, shape.1));
        report.matrix.push(matrix::measure(&mut engines, &ids, &subject, *shape, args.seconds_per_cell, SEED)?);
        progress.done(plan::shape_size(*shape, args));
    }
    let costs = CostTable::new(&loaded.measured);
    for mix in &part.mixes {
        let Some(name) = mix.name() else { continue };
        progress.begin(&format!("{subject}: {name}"));
        let texts = texts::tokenized(&texts::of(*mix, args, &loaded.tokenizer, SEED)?, &loaded.tokenizer)?;
        let on_done = |order| {
            progress.done(plan::order_size(*mix, order, args, engine.runners));
            progress.begin(&format!("{subject}: {name}"));
        };
        let planning = mix::Planning { config: &config.batch, costs: &costs };
        report.mixes.push(mix::measure(&mut engines, &subject, name, &texts, &planning, args.mix_rounds, on_done)?);
    }
    measure_tokenizing(part, args, &loaded.tokenizer, progress, report)
}

/// Measures a model's tokenizer, if that has not been done for another of its graphs.
fn measure_tokenizing(
    part: &Part,
    args: &BenchArgs,
    tokenizer: &Arc<TextTokenizer>,
    progress: &mut Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let model = &part.selected.model;
    if report.tokenizing.iter().any(|row| row.model == *model) {
        return Ok(());
    }
    for mix in &part.mixes {
        let Some(name) = mix.name() else { continue };
        progress.begin(&format!("{model}: tokenizing {name}"));
        let texts = texts::of(*mix, args, tokenizer, SEED)?;
        report.tokenizing.push(tokenizing::measure(model, name, tokenizer, &texts, &args.tokenize_threads())?);
    }
    Ok(())
}

fn write(args: &BenchArgs, report: &Report) -> anyhow::Result<()> {
    if let Some(folder) = &args.out {
        let json = serde_json::to_string_pretty(report)?;
        let files = [("bench.json", json), ("bench.html", html::page(report).render())];
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
    }
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
