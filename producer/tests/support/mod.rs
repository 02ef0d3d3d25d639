//! A NATS server of its own for a test, and a worker that needs no model.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of it")]

pub mod command;
pub mod worker;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use embed_producer::{
    Client,
    dev::binaries::{NATS_SERVER, find},
    provision::{self, ModelVariants},
};
use embed_schemas::{Slug, connect::ConnectSettings, streams::StreamSettings};
use tempfile::TempDir;

/// Longest wait for anything: generous, since other tests may have the cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server on a free port, with JetStream in a temporary folder. Ends with the test.
pub struct Server {
    folder: TempDir,
    child: Child,
    pub port: u16,
    more: String,
}

impl Server {
    pub fn start() -> Self {
        Self::with("")
    }

    /// With more lines of configuration.
    pub fn with(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (child, port) = launch(folder.path(), -1, more);
        Self { folder, child, port, more: more.to_owned() }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn settings(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url()), ..ConnectSettings::default() }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.settings()).await.unwrap()
    }

    /// A connection, and the streams of model `m` with the default variant `fp32`.
    pub async fn provisioned(&self) -> Client {
        self.provisioned_with(&StreamSettings::default()).await
    }

    pub async fn provisioned_with(&self, settings: &StreamSettings) -> Client {
        let client = self.client().await;
        provision::apply(client.nats(), &[model_m()], settings).await.unwrap();
        client
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and store.
    pub fn restart(&mut self) {
        self.child = launch(self.folder.path(), i32::from(self.port), &self.more).0;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(folder: &Path, port: i32, more: &str) -> (Child, u16) {
    let ports = folder.join("ports");
    let _ = std::fs::remove_dir_all(&ports);
    std::fs::create_dir_all(&ports).unwrap();
    let config = folder.join("server.conf");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\nports_file_dir: {ports:?}\njetstream {{ store_dir: {:?} }}\n{more}\n",
        folder.join("store")
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(find(NATS_SERVER).unwrap())
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(port) = listening(&ports) {
            return (child, port);
        }
        assert_eq!(child.try_wait().unwrap(), None, "nats-server has ended");
        assert!(Instant::now() < deadline, "nats-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn listening(ports: &Path) -> Option<u16> {
    let file = std::fs::read_dir(ports).ok()?.flatten().next()?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
}

pub fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

pub fn model_m() -> ModelVariants {
    ModelVariants { model: slug("m"), variants: vec![slug("fp32")] }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Messages in a stream.
pub async fn stored(client: &Client, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(client.nats().clone());
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}
