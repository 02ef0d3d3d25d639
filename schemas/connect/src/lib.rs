//! The NATS connection of every binary: settings as natscli has them, context files, errors that say what to do.

mod auth;
mod context;
mod files;
mod jetstream;
mod known;
mod secret;
mod settings;

use std::{io, path::PathBuf, time::Duration};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
pub use files::{Readers, replace_file};
#[cfg(feature = "jetstream")]
pub use jetstream::jetstream;
pub use jetstream::{api as api_prefix, api_subject, bucket_subject, check as check_prefix};
use known::Known;
pub use known::{Refusal, Refusals};
pub use settings::{ConnectSettings, DEFAULT_SERVER};

/// Longest time that [`connect`] takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server answers.
    #[error(
        "no NATS server answers at {servers}: start one, for example with `embed dev`, or pass --server ({reason})"
    )]
    NoServer {
        /// The servers that were tried, without credentials.
        servers: String,
        /// What the last attempt ended with.
        reason: String,
    },
    /// A server answers, and does not let us in.
    #[error("the NATS server at {servers} refuses the connection: {reason}")]
    Refused {
        /// The servers that were tried, without credentials.
        servers: String,
        /// What the server says.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Settings(String),
    /// A file that a setting names cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Connects once; later disconnections mend themselves, for ever.
///
/// `name` is the connection's name, as `nats server report connections` shows it. `adjust` may set further options, but for the event
/// callback, which [`Refusals`] rest on: see [`connect_hearing`].
///
/// # Errors
/// [`ConnectError::NoServer`] within about five seconds if nobody answers, [`ConnectError::Refused`] if the server does not
/// let us in, [`ConnectError::Settings`] and [`ConnectError::File`] if a setting or a file that it names cannot be used.
pub async fn connect(
    settings: &ConnectSettings,
    name: &str,
    adjust: impl FnOnce(ConnectOptions) -> ConnectOptions,
) -> Result<Client, ConnectError> {
    connect_hearing(settings, name, adjust, |_| {}).await
}

/// As [`connect`], for who wants to hear what happens to the connection as well.
///
/// # Errors
/// As [`connect`].
pub async fn connect_hearing(
    settings: &ConnectSettings,
    name: &str,
    adjust: impl FnOnce(ConnectOptions) -> ConnectOptions,
    hear: impl Fn(&Event) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let settings = settings.clone().resolved()?;
    let (servers, auth) = auth::servers(&settings)?;
    for file in [&settings.tlscert, &settings.tlskey, &settings.tlsca].into_iter().flatten() {
        std::fs::metadata(file).map_err(unreadable(file))?;
    }

    // One server that does not answer must leave time for the next.
    let per_server = CONNECT_TIMEOUT / u32::try_from(servers.len().clamp(1, 5)).unwrap_or(1);
    let mut options = ConnectOptions::new().name(name).connection_timeout(per_server).max_reconnects(None);
    options = auth.apply(options)?;
    if let Some(prefix) = &settings.inbox_prefix {
        let prefix = prefix.trim_end_matches('.');
        jetstream::check("--inbox-prefix", prefix)?;
        options = options.custom_inbox_prefix(prefix);
    }
    if settings.tlsfirst {
        options = options.tls_first().require_tls(true);
    }
    let known = Known::new(jetstream::api(&settings)?);
    let listener = known.clone();
    options = options.event_callback(move |event| {
        listener.hear(&event);
        hear(&event);
        std::future::ready(())
    });
    if let Some(ca) = &settings.tlsca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    match (&settings.tlscert, &settings.tlskey) {
        (Some(cert), Some(key)) => {
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        (None, None) => {}
        _ => return Err(ConnectError::Settings("--tlscert and --tlskey belong together: give both or neither".into())),
    }

    let no_server = |reason: String| ConnectError::NoServer { servers: settings.describe(), reason };
    match tokio::time::timeout(CONNECT_TIMEOUT, adjust(options).connect(servers)).await {
        Ok(Ok(client)) => {
            known::keep(&client, known);
            Ok(client)
        }
        Ok(Err(error)) => Err(match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication | ConnectErrorKind::Tls => {
                ConnectError::Refused { servers: settings.describe(), reason: error.to_string() }
            }
            ConnectErrorKind::ServerParse => ConnectError::Settings(format!("--server: {error}")),
            _ => no_server(error.to_string()),
        }),
        Err(_) => Err(no_server(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

fn unreadable(path: &std::path::Path) -> impl FnOnce(io::Error) -> ConnectError {
    let path = path.to_owned();
    |source| ConnectError::File { path, source }
}
