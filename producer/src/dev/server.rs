//! The NATS server of the local stack.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use embed_connect::{ConnectSettings, Readers, replace_file};
use serde::Deserialize;
use tokio::{process::Command, time::Instant};

use super::{
    Served,
    child::Process,
    config::{self, MAPPINGS_FILE, SYSTEM_USER, ServerConfig},
};
use crate::Error;
use embed_client::{Client, nats, new_id};
use embed_control::route::{DEV_FILE, RouteSettings, Router};

/// From start to the first answer. It includes reading what the store holds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For closing connections and files.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) url: String,
    pub(super) monitor_url: String,
    /// What `embed route` has to know.
    pub(super) route_config: PathBuf,
    pub(super) client: async_nats::Client,
}

/// Starts a server on the loopback interface, with JetStream below `data_dir`, and waits until it answers.
/// Port 0 means any free port.
pub(super) async fn start(program: &Path, data_dir: &Path, port: u16, max_payload: u32) -> Result<Server, Error> {
    if port != 0
        && let Err(error) = TcpListener::bind(("127.0.0.1", port))
    {
        return Err(Error::Dev(format!("port {port} cannot be used: {error}; choose another with --port, 0 for any")));
    }
    let ports_dir = data_dir.join("ports");
    clear(&ports_dir)?;
    let config = data_dir.join("nats-server.conf");
    let mappings = data_dir.join(MAPPINGS_FILE);
    if !mappings.exists() {
        std::fs::write(&mappings, "").map_err(Error::file(&mappings))?;
    }
    let password = new_id();
    let system_password = password.as_str();
    let text = config::server(&ServerConfig { data_dir, ports_dir: &ports_dir, port, max_payload, system_password });
    replace_file(&config, &text, Readers::Owner).map_err(Error::file(&config))?;
    let log = data_dir.join("nats-server.log");
    let log_file = std::fs::File::create(&log).map_err(Error::file(&log))?;

    let mut command = Command::new(program);
    command.arg("--config").arg(&config).stdin(std::process::Stdio::null());
    command.stdout(log_file.try_clone().map_err(Error::file(&log))?).stderr(log_file);
    let mut process = Process::start("nats-server", command)?;

    let deadline = Instant::now() + START_TIMEOUT;
    let attempt = async {
        loop {
            if let Some((url, monitor_url)) = read_ports(&ports_dir) {
                let settings = ConnectSettings { server: Some(url.clone()), ..ConnectSettings::default() };
                match nats::connect(&settings, "embed dev").await {
                    Ok(client) => return Ok((url, monitor_url, client)),
                    Err(error) if Instant::now() >= deadline => return Err(Error::from(error)),
                    Err(_) => {}
                }
            } else if Instant::now() >= deadline {
                return Err(Error::Dev(format!("nats-server did not listen in time; see {}", log.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (url, monitor_url, client) = tokio::select! {
        result = attempt => result?,
        how = process.ended() => return Err(Error::Dev(format!("{how}: {}", last_error(&log)))),
    };
    let route_config = remember_routes(data_dir, &url, password.as_str())?;
    Ok(Server { process, url, monitor_url, route_config, client })
}

impl Server {
    pub(super) async fn stop(mut self) {
        self.process.stop(STOP_PATIENCE).await;
    }
}

/// Says what `embed route` has to know, for as long as this server runs.
fn remember_routes(data_dir: &Path, url: &str, password: &str) -> Result<PathBuf, Error> {
    let path = data_dir.join(DEV_FILE);
    let settings = RouteSettings {
        server: Some(url.to_owned()),
        sys_user: Some(SYSTEM_USER.to_owned()),
        sys_password: Some(password.to_owned()),
        mappings_files: vec![data_dir.join(MAPPINGS_FILE)],
        ..RouteSettings::default()
    };
    settings.write(&path).map_err(|error| Error::Dev(error.to_string()))?;
    Ok(path)
}

/// Routes outlive the stack that they were made for: says so if they lead to what nobody serves now.
pub(super) async fn warn_of_routes(server: &Server, served: &[Served]) {
    let look = async {
        let settings = RouteSettings::read(&server.route_config)?;
        let connect = ConnectSettings { server: Some(server.url.clone()), ..ConnectSettings::default() };
        Router::connect(&Client::new(server.client.clone()), &connect, &settings).await?.actual().await
    };
    let report = match look.await {
        Ok(report) => report,
        Err(error) => return tracing::warn!(%error, "the routes cannot be looked at"),
    };
    for (model, entry) in &report.routes {
        let variants: BTreeSet<_> = entry.record.lanes.values().flat_map(|weights| weights.variants()).collect();
        for variant in variants {
            if !served.iter().any(|s| s.model == model.as_str() && s.variant == variant.as_str()) {
                tracing::warn!(
                    "the route of {model} leads to variant {variant}, which is not served: start with --variant \
                     {model}={variant}, or run `embed route clear {model}`"
                );
            }
        }
    }
    for problem in report.unfinished().chain(report.trouble()) {
        tracing::warn!("{problem}: see `embed route show`");
    }
}

/// A file of an earlier run would name a port that is gone.
fn clear(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::file(folder)(error)),
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(Error::file(folder))
}

/// The server writes `<program>_<pid>.ports` once it listens. `None` while there is none, or only half of one.
fn read_ports(folder: &Path) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
        monitoring: Vec<String>,
    }
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let file: PathBuf = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "ports"))?;
    let ports: Ports = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some((ports.nats.into_iter().next()?, ports.monitoring.into_iter().next()?))
}

/// The last thing that the server complained of.
fn last_error(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let complaint = |line: &&str| line.contains("[FTL]") || line.contains("[ERR]") || line.contains("nats-server:");
    match text.lines().rfind(complaint).or_else(|| text.lines().last()) {
        Some(line) => line.to_owned(),
        None => format!("see {}", log.display()),
    }
}
