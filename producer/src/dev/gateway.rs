//! The gateway of the local stack: this program once more, as `embed gateway`.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::child::Process;
use crate::Error;

/// For answering what has begun.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The line that a gateway prints when it is ready.
#[derive(Deserialize)]
struct Ready {
    url: String,
}

/// A running gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) process: Process,
    pub(super) url: String,
}

/// Starts a gateway and waits until it listens. Its log goes to our standard error.
pub(super) async fn start(server: &str, registry: &str, files: &Path, listen: SocketAddr) -> Result<Gateway, Error> {
    let program = std::env::current_exe().map_err(|error| Error::Dev(format!("this program is not found: {error}")))?;
    let mut command = Command::new(program);
    command.args(["gateway", "--json", "--server", server, "--registry", registry, "--listen", &listen.to_string()]);
    command.arg("--files").arg(files);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // As the worker: this server, as nobody in particular.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"NATS_")) {
        command.env_remove(variable);
    }
    let mut process = Process::start("embed gateway", command)?;
    let stdout = process.child().stdout.take().expect("standard output is a pipe");
    match BufReader::new(stdout).lines().next_line().await {
        Ok(Some(line)) => match serde_json::from_str(&line) {
            Ok(Ready { url }) => Ok(Gateway { process, url }),
            Err(error) => {
                Err(Error::Dev(format!("embed gateway printed something else than its ready line ({error}): {line}")))
            }
        },
        _ => {
            let how = process.ended().await;
            Err(Error::Dev(format!("{how} before it was ready: choose another address with --gateway=HOST:PORT")))
        }
    }
}

impl Gateway {
    pub(super) async fn stop(mut self) {
        self.process.stop(STOP_PATIENCE).await;
    }

    /// Waits until one that may not be there ends.
    pub(super) async fn ended(gateway: Option<&mut Self>) -> String {
        match gateway {
            Some(gateway) => gateway.process.ended().await,
            None => std::future::pending().await,
        }
    }
}
