//! The NATS server of the local stack.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use embed_connect::ConnectSettings;
use serde::Deserialize;
use tokio::{process::Command, time::Instant};

use super::child::Process;
use crate::{Error, nats};

/// From start to the first answer. It includes reading what the store holds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For closing connections and files.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) url: String,
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
    std::fs::write(&config, configuration(data_dir, &ports_dir, port, max_payload)).map_err(Error::file(&config))?;
    let log = data_dir.join("nats-server.log");
    let log_file = std::fs::File::create(&log).map_err(Error::file(&log))?;

    let mut command = Command::new(program);
    command.arg("--config").arg(&config).stdin(std::process::Stdio::null());
    command.stdout(log_file.try_clone().map_err(Error::file(&log))?).stderr(log_file);
    let mut process = Process::start("nats-server", command)?;

    let deadline = Instant::now() + START_TIMEOUT;
    let attempt = async {
        loop {
            if let Some(url) = read_port(&ports_dir) {
                let settings = ConnectSettings { server: Some(url.clone()), ..ConnectSettings::default() };
                match nats::connect(&settings, "embed dev").await {
                    Ok(client) => return Ok((url, client)),
                    Err(error) if Instant::now() >= deadline => return Err(error),
                    Err(_) => {}
                }
            } else if Instant::now() >= deadline {
                return Err(Error::Dev(format!("nats-server did not listen in time; see {}", log.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (url, client) = tokio::select! {
        result = attempt => result?,
        how = process.ended() => return Err(Error::Dev(format!("{how}: {}", last_error(&log)))),
    };
    Ok(Server { process, url, client })
}

impl Server {
    pub(super) async fn stop(mut self) {
        self.process.stop(STOP_PATIENCE).await;
    }
}

fn configuration(data_dir: &Path, ports_dir: &Path, port: u16, max_payload: u32) -> String {
    // The configuration's own escapes are JSON's, as far as paths need them.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    let port = if port == 0 { "-1".to_owned() } else { port.to_string() };
    format!(
        "# Written by `embed dev` at every start.\n\
         server_name: embed-dev\n\
         listen: \"127.0.0.1:{port}\"\n\
         max_payload: {max_payload}\n\
         ports_file_dir: {}\n\
         jetstream {{ store_dir: {} }}\n",
        quoted(ports_dir),
        quoted(&data_dir.join("nats")),
    )
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
fn read_port(folder: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let file: PathBuf = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "ports"))?;
    let ports: Ports = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    ports.nats.into_iter().next()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_quotes_paths() {
        let text = configuration(Path::new("/a b\"c"), Path::new("/p"), 0, 9);
        assert!(text.contains("listen: \"127.0.0.1:-1\""), "{text}");
        assert!(text.contains(r#"store_dir: "/a b\"c/nats""#), "{text}");
    }
}
