//! The command line of `embed-loadtest`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::ensure;
use clap::{Args, Parser, Subcommand};
use embed_connect::ConnectSettings;
use embed_schemas::{Format, Lane, MAX_TEXTS, Slug, subjects};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    open_loop::{self, Load},
    pacing::{Arrivals, Schedule},
    report::Report,
    texts,
};

/// Measures workers from outside.
#[derive(Debug, Parser)]
#[command(name = "embed-loadtest", version, about)]
pub struct Cli {
    /// Print the report as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    nats: ConnectSettings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Online calls at a given rate; exits with 1 if any was not answered
    Run(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The model's name or slug
    #[arg(long, short, env = "EMBED_MODEL", default_value = "all-minilm-l6-v2")]
    model: String,
    /// Pin the calls to a variant
    #[arg(long)]
    variant: Option<Slug>,
    /// Calls a second
    #[arg(long, short, default_value_t = 50.0)]
    rate: f64,
    /// Seconds to measure
    #[arg(long, short, default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that are not counted
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Texts in a call
    #[arg(long, default_value_t = 1)]
    texts_per_call: usize,
    /// JSONL with a field `text` [default: a sample of WordNet's sentences]
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// How calls are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Most calls under way at once
    #[arg(long, default_value_t = 10_000)]
    most_in_flight: usize,
    /// Chooses the schedule and the order of the texts
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Cli {
    /// Runs the command. 0: done; 1: failed, with the reason on standard error.
    pub fn run(self) -> ExitCode {
        let Command::Run(args) = self.command;
        match args.run(&self.nats, self.json) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                // There is nothing to do about a standard error that cannot be written to.
                let _ = writeln!(io::stderr(), "error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl RunArgs {
    fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        ensure!(self.rate > 0.0 && self.rate.is_finite(), "--rate: must be above 0");
        ensure!(self.duration > 0.0 && self.warm_up >= 0.0, "--duration and --warm-up: must not be negative");
        ensure!((1..=MAX_TEXTS).contains(&self.texts_per_call), "--texts-per-call: 1 to {MAX_TEXTS}");
        let model = Slug::from_name(&self.model)?;
        let subject = match &self.variant {
            Some(variant) => subjects::pinned(Lane::Rpc, &model, variant),
            None => subjects::bare(Lane::Rpc, &model),
        };
        let texts = texts::load(self.texts.as_deref(), self.seed)?;
        let load = Load {
            subject: subject.clone(),
            payloads: open_loop::payloads(&texts, self.texts_per_call, Format::MessagePack),
            timeout: Duration::try_from_secs_f64(self.timeout)?,
            warm_up: Duration::try_from_secs_f64(self.warm_up)?,
            most_in_flight: self.most_in_flight,
        };
        let whole = Duration::try_from_secs_f64(self.warm_up + self.duration)?;
        let schedule = Schedule::new(self.arrivals, self.rate, whole, self.seed);
        let bar = progress_bar((whole.as_secs_f64() * self.rate) as u64);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let tally = runtime.block_on(async {
            let client = embed_producer::nats::connect(nats, "embed-loadtest").await?;
            anyhow::Ok(open_loop::run(client, schedule, load, || bar.inc(1)).await?)
        })?;
        bar.finish_and_clear();
        let report = Report::new(subject, self.rate, self.texts_per_call, &tally);
        let mut out = io::stdout();
        if json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            write!(out, "{report}")?;
        }
        Ok(report.passed())
    }
}

fn progress_bar(calls: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} calls  {per_sec}").expect("the template is valid");
    ProgressBar::with_draw_target(Some(calls), target).with_style(style)
}
