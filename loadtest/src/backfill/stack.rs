//! The stack: nats-server, an S3 server, workers and `embed`, each a process of its own that can be killed.
//!
//! Processes die with the thread that started them, so everything here is called on the main thread.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use async_nats::jetstream;
use embed_connect::ConnectSettings;
use embed_schemas::{Precision, Slug, streams};
use embed_testkit::{Daemon, NatsServer, S3Server};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::kills::Party;

/// Before our own client connects again: what is measured is not to be its patience.
const RECONNECT: Duration = Duration::from_millis(50);

/// What to set up.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The registry: a folder, or an URL.
    pub registry: String,
    /// The model.
    pub model: Slug,
    /// The precision; the model's first if `None`.
    pub precision: Option<Precision>,
    /// Workers.
    pub workers: usize,
    /// After this, jobs that a worker held when it was killed are given to another.
    pub ack_wait: Duration,
    /// Where `embed` and `embed-worker` are.
    pub programs: PathBuf,
}

/// A running stack. Gone when dropped.
#[derive(Debug)]
pub(super) struct Stack {
    setting: Setting,
    nats: NatsServer,
    context: jetstream::Context,
    s3: S3Server,
    workers: Vec<Daemon>,
    folder: TempDir,
}

impl Stack {
    /// Starts servers and workers, and waits until they are ready.
    pub(super) async fn start(setting: Setting) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("worker.toml"), configuration(&setting))?;
        let nats = NatsServer::start();
        let settings = connection(&nats);
        let connecting = embed_connect::connect(&settings, "embed-loadtest backfill", |options| {
            options.reconnect_delay_callback(|_| RECONNECT)
        });
        let context = embed_connect::jetstream(&connecting.await?);
        let mut stack = Self { setting, nats, context, s3: S3Server::start(), workers: Vec::new(), folder };
        stack.provision()?;
        for _ in 0..stack.setting.workers {
            let worker = stack.launch_worker();
            worker.json_line();
            stack.workers.push(worker);
        }
        Ok(stack)
    }

    /// The S3 server.
    pub(super) const fn s3(&self) -> &S3Server {
        &self.s3
    }

    /// How to reach the server.
    pub(super) fn connection(&self) -> ConnectSettings {
        connection(&self.nats)
    }

    /// Where JetStream keeps what it stores.
    pub(super) fn store(&self) -> PathBuf {
        self.nats.store()
    }

    /// What runs, by name; processes of one party are numbered if there are several.
    pub(super) fn processes(&self) -> Vec<(String, u32)> {
        let several = self.workers.len() > 1;
        let name = |n: usize| if several { format!("worker {}", n + 1) } else { Party::Worker.name().to_owned() };
        let workers = self.workers.iter().enumerate().map(|(n, worker)| (name(n), worker.id()));
        let servers = [(Party::Server, self.nats.id()), (Party::Store, self.s3.id())];
        servers.into_iter().map(|(party, id)| (party.name().to_owned(), id)).chain(workers).collect()
    }

    /// Outcomes that were ever stored for the model. `None` if the server does not say.
    pub(super) async fn outcomes(&self) -> Option<u64> {
        let subject = format!("STREAM.INFO.{}", streams::results_stream(&self.setting.model));
        let info: Value = self.context.request(subject, &json!({})).await.ok()?;
        info["state"]["last_seq"].as_u64()
    }

    /// `embed` with these arguments, which knows where everything is.
    pub(super) fn embed(&self, arguments: &[String]) -> Command {
        let mut command = self.program("embed");
        command.args(arguments).args(["--server", &self.nats.url()]);
        command.envs(S3Server::settings(&self.s3.address()));
        command
    }

    /// SIGKILL. Nothing takes the place of what is killed until [`Stack::start_again`]. Not for the producer, which is not kept here.
    pub(super) fn kill(&mut self, party: Party, target: usize) {
        match party {
            Party::Producer => {}
            Party::Worker => self.workers.swap_remove(target % self.setting.workers).kill(),
            Party::Server => self.nats.kill(),
            Party::Store => self.s3.kill(),
        }
    }

    /// Starts what was killed again.
    pub(super) fn start_again(&mut self, party: Party) {
        match party {
            Party::Producer => {}
            Party::Worker => {
                let worker = self.launch_worker();
                self.workers.push(worker);
            }
            Party::Server => self.nats.restart(),
            Party::Store => self.s3.restart(),
        }
    }

    fn provision(&self) -> anyhow::Result<()> {
        let ack_wait = format!("{}ms", self.setting.ack_wait.as_millis());
        let mut command = self.program("embed");
        command.args(["init", "--json", "--ack-wait", &ack_wait, "--server", &self.nats.url(), "--config"]);
        command.arg(self.folder.path().join("worker.toml"));
        let output = command.output().context("embed init")?;
        ensure!(output.status.success(), "embed init: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    fn launch_worker(&self) -> Daemon {
        let mut command = self.program("embed-worker");
        command.args(["run", "--json", "--metrics-addr", "127.0.0.1:0", "--server", &self.nats.url(), "--config"]);
        command.arg(self.folder.path().join("worker.toml"));
        // Whether a busy machine refuses calls is another question.
        command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
        Daemon::spawn(&mut command)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.setting.programs.join(name));
        command.env("EMBED_REGISTRY", absolute(&self.setting.registry)).current_dir(self.folder.path());
        command
    }
}

fn connection(nats: &NatsServer) -> ConnectSettings {
    ConnectSettings { server: Some(nats.url()), ..ConnectSettings::default() }
}

/// Programs run in a folder of the stack's.
fn absolute(registry: &str) -> PathBuf {
    if registry.contains("://") {
        return registry.into();
    }
    std::path::absolute(registry).unwrap_or_else(|_| Path::new(registry).to_owned())
}

/// Only the one variant: others of the registry would take memory of what is measured.
fn configuration(setting: &Setting) -> String {
    let precision: Value = json!(setting.precision);
    let precision = if precision.is_null() { String::new() } else { format!("precision = {precision}\n") };
    format!("[[variant]]\nmodel = \"{}\"\n{precision}", setting.model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_serves_what_is_asked_for_and_nothing_else() {
        let setting = |precision| Setting {
            registry: "registry".into(),
            model: "m".parse().unwrap(),
            precision,
            workers: 1,
            ack_wait: Duration::ZERO,
            programs: PathBuf::new(),
        };
        assert_eq!(configuration(&setting(None)), "[[variant]]\nmodel = \"m\"\n");
        let int8 = configuration(&setting(Some(Precision::Int8)));
        assert_eq!(int8, "[[variant]]\nmodel = \"m\"\nprecision = \"int8\"\n");
        assert!(absolute("registry").is_absolute());
        assert_eq!(absolute("s3://a/b"), PathBuf::from("s3://a/b"));
    }
}
