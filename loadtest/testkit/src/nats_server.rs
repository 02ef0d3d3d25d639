//! A nats-server of the test's own.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{daemon::die_with_parent, nats_server_binary, wait_for};

/// A running nats-server with JetStream. Killed, with its store, when dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    folder: TempDir,
    more: String,
    port: u16,
}

impl NatsServer {
    /// Starts a server on a free port.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server on a free port, with more lines of configuration, such as `max_payload: 20000`.
    pub fn start_with(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let child = spawn(&folder, more, None);
        let mut server = Self { child, folder, more: more.to_owned(), port: 0 };
        server.port = server.wait_until_listening();
        server
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL. The store stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be waited for");
    }

    /// Starts it again after [`NatsServer::kill`], on the same port and store.
    pub fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.more, Some(self.port));
        self.wait_until_listening();
    }

    /// The server writes the ports that it got into a file.
    fn wait_until_listening(&mut self) -> u16 {
        let file = self.folder.path().join(format!("nats-server_{}.ports", self.child.id()));
        wait_for("nats-server to listen", || {
            assert!(matches!(self.child.try_wait(), Ok(None)), "nats-server ended at once");
            let ports: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
        })
    }
}

fn spawn(folder: &TempDir, more: &str, port: Option<u16>) -> Child {
    let path = folder.path();
    let config = path.join("server.conf");
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let text = format!(
        "listen: 127.0.0.1:{port}\nports_file_dir: {:?}\njetstream {{ store_dir: {:?} }}\n{more}\n",
        path,
        path.join("store")
    );
    fs::write(&config, text).expect("a configuration file");
    let mut command = Command::new(nats_server_binary());
    command.arg("-c").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_parent(&mut command);
    command.spawn().expect("nats-server can be started")
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
