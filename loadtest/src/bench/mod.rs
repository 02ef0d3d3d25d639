//! `embed-loadtest bench`: how fast the engine is alone, without NATS and without tokenizing, and what becomes of that
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
mod mix_kind;
mod plan;
mod planner_cost;
mod progress;
mod report;
mod runners;
mod settings;
mod stats;
mod subject;
mod texts;
mod tokenizing;

use std::{
    fs,
    io::{self, Write},
    sync::Arc,
};

use anyhow::Context;
pub(crate) use args::BenchArgs;
use embed_engine::{
    engine::{EngineError, driver},
    model::{Activities, Loader, OnnxRuntime},
    settings::Provider,
    tokenize::TextTokenizer,
};
use embed_schemas::model::GraphForm;

use self::{
    machine::Machine,
    plan::Part,
    progress::Progress,
    report::{Parameters, Report, SCHEMA},
    runners::Runners,
    settings::Settings,
    subject::Subject,
};
/// Chooses tokens and texts: the same in every bench, so that benches can be compared.
const SEED: u64 = 1;

/// The configuration with what the arguments ask for, and what runs the graphs.
///
/// # Errors
/// If the environment does not make a configuration.
pub(crate) fn configure(args: &BenchArgs) -> anyhow::Result<(Settings, Provider)> {
    let mut config = Settings::load()?;
    let provider = args.apply(&mut config);
    Ok((config, provider))
}

/// Measures what the arguments ask for, as [`configure`] has put it, and prints it.
///
/// # Errors
/// If something that is asked for is not there, a run fails, or the report cannot be written.
pub(crate) async fn run(args: &BenchArgs, config: Settings, provider: Provider, json: bool) -> anyhow::Result<()> {
    let on_device = provider.on_device();
    if let Some(folder) = &args.out {
        // Before the measuring: a folder that cannot be made is better known now.
        fs::create_dir_all(folder).with_context(|| format!("--out {}", folder.display()))?;
    }
    let source = config.open_source()?;
    let parts = plan::parts(&source, args, &config.engine).await?;
    let backend = OnnxRuntime::new(config.engine.clone(), config.tokenize.max_text_bytes, &config.cache_dir());
    let loader = Loader::new(source, Arc::new(backend), Activities::default());
    let mut report = Report {
        schema: SCHEMA,
        program: env!("CARGO_PKG_VERSION"),
        parameters: parameters(args, &config, on_device),
        machine: Machine::look(config.engine.library.as_deref(), &devices(&config, on_device)),
        matrix: Vec::new(),
        mixes: Vec::new(),
        tokenizing: Vec::new(),
        planner: planner_cost::measure(&config.batch, SEED),
    };
    let workers = runners(&config, on_device);
    let sizes = parts.iter().map(|part| if args.tokenize { 0 } else { part.size(args, workers) });
    let mut progress = Progress::new(sizes.sum());
    for part in &parts {
        if args.tokenize {
            let link = part.selected.chain.first().context("no provider can run it")?;
            let files = loader.source().files(&part.selected, link).await?;
            let tokenizer = Arc::new(files.tokenizer(&part.selected.metadata, config.tokenize.max_text_bytes)?);
            measure_tokenizing(part, args, &tokenizer, &mut progress, &mut report)?;
        } else {
            measure(part, args, &config, &loader, &mut progress, &mut report).await?;
        }
    }
    progress.finish();
    write(args, &report, json)
}

/// The devices that are used, as far as they can be told.
fn devices(config: &Settings, on_device: bool) -> Vec<u32> {
    if on_device { driver::chosen(&config.engine.devices).unwrap_or_default() } else { Vec::new() }
}

/// Batches at the same time, on each device if there are any.
const fn runners(config: &Settings, on_device: bool) -> usize {
    if on_device { config.engine.device.runners } else { config.engine.runners }
}

fn parameters(args: &BenchArgs, config: &Settings, on_device: bool) -> Parameters {
    let runners = runners(config, on_device);
    Parameters {
        runners,
        devices: on_device.then(|| config.engine.devices.clone()),
        sessions: on_device.then(|| config.engine.device.sessions(runners)),
        threads_per_runner: config.engine.threads_per_runner,
        seconds_per_cell: args.seconds_per_cell.as_secs_f64(),
        batch: args.batch(on_device),
        length: args.length.clone(),
        mix_rounds: args.mix_rounds,
        max_tokens: config.batch.max_tokens,
        max_texts: config.batch.max_texts,
        window: config.limits.bulk_texts,
        seed: SEED,
    }
}

/// Measures one graph.
async fn measure(
    part: &Part,
    args: &BenchArgs,
    config: &Settings,
    loader: &Loader,
    progress: &mut Progress,
    report: &mut Report,
) -> anyhow::Result<()> {
    let subject = part.subject();
    let on_device = part.provider().on_device();
    progress.begin(&format!("{subject}: loading"));
    let loaded = loader.load(&part.selected, false).await?;
    let engines = Runners::start(loaded.engines);
    let ids = texts::ids(&loaded.tokenizer)?;
    let packed = loaded.report.packed.then(|| Subject { form: GraphForm::Packed, ..subject.clone() });
    for subject in [&subject].into_iter().chain(&packed) {
        for shape in &part.shapes {
            progress.begin(&format!("{subject}: {} x {} tokens", shape.0, shape.1));
            match matrix::measure(&engines, &ids, subject, *shape, args.seconds_per_cell, SEED) {
                Ok(cell) => report.matrix.push(cell),
                // Larger cells may come, and smaller ones: those that fit count.
                Err(EngineError::OutOfMemory(_)) => progress.note(&format!(
                    "{subject}: {} x {} tokens: more memory than the device has; left out",
                    shape.0, shape.1
                )),
                Err(error) => return Err(error.into()),
            }
            progress.done(plan::shape_size(*shape, args));
        }
    }
    for mix in &part.mixes {
        let Some(name) = mix.name() else { continue };
        progress.begin(&format!("{subject}: {name}"));
        let count = args.mix_texts(on_device);
        let texts = texts::tokenized(&texts::of(*mix, args, count, &loaded.tokenizer, SEED)?, &loaded.tokenizer)?;
        let on_done = |order| {
            progress.done(plan::order_size(*mix, order, args.mix_texts(on_device), runners(config, on_device)));
            progress.begin(&format!("{subject}: {name}"));
        };
        let planning = mix::Planning { config: &config.batch, costs: &loaded.costs, window: config.limits.bulk_texts };
        let rounds = (plan::warm_up(on_device), args.mix_rounds);
        report.mixes.push(mix::measure(&engines, &subject, name, &texts.into(), &planning, rounds, on_done)?);
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
        let texts = texts::of(*mix, args, args.mix_texts(part.provider().on_device()), tokenizer, SEED)?;
        report.tokenizing.push(tokenizing::measure(model, name, tokenizer, &texts, &args.tokenize_threads())?);
    }
    Ok(())
}

fn write(args: &BenchArgs, report: &Report, json: bool) -> anyhow::Result<()> {
    if let Some(folder) = &args.out {
        let json = serde_json::to_string_pretty(report)?;
        let files = [("bench.json", json), ("bench.html", html::page(report).render())];
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
    }
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
