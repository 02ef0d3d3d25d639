//! The stack that faults are played on: servers, a relay to each of them in front of every worker, workers, a registry.
//!
//! Processes die with the thread that started them, so everything here is called on the main thread, and nothing waits longer
//! than it must: workers that end by themselves are started again whenever [`Stage::tend`] is called.

mod deaf;
mod disk;
mod perform;
mod poison;
mod registry;
mod streams;
mod workers;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream;
use embed_connect::ConnectSettings;
use embed_schemas::Slug;
use embed_testkit::Cluster;
use tempfile::TempDir;

use self::{deaf::DeafClient, disk::SlowDisk, poison::Poison, registry::Registry, streams::Fills, workers::Worker};
use super::{collector::Collector, kinds::Needs, traffic::Clients};

/// Longest wait for the stack to begin, for a stream to be read to its end, or for `embed init` to succeed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Lame ducks close their clients' connections within the shortest time that nats-server allows.
const SERVER: &str = "lame_duck_duration: 30s\nlame_duck_grace_period: 2s";
/// How often a client of ours asks whether its server is still there: faults must not be longer for us than for others.
const PING: Duration = Duration::from_secs(2);
/// Before a client of ours connects again: what is measured is not to be its patience.
const RECONNECT: Duration = Duration::from_millis(50);

/// What to set up.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The registry: a folder, or an URL.
    pub registry: String,
    /// The model.
    pub model: Slug,
    /// Servers, 1 or 3; streams have as many copies.
    pub servers: usize,
    /// Workers.
    pub workers: usize,
    /// The ack wait of the consumers.
    pub ack_wait: Duration,
    /// Where `embed` and `embed-worker` are.
    pub programs: PathBuf,
    /// Where logs of workers that have ended go, if anywhere.
    pub logs: Option<PathBuf>,
}

/// A running stack. Gone when dropped.
#[derive(Debug)]
pub struct Stage {
    setting: Setting,
    registry: Registry,
    cluster: Cluster,
    workers: Vec<Worker>,
    context: jetstream::Context,
    fills: Fills,
    disk: SlowDisk,
    deaf: Option<DeafClient>,
    poison: Poison,
    notes: Vec<Note>,
    start: Instant,
    folder: TempDir,
}

/// Something that happened that nobody had planned.
#[derive(Debug)]
struct Note {
    what: String,
    /// When it happened first, seconds from the start.
    at: f64,
    times: usize,
}

/// What acts need beside the stack.
#[derive(Debug)]
pub struct Beside<'a> {
    /// Who publishes what a fault consists of.
    pub clients: &'a Clients,
    /// What has been stored.
    pub collector: &'a Collector,
}

impl Stage {
    /// Starts servers, makes streams, and starts workers; does not wait for those.
    ///
    /// # Errors
    /// If something cannot be started.
    pub async fn build(setting: Setting, start: Instant) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let registry = Registry::new(&setting.registry, folder.path())?;
        let cluster = Cluster::start(setting.servers, SERVER);
        let poison = Poison::default();
        let workers = (0..setting.workers).map(|_| Worker::new(&cluster, &poison, &setting.model)).collect::<Vec<_>>();
        let context = embed_connect::jetstream(&connect(&cluster, "embed-loadtest chaos").await?);
        let mut stage = Self {
            setting,
            registry,
            cluster,
            workers,
            context,
            fills: Fills::default(),
            disk: SlowDisk::default(),
            deaf: None,
            poison,
            notes: Vec::new(),
            start,
            folder,
        };
        stage.provision().await?;
        (0..stage.workers.len()).for_each(|n| stage.start_worker(n, &[]));
        Ok(stage)
    }

    /// A connection to the servers, past all relays.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connect(&self, name: &str) -> anyhow::Result<async_nats::Client> {
        connect(&self.cluster, name).await
    }

    /// Host and port of the first server.
    #[must_use]
    pub fn address(&self) -> String {
        self.cluster.servers[0].address()
    }

    /// Why faults that need this cannot be had here; `None` if they can.
    #[must_use]
    pub fn lacks(needs: Needs, setting: &Setting) -> Option<&'static str> {
        match needs {
            Needs::Nothing => None,
            Needs::Cluster => (setting.servers < 3).then_some("it needs --servers 3"),
            Needs::Registry => Registry::stays(&setting.registry),
            Needs::Strace => embed_testkit::on_path("strace").is_none().then_some("strace is not installed"),
            Needs::Faketime => workers::faketime().is_none().then_some("faketime is not installed"),
        }
    }

    /// `embed init`, as a user runs it, until it succeeds.
    async fn provision(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let mut command = Command::new(self.setting.programs.join("embed"));
            let ack_wait = format!("{}ms", self.setting.ack_wait.as_millis());
            command.args(["init", "--json", "--registry", &self.setting.registry, "--ack-wait", &ack_wait]);
            command.args(["--replicas", &self.setting.servers.to_string(), "--server", &self.cluster.urls()]);
            let output = tokio::process::Command::from(command).output().await.context("embed init")?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            anyhow::ensure!(begun.elapsed() < PATIENCE, "embed init: {said}");
            self.pause().await;
        }
    }

    /// A little time, in which workers are looked after.
    pub async fn pause(&mut self) {
        self.tend();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// As [`Stage::pause`], for so long.
    pub async fn wait(&mut self, how_long: Duration) {
        let end = Instant::now() + how_long;
        while Instant::now() < end {
            self.pause().await;
        }
    }

    /// Writes down that this happened, or that it happened again.
    pub fn note(&mut self, what: &str) {
        match self.notes.iter_mut().find(|note| note.what == what) {
            Some(note) => note.times += 1,
            None => {
                let at = self.start.elapsed().as_secs_f64();
                self.notes.push(Note { what: what.to_owned(), at, times: 1 });
            }
        }
    }

    /// What happened that nobody had planned, in sentences.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let sentence = |note: &Note| match note.times {
            1 => format!("At {:.1} s: {}.", note.at, note.what),
            times => format!("{times} times, first at {:.1} s: {}.", note.at, note.what),
        };
        self.notes.iter().map(sentence).collect()
    }
}

async fn connect(cluster: &Cluster, name: &str) -> anyhow::Result<async_nats::Client> {
    let settings = ConnectSettings { server: Some(cluster.urls()), ..ConnectSettings::default() };
    Ok(embed_connect::connect(&settings, name, |options| {
        options.ping_interval(PING).reconnect_delay_callback(|_| RECONNECT)
    })
    .await?)
}
