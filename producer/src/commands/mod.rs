//! The commands: each reads its arguments, calls the library, and prints.

mod ask;
mod backfill;
mod dead;
mod dev;
mod doctor;
mod gateway;
mod hint;
mod init;
mod jobs;
mod metrics;
mod models;
mod permissions;
mod print;
mod publish;
mod rollout;
mod route;
mod spaces;
mod status;
mod table;
mod who;
mod worker_config;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::CommandFactory;
use embed_connect::ConnectSettings;
use embed_control::Error;
use embed_otlp::Recorder;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, backfill::BackfillCommand};

/// What a command came to, beyond errors.
pub(crate) enum Status {
    /// All is well.
    Done,
    /// It ran, and what it has to say is no success: a difference, for example.
    Unsuccessful,
    /// It did all that there was to do, and some of that failed, as it has said.
    Failures,
}

/// How long a command that is done waits for the collector of traces.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// The share of a backfill's jobs that is recorded, if the environment says nothing else.
const BACKFILL_SHARE: f64 = 0.01;
/// Exit status of what is done, with failures.
const FAILURES: u8 = 3;

/// Runs a command and turns its end into an exit status: 0 done, 1 failed, 3 done with failures. (Usage errors, 2, have ended us before.)
pub(crate) fn run(cli: Cli) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let json = cli.json;
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return print::failure(&error.into(), json),
    };
    // Commands run in the runtime's main task: `dev` depends on it.
    let result = runtime.block_on(dispatch(cli));
    // Reading standard input, for one, cannot be interrupted; it must not keep us.
    runtime.shutdown_background();
    match result {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::Unsuccessful) => ExitCode::FAILURE,
        Ok(Status::Failures) => ExitCode::from(FAILURES),
        Err(error) => print::failure(&error, json),
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<Status> {
    let Cli { json, connect, command } = cli;
    let recorder = recorder(&command)?;
    let result = run_command(command, &connect, json, &recorder).await;
    recorder.end(result.as_ref().err().map(|error| format!("{error:#}")), LAST_SPANS).await;
    result
}

/// Records the commands that send texts, if there is a collector of traces.
fn recorder(command: &Command) -> anyhow::Result<Recorder> {
    let (name, share) = match command {
        Command::Ask(_) => ("embed ask", 1.0),
        Command::Publish(_) => ("embed publish", 1.0),
        Command::Backfill(BackfillCommand::Run(_)) => ("embed backfill run", BACKFILL_SHARE),
        Command::Backfill(BackfillCommand::Resume(_)) => ("embed backfill resume", BACKFILL_SHARE),
        _ => return Ok(Recorder::default()),
    };
    let Some((recorder, exporting)) = Recorder::of_environment("embed", env!("CARGO_PKG_VERSION"), name, share)
        .context(embed_otlp::ENDPOINT_VARIABLE)?
    else {
        return Ok(Recorder::default());
    };
    tokio::spawn(exporting.run());
    Ok(recorder)
}

async fn run_command(
    command: Command,
    connect: &ConnectSettings,
    json: bool,
    recorder: &Recorder,
) -> anyhow::Result<Status> {
    match command {
        Command::Dev(args) => dev::run(args, json).await,
        Command::Init(args) => init::run(args, connect, json).await,
        Command::Status(args) => status::run(args, connect, json).await,
        Command::Doctor(args) => doctor::run(*args, connect, json).await,
        Command::Ask(args) => ask::run(args, connect, json, recorder).await,
        Command::Publish(args) => publish::run(args, connect, json, recorder).await,
        Command::Jobs(args) => jobs::run(args, connect, json).await,
        Command::Dead(command) => dead::run(command, connect, json).await,
        Command::Backfill(command) => backfill::run(command, connect, json, recorder).await,
        Command::Models(command) => models::run(command, connect, json).await,
        Command::Route(args) => route::run(*args, connect, json).await,
        Command::Gateway(args) => gateway::run(*args, connect, json).await,
        Command::Rollout(args) => rollout::run(*args, connect, json).await,
        Command::Shell(command) => {
            command.run(Cli::command())?;
            Ok(Status::Done)
        }
    }
}

/// The registry that was named, or the one of this checkout.
fn registry(named: Option<String>) -> Result<String, Error> {
    let nearby = || {
        let here = std::env::current_dir().ok()?;
        embed_producer::dev::nearby_registry(&here)
    };
    named.or_else(|| nearby().map(|path| path.to_string_lossy().into_owned())).ok_or_else(|| {
        Error::Registry(
            "no registry: there is no build/registry here or in a parent folder. Run `make setup`, import a model with \
             `embed-models import`, or name a registry with --registry"
                .to_owned(),
        )
    })
}

/// Ends when we are asked to: Ctrl-C, or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
