//! Servers that run with what stands in `deploy/nats`, and programs that talk to them as one of its users.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use embed_connect::ConnectSettings;
use embed_control::permissions::{Role, accounts};
use embed_schemas::Slug;
use embed_testkit::{Daemon, nats_server_binary, repository, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// The tenants of `tenants.conf`.
pub(crate) const TENANTS: [&str; 2] = ["TENANT_A", "TENANT_B"];
const SINGLE: &str = "single.conf";
const CLUSTER: &str = "cluster.conf";

/// The password of a user.
pub(crate) fn password(user: &str) -> String {
    format!("pw-{user}")
}

/// Certificates for `localhost` and 127.0.0.1, for servers and clients, for a hundred years, and trusted by nobody else.
pub(crate) fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

/// A copy of `deploy/nats`, which its server's environment fits.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(repository().join("deploy/nats")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        Self(folder)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Roles for these models instead.
    pub(crate) fn for_models(self, models: &[&str]) -> Self {
        let models: Vec<Slug> = models.iter().map(|model| model.parse().unwrap()).collect();
        fs::write(self.file("roles.conf"), accounts(&models, &[])).unwrap();
        self
    }

    /// Includes another file than `roles.conf`.
    pub(crate) fn including(self, other: &str) -> Self {
        self.change(SINGLE, |text| {
            assert!(text.contains("include \"roles.conf\""));
            text.replace("include \"roles.conf\"", &format!("include {other:?}"))
        })
    }

    pub(crate) fn change(self, name: &str, change: impl FnOnce(String) -> String) -> Self {
        let text = fs::read_to_string(self.file(name)).unwrap();
        fs::write(self.file(name), change(text)).unwrap();
        self
    }

    /// `nats-server` with one of the files, and what that takes from the environment.
    pub(crate) fn command(&self, name: &str, node: &str) -> Command {
        let mut command = Command::new(nats_server_binary());
        command.arg("-c").arg(self.file(name)).env("NODE", node);
        command.env("STORE_DIR", self.file("store")).env("JWT_DIR", self.file("jwt"));
        for (variable, file) in [("TLS_CERT", "server.pem"), ("TLS_KEY", "server-key.pem"), ("TLS_CA", "ca.pem")] {
            command.env(variable, tls(file));
        }
        for user in Role::ALL.map(Role::as_str).into_iter().chain(TENANTS) {
            let variable = format!("{}_PASSWORD", user.to_uppercase().replace('-', "_"));
            command.env(variable, password(&user.to_lowercase()));
        }
        command
    }

    /// Starts a server alone.
    pub(crate) fn start(self) -> Configured {
        let command = self.command(SINGLE, "");
        Configured::start(self, command)
    }
}

/// A running server on free ports. Killed, with its store, when dropped.
pub(crate) struct Configured {
    pub(crate) url: String,
    pub(crate) folder: Folder,
    daemon: Daemon,
}

impl Configured {
    fn start(folder: Folder, mut command: Command) -> Self {
        command.args(["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"]).arg(folder.0.path());
        let mut daemon = Daemon::spawn(&mut command);
        let ports = folder.file(&format!("nats-server_{}.ports", daemon.id()));
        let url = wait_for("nats-server to listen", || {
            assert!(daemon.is_running(), "nats-server ended: {}", daemon.log());
            let ports: Value = serde_json::from_slice(&fs::read(&ports).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        });
        Self { url, folder, daemon }
    }

    /// Three servers that are one cluster.
    pub(crate) fn cluster() -> Vec<Self> {
        // The listeners are held until all ports are known, so that they differ.
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(listeners);
        let routes: Vec<_> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let start = |(n, route): (usize, &String)| {
            let folder = Folder::new();
            // No machine is called `nats-1` here.
            let mut command = folder.command(CLUSTER, &format!("nats-{}", n + 1));
            command.args(["--cluster", route, "--routes", &routes.join(",")]);
            Self::start(folder, command)
        };
        routes.iter().enumerate().map(start).collect()
    }

    /// How somebody connects who comes with a password.
    pub(crate) fn settings(&self, user: &str) -> ConnectSettings {
        ConnectSettings {
            user: Some(user.into()),
            password: Some(password(user)),
            inbox_prefix: Some(format!("_INBOX.{user}")),
            ..self.nobody()
        }
    }

    /// How somebody connects who does not say who it is.
    pub(crate) fn nobody(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url.clone()), tlsca: Some(tls("ca.pem")), ..ConnectSettings::default() }
    }

    /// The same as arguments of a program. The password goes by the environment, as it should.
    pub(crate) fn connected(&self, user: &str, command: &mut Command) {
        let inbox = format!("_INBOX.{user}");
        command.args(["--server", &self.url, "--user", user, "--inbox-prefix", &inbox, "--tlsca"]).arg(tls("ca.pem"));
        command.env("NATS_PASSWORD", password(user));
    }

    /// What the server has written to its log.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }

    /// What users were not permitted, as the server's log has it: `user: subject`.
    pub(crate) fn violations(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains("Violation") && line.contains("Subject "));
        let read = |line: &str| {
            let after = |mark: &str| line.split_once(mark)?.1.split('"').nth(1).map(str::to_owned);
            let user = line.split_once("/user:").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
            format!("{user}: {}", after("Subject ").unwrap_or_default())
        };
        let mut all: Vec<String> = lines.map(read).collect();
        all.sort();
        all.dedup();
        all
    }
}
