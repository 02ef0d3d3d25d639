//! The connection, and the few requests that everything else here is made of.
//!
//! Requests get an inbox of their own: the client's shared one keeps an entry for every request that timed out.

pub(crate) mod api;
pub(crate) mod bucket;

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, connection::State};
use bytes::Bytes;
use embed_connect::ConnectSettings;
use tokio::time::Instant;

use crate::Error;

/// Connects once; later disconnections mend themselves.
///
/// `name` is the connection's name, as `nats server report connections` shows it.
///
/// # Errors
/// As [`embed_connect::connect`], as [`Error::Connect`].
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Client, Error> {
    Ok(embed_connect::connect(settings, name, |options| options).await?)
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
