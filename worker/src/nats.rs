//! The connection to NATS.

use std::{env, fs, io, path::PathBuf, time::Duration};

use async_nats::{Client, ConnectOptions, Event};
use embed_schemas::connect::{ConnectSettings, NatsContext};
use tokio::sync::watch;

/// How long a first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file that the settings name cannot be read.
    #[error("{what} {path}: {reason}")]
    File {
        /// What it is.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No server took the connection.
    #[error("NATS at {servers}: {reason}; start a server there (`embed dev` starts a whole stack), or pass --server")]
    Refused {
        /// The servers tried.
        servers: String,
        /// What the last one said.
        reason: String,
    },
}

/// A connection, and the number of times that it has been established: whoever waits for something that a lost connection
/// may have swallowed can watch it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Counts connections.
    pub connected: watch::Receiver<u64>,
}

/// Connects. Afterwards, a lost connection is made anew for ever.
///
/// # Errors
/// If a file cannot be read, or no server takes the connection.
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Connection, ConnectError> {
    let settings = with_context(settings.clone())?;
    let (count, connected) = watch::channel(0);
    let mut options =
        ConnectOptions::new().name(name).connection_timeout(CONNECT_TIMEOUT).max_reconnects(None).event_callback(
            move |event| {
                match event {
                    Event::Connected => count.send_modify(|n| *n += 1),
                    Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                        tracing::warn!(%event, "NATS");
                    }
                    _ => {}
                }
                let important = matches!(event, Event::Disconnected | Event::LameDuckMode | Event::Closed);
                async move {
                    if important {
                        tracing::warn!(%event, "NATS connection");
                    }
                }
            },
        );
    if let Some(path) = &settings.creds {
        let fail = |e: io::Error| ConnectError::File { what: "credentials", path: path.clone(), reason: e.to_string() };
        options = options.credentials_file(path).await.map_err(fail)?;
    }
    if let (Some(user), password) = (&settings.user, settings.password.clone().unwrap_or_default()) {
        options = options.user_and_password(user.clone(), password);
    }
    if let Some(authority) = settings.tlsca.clone() {
        options = options.add_root_certificates(authority).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (settings.tlscert.clone(), settings.tlskey.clone()) {
        options = options.add_client_certificate(certificate, key).require_tls(true);
    }
    let refused = |reason: String| ConnectError::Refused { servers: settings.describe(), reason };
    let client = options.connect(settings.servers()).await.map_err(|e| refused(e.to_string()))?;
    Ok(Connection { client, connected })
}

/// Fills in what a context of natscli says, and takes user names and passwords out of URLs: the library ignores them there.
fn with_context(mut settings: ConnectSettings) -> Result<ConnectSettings, ConnectError> {
    if let Some(file) = settings.context_file() {
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let folder = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home).unwrap_or_default();
        let path = folder.join(file);
        let fail = |reason: String| ConnectError::File { what: "NATS context", path: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
        let context: NatsContext = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        settings = settings.or_context(context);
    }
    Ok(settings.with_credentials_from_urls())
}
