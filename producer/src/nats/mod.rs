//! Connecting to NATS as natscli does, and the few requests that everything else here is made of.
//!
//! Requests get an inbox of their own: the client's shared one keeps an entry for every request that timed out.

pub(crate) mod api;
mod settings;

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, HeaderMap, Message, Request, connection::State};
use bytes::Bytes;
use embed_schemas::connect::ConnectSettings;
use tokio::time::Instant;

use crate::Error;

/// Longest time that [`connect`] takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects once; later disconnections mend themselves.
///
/// `name` is the connection's name, as `nats server report connections` shows it.
///
/// # Errors
/// [`Error::NoServer`] within about five seconds if nobody answers, [`Error::Refused`] if the server does not let us in,
/// [`Error::Settings`] and [`Error::File`] if a setting or a file that it names cannot be used.
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Client, Error> {
    let settings = settings::with_context(settings.clone())?;
    let (servers, auth) = settings::servers(&settings)?;
    for file in [&settings.creds, &settings.tlscert, &settings.tlskey, &settings.tlsca].into_iter().flatten() {
        std::fs::metadata(file).map_err(Error::file(file))?;
    }

    // One server that does not answer must leave time for the next.
    let per_server = CONNECT_TIMEOUT / u32::try_from(servers.len().clamp(1, 5)).unwrap_or(1);
    let mut options = ConnectOptions::new().name(name).connection_timeout(per_server);
    options = match auth {
        settings::Auth::None => options,
        settings::Auth::Token(token) => options.token(token),
        settings::Auth::Password(user, password) => options.user_and_password(user, password),
        settings::Auth::Credentials(file) => options.credentials_file(&file).await.map_err(Error::file(file))?,
    };
    if let Some(ca) = &settings.tlsca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    match (&settings.tlscert, &settings.tlskey) {
        (Some(cert), Some(key)) => {
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        (None, None) => {}
        _ => return Err(Error::Settings("--tlscert and --tlskey belong together: give both or neither".into())),
    }

    let no_server = |reason: String| Error::NoServer { servers: settings.describe(), reason };
    match tokio::time::timeout(CONNECT_TIMEOUT, options.connect(servers)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication | ConnectErrorKind::Tls => {
                Error::Refused { servers: settings.describe(), reason: error.to_string() }
            }
            ConnectErrorKind::ServerParse => Error::Settings(format!("--server: {error}")),
            _ => no_server(error.to_string()),
        }),
        Err(_) => Err(no_server(format!("no answer in {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}

/// A request with an inbox of its own.
pub(crate) async fn request(
    client: &Client,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    timeout: Duration,
) -> Result<Message, async_nats::RequestError> {
    let mut request = Request::new().payload(payload).inbox(client.new_inbox()).timeout(Some(timeout));
    if !headers.is_empty() {
        request = request.headers(headers);
    }
    client.send_request(subject, request).await
}

/// Waits until the client is connected. `false` if the deadline comes first.
///
/// Without this, what is sent while the server is away piles up in the client and arrives all at once later.
pub(crate) async fn connected(client: &Client, deadline: Instant) -> bool {
    while client.connection_state() != State::Connected {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
