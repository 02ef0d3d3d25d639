//! A nats-server of the test's own.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    daemon::{die_with_parent, send_signal},
    http, nats_server_binary, wait_for,
};

/// A running nats-server with JetStream. Killed, with its store, when dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    folder: TempDir,
    more: String,
    port: u16,
    /// Where it says how it is, if it was told to.
    monitoring: Option<String>,
}

impl NatsServer {
    /// Starts a server on a free port.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server on a free port, with more lines of configuration, such as `max_payload: 20000`.
    pub fn start_with(more: &str) -> Self {
        let mut server = Self::launch(more);
        server.wait_until_listening();
        server
    }

    /// Starts a server, and does not wait for it.
    pub(crate) fn launch(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let child = spawn(&folder, more, None);
        Self { child, folder, more: more.to_owned(), port: 0, monitoring: None }
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Host and port for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is running, or stopped in its tracks.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it says that it is well: of a cluster, that it knows the leader. Only with `http` in its configuration.
    pub fn is_healthy(&self) -> bool {
        self.monitoring.as_deref().is_some_and(http::is_healthy)
    }

    /// What its monitoring says, such as at `/connz?subs=1`. Only with `http` in its configuration.
    pub fn monitor(&self, path: &str) -> Value {
        let address = self.monitoring.as_deref().expect("monitoring is configured");
        let answer = http::ask(address, &format!("GET {path}")).expect("the server answers");
        let body = answer.split_once("\r\n\r\n").expect("an answer has a body").1;
        serde_json::from_str(body).expect("it is JSON")
    }

    /// Where JetStream keeps what it stores.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// SIGKILL. The store stays.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be waited for");
    }

    /// Stops it in its tracks: its connections stay, and nobody answers on them.
    pub fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on after [`NatsServer::pause`].
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM: it stops in good order, soon.
    pub fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
    }

    /// It tells its clients to go elsewhere, closes their connections one by one, and ends: after `lame_duck_duration`.
    pub fn lame_duck(&mut self) {
        self.signal(libc::SIGUSR2);
    }

    /// Sends a signal, if it is still running.
    fn signal(&mut self, signal: i32) {
        if !self.is_running() {
            return;
        }
        send_signal(&self.child, signal);
    }

    /// Starts it again after it has ended, on the same port and store.
    pub fn restart(&mut self) {
        self.relaunch();
        self.wait_until_listening();
    }

    /// As [`NatsServer::restart`], and does not wait for it.
    pub fn relaunch(&mut self) {
        assert!(!self.is_running(), "a server that runs cannot be started");
        self.child = spawn(&self.folder, &self.more, Some(self.port));
    }

    /// The server writes the ports that it got into a file.
    pub fn wait_until_listening(&mut self) {
        let file = self.folder.path().join(format!("nats-server_{}.ports", self.child.id()));
        let ports = wait_for("nats-server to listen", || {
            assert!(matches!(self.child.try_wait(), Ok(None)), "nats-server ended at once");
            serde_json::from_slice::<Value>(&fs::read(&file).ok()?).ok()
        });
        let address = |what: &str| ports[what][0].as_str()?.rsplit_once("//").map(|(_, address)| address.to_owned());
        let port = address("nats").and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        self.port = port.expect("the server says where it listens");
        self.monitoring = address("monitoring");
    }
}

fn spawn(folder: &TempDir, more: &str, port: Option<u16>) -> Child {
    let path = folder.path();
    let config = path.join("server.conf");
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let text = format!(
        "listen: 127.0.0.1:{port}\nping_interval: \"2s\"\nping_max: 2\nports_file_dir: {:?}\njetstream {{ store_dir: {:?} }}\n{more}\n",
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
