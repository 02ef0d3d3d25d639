//! A server that runs with a configuration of `deploy/nats`, as it stands there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use embed_connect::ConnectSettings;
use embed_testkit::{Daemon, nats_server_binary, repository, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// The passwords of the test's accounts.
pub(crate) const PASSWORD: &str = "p-embed";
pub(crate) const SYSTEM_PASSWORD: &str = "p-sys";

/// A file of `deploy/nats`.
pub(crate) fn file(name: &str) -> PathBuf {
    repository().join("deploy/nats").join(name)
}

/// `nats-server` with a configuration, and what that takes from the environment.
pub(crate) fn command(config: &Path, store: &Path) -> Command {
    let mut command = Command::new(nats_server_binary());
    command.arg("-c").arg(config).env("STORE_DIR", store).env("NODE", "nats-1");
    command.env("EMBED_PASSWORD", PASSWORD).env("SYS_PASSWORD", SYSTEM_PASSWORD);
    command
}

/// A running server on free ports. Killed, with its store, when dropped.
pub(crate) struct Configured {
    pub(crate) url: String,
    _daemon: Daemon,
    _folder: TempDir,
}

impl Configured {
    pub(crate) fn start(config: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(config, folder.path());
        command.args(["-a", "127.0.0.1", "-p", "-1", "-m", "-1", "--ports_file_dir"]).arg(folder.path());
        let mut daemon = Daemon::spawn(&mut command);
        let ports = folder.path().join(format!("nats-server_{}.ports", daemon.id()));
        let url = wait_for("nats-server to listen", || {
            assert!(daemon.is_running(), "nats-server ended: {}", daemon.log());
            let ports: Value = serde_json::from_slice(&std::fs::read(&ports).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        });
        Self { url, _daemon: daemon, _folder: folder }
    }

    pub(crate) fn settings(&self) -> ConnectSettings {
        let (user, password) = (Some("embed".into()), Some(PASSWORD.into()));
        ConnectSettings { server: Some(self.url.clone()), user, password, ..ConnectSettings::default() }
    }
}
