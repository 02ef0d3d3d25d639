//! What is measured: servers with their streams, a registry, and workers on them.

use std::{fs, path::PathBuf};

use anyhow::Context;
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::provision::{self, ModelVariants};
use embed_schemas::{Slug, streams::StreamSettings};
use embed_testkit::{Cluster, NatsServer, TestRegistry, model_registry};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{fleet::Fleet, host::Order};
use crate::{
    memory::now_and_most,
    usage::{cpu_time, on_disk},
};

/// No bound of a stream is to be met here. A number of bytes would be set aside on the server's disk.
const NO_BOUND: i64 = -1;
/// That of a subject must be one.
const MOST_JOBS: i64 = 1 << 40;
/// What every variant is called: the model's precision.
const VARIANT: &str = "fp32";
/// In place of a graph: nobody runs it.
const NO_GRAPH: &[u8] = b"simulated";

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// Servers; three are a cluster, with three copies of each stream.
    pub servers: usize,
    /// Workers.
    pub workers: usize,
    /// Models, all of which every worker serves.
    pub models: usize,
    /// Devices of each worker.
    pub devices: usize,
    /// What a text takes on a device, microseconds.
    pub text_us: u64,
}

impl Setting {
    /// What all the engines embed at their best, texts a second. Models share the devices' time: each has its own part of it.
    #[must_use]
    pub fn sum(&self) -> f64 {
        (self.workers * self.devices) as f64 * 1e6 / self.text_us as f64
    }
}

/// Processor time so far, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Used {
    pub(super) server: f64,
    pub(super) workers: f64,
    pub(super) load: f64,
}

impl Used {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            server: self.server - before.server,
            workers: self.workers - before.workers,
            load: self.load - before.load,
        }
    }

    /// Of all.
    pub(super) fn total(self) -> f64 {
        self.server + self.workers + self.load
    }
}

/// Servers and workers. Gone when dropped.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) fleet: Fleet,
    servers: Cluster,
    registry: TestRegistry,
    models: Vec<Slug>,
    /// Where the servers say how they are.
    monitoring: Vec<String>,
    http: reqwest::Client,
}

impl Stack {
    /// Starts servers with the streams of so many models, and no worker yet.
    pub(super) async fn start(servers: usize, models: usize) -> anyhow::Result<Self> {
        let alone = if servers == 1 { "http: \"127.0.0.1:-1\"" } else { "" };
        let cluster = Cluster::start(servers, alone);
        let models: Vec<Slug> = (0..models).map(|n| format!("simulated-{n}").parse()).collect::<Result<_, _>>()?;
        let monitoring = cluster.servers.iter().map(monitoring).collect::<anyhow::Result<_>>()?;
        // The library has TLS in it, which nothing here uses.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().build()?;
        let (fleet, registry) = (Fleet::none(), registry(&models)?);
        let stack = Self { fleet, servers: cluster, registry, models, monitoring, http };
        let settings = StreamSettings {
            replicas: servers,
            jobs_max_bytes: NO_BOUND,
            jobs_max_per_subject: MOST_JOBS,
            results_max_bytes: NO_BOUND,
            ack_wait_ms: 30_000,
            ..StreamSettings::default()
        };
        let variants: Vec<Slug> = vec![VARIANT.parse()?];
        let all = stack.models.iter().map(|model| ModelVariants { model: model.clone(), variants: variants.clone() });
        let client = stack.client(0).await?;
        provision::apply(client.nats(), &all.collect::<Vec<_>>(), &settings).await?;
        Ok(stack)
    }

    /// Starts other workers in place of those that are there.
    pub(super) fn employ(&mut self, setting: &Setting) -> anyhow::Result<()> {
        self.fleet = Fleet::none();
        self.fleet = Fleet::start(&Order {
            servers: self.servers.servers.iter().map(NatsServer::url).collect(),
            registry: self.registry.path().display().to_string(),
            first: 0,
            workers: setting.workers,
            devices: setting.devices,
            // Models share the devices' time.
            text_us: setting.text_us * setting.models as u64,
        })?;
        Ok(())
    }

    pub(super) fn models(&self) -> &[Slug] {
        &self.models
    }

    /// A connection of the load's, to the servers in turn.
    pub(super) async fn client(&self, n: usize) -> anyhow::Result<Client> {
        let server = &self.servers.servers[n % self.servers.servers.len()];
        let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
        Ok(Client::new(embed_client::nats::connect(&settings, "embed-loadtest scale").await?))
    }

    /// What everybody has used so far. The load is this process.
    pub(super) fn used(&self) -> Used {
        let sum = |ids: &[u32]| ids.iter().filter_map(|id| cpu_time(*id)).map(|time| time.as_secs_f64()).sum();
        Used { server: sum(&self.server_ids()), workers: sum(&self.fleet.ids()), load: sum(&[std::process::id()]) }
    }

    /// Megabytes of memory, now: all servers, all workers, this process.
    pub(super) fn memory(&self) -> [f64; 3] {
        let sum = |ids: &[u32]| ids.iter().filter_map(|id| now_and_most(*id)).map(|(now, _)| now).sum();
        [sum(&self.server_ids()), sum(&self.fleet.ids()), sum(&[std::process::id()])]
    }

    /// Megabytes on the servers' disks.
    pub(super) fn disk(&self) -> f64 {
        self.stores().iter().map(|store| on_disk(store) as f64 / 1e6).sum()
    }

    /// Messages that the servers have had from clients and from each other so far.
    pub(super) async fn messages(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for address in &self.monitoring {
            let status: Value =
                serde_json::from_slice(&self.http.get(format!("{address}/varz")).send().await?.bytes().await?)?;
            sum += status["in_msgs"].as_f64().context("in_msgs of /varz")?;
        }
        Ok(sum)
    }

    fn server_ids(&self) -> Vec<u32> {
        self.servers.servers.iter().map(NatsServer::id).collect()
    }

    fn stores(&self) -> Vec<PathBuf> {
        self.servers.servers.iter().map(NatsServer::store).collect()
    }
}

/// Models of the real one's tokenizer, and of no graph. The real one is not among them.
fn registry(models: &[Slug]) -> anyhow::Result<TestRegistry> {
    let registry = TestRegistry::new();
    fs::remove_dir_all(registry.path().join("models"))?;
    for model in models {
        registry.derive_model(model.as_str(), model.as_str(), model_registry::FIRST, |folder, metadata| {
            model_registry::replace(folder, metadata, "fp32.onnx", NO_GRAPH);
        });
        registry.promote(model.as_str(), model_registry::FIRST);
    }
    Ok(registry)
}

/// Where a server says how it is: it has written that into a file beside its store.
fn monitoring(server: &NatsServer) -> anyhow::Result<String> {
    let store = server.store();
    let folder = store.parent().context("the store is in a folder")?;
    let ports: Value = serde_json::from_slice(&fs::read(folder.join(format!("nats-server_{}.ports", server.id())))?)?;
    Ok(ports["monitoring"][0].as_str().context("the server has monitoring")?.to_owned())
}
