//! The command line of `embed-loadtest`.

mod accept;
mod acceptance;
mod backfill;
mod chaos;
mod compare;
mod overload;
mod page;
mod peers;
mod run;
mod scale;
mod session;
mod soak;
mod swap;
mod target;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};
use embed_connect::ConnectSettings;
use embed_engine::engine::{attention, telemetry};

use crate::{
    bench::{self, BenchArgs},
    scale::{HOST_COMMAND, host},
};

/// The exit code of what is done, and something that is wanted was missed.
const MISSED: u8 = 3;

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
    /// Online calls in a pattern; exits with 3 if any was not answered
    Run(run::RunArgs),
    /// The user's criteria, judged on a system that is running; exits with 3 if one is missed, or could not be measured
    Acceptance(Box<acceptance::AcceptanceArgs>),
    /// The same texts through this project and through other servers and libraries, in turns
    Peers(Box<peers::PeersArgs>),
    /// What the batch engine promises, measured on a stack of its own; exits with 3 if a promise is not kept
    Accept(accept::AcceptArgs),
    /// A corpus of short rows from an S3 server to one, on a stack of its own: speed, memory, and whether every row is there once; exits with 3
    /// if a target is missed
    Backfill(Box<backfill::BackfillArgs>),
    /// Faults on real processes under load, or hostile input, on a stack of its own; exits with 3 if a job is lost, doubled, wrong, or dead
    /// without cause
    Chaos(Box<chaos::ChaosArgs>),
    /// How fast the engine is alone, without NATS; its configuration is a worker's, from the environment
    Bench(Box<BenchArgs>),
    /// Two reports side by side
    Compare(compare::CompareArgs),
    /// The page of a report, made anew
    Page(page::PageArgs),
    /// How the queue scales: many workers on simulated devices, on one server and on a cluster; exits with 3 if a text's cost is not flat
    Scale(Box<scale::ScaleArgs>),
    /// Workers on simulated devices, for `scale`: ordered on standard input
    #[command(name = HOST_COMMAND, hide = true)]
    SimulatedWorkers,
    /// Bulk jobs and online calls for long, and whether memory grows; exits with 3 if it does
    Soak(soak::SoakArgs),
    /// More online calls than can be answered; exits with 3 if goodput falls or refusals are slow
    Overload(overload::OverloadArgs),
    /// What swaps of a model's version cost the callers; exits with 3 if any call fails, or if they notice too much
    Swap(swap::SwapArgs),
    #[command(flatten)]
    Shell(embed_shell::ShellCommand),
}

impl Cli {
    /// Runs the command. 0: done; 1: failed, with the reason on standard error; 3: done, and something that is wanted was missed,
    /// which the report lists.
    pub fn run(self) -> ExitCode {
        let Self { json, nats, command } = self;
        // SAFETY: this is the main thread, and no other has been started yet.
        unsafe { telemetry::disable() };
        let passed = match command {
            Command::Run(args) => args.run(&nats, json),
            Command::Accept(args) => args.run(json),
            Command::Acceptance(args) => args.run(&nats, json),
            Command::Peers(args) => args.run(&nats, json),
            Command::Backfill(args) => args.run(json),
            Command::Chaos(args) => args.run(json),
            Command::Bench(args) => run_bench(&args, json),
            Command::Compare(args) => args.run(json),
            Command::Page(args) => args.run(json),
            Command::Scale(args) => args.run(json),
            Command::SimulatedWorkers => host().map(|()| true),
            Command::Soak(args) => args.run(&nats, json),
            Command::Overload(args) => args.run(&nats, json),
            Command::Swap(args) => args.run(&nats, json),
            Command::Shell(command) => command.run(Self::command()).map(|()| true).map_err(Into::into),
        };
        match passed {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(MISSED),
            Err(error) => {
                // There is nothing to do about a standard error that cannot be written to.
                let _ = writeln!(io::stderr(), "error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

fn run_bench(args: &BenchArgs, json: bool) -> anyhow::Result<bool> {
    let (config, provider) = bench::configure(args)?;
    if provider.on_device() {
        // SAFETY: this is the main thread, and no other has been started yet.
        unsafe { attention::choose(&config.engine.devices) };
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bench::run(args, config, provider, json))?;
    Ok(true)
}
