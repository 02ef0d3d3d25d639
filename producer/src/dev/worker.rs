//! The worker of the local stack.

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::child::Process;
use crate::Error;

/// From start to readiness: models are loaded, verified and warmed up meanwhile.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// For finishing what it has taken.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// The line that a worker prints when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Ready {
    pub(super) metrics_url: String,
    pub(super) variants: Vec<Served>,
}

/// A variant that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The model's slug.
    pub model: String,
    /// The variant's name.
    pub variant: String,
    /// The version of the model.
    pub version: String,
}

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) process: Process,
    pub(super) ready: Ready,
}

/// Starts a worker and waits until it is ready. Its log goes to our standard error.
pub(super) async fn start(program: &Path, url: &str, registry: &str, more: &[String]) -> Result<Worker, Error> {
    let mut command = Command::new(program);
    command.args(["run", "--server", url, "--registry"]).arg(registry);
    command.args(["--metrics-addr", "127.0.0.1:0", "--json"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // The worker is to reach this server, as nobody in particular, whatever the environment says of another one.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NATS_")) {
        command.env_remove(variable);
    }
    let mut process = Process::start("embed-worker", command)?;
    let stdout = process.child().stdout.take().expect("standard output is a pipe");
    let mut lines = BufReader::new(stdout).lines();

    let first_line = tokio::time::timeout(START_TIMEOUT, lines.next_line()).await;
    let line = match first_line {
        Ok(Ok(Some(line))) => line,
        // The end of its output is the end of the program: say how it ended.
        Ok(Ok(None) | Err(_)) => return Err(Error::Dev(format!("{} before it was ready", process.ended().await))),
        Err(_) => {
            process.stop(STOP_PATIENCE).await;
            return Err(Error::Dev(format!("embed-worker was not ready within {} s", START_TIMEOUT.as_secs())));
        }
    };
    let ready = match serde_json::from_str(&line) {
        Ok(ready) => ready,
        Err(error) => {
            process.stop(STOP_PATIENCE).await;
            return Err(Error::Dev(format!(
                "embed-worker printed something else than its ready line ({error}): {line}"
            )));
        }
    };
    // Whatever else it prints must not fill the pipe and block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(Worker { process, ready })
}

impl Worker {
    pub(super) async fn stop(mut self) {
        self.process.stop(STOP_PATIENCE).await;
    }
}
