//! The connection, and the few requests that everything here, and in what builds on it, is made of.
//!
//! Requests get an inbox of their own: the client's shared one keeps an entry for every request that timed out.

pub mod api;
pub mod scan;

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, connection::State};
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

/// A request with an inbox of its own. It takes no longer than `timeout`, whatever the connection does meanwhile.
///
/// # Errors
/// Those of the client's library; [`RequestErrorKind::TimedOut`] also where it would only wait for the connection.
pub async fn request(
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
    match tokio::time::timeout(timeout, client.send_request(subject, request)).await {
        Ok(answer) => answer,
        Err(_) => Err(RequestErrorKind::TimedOut.into()),
    }
}

/// Waits until the client is connected. `false` if the deadline comes first.
///
/// Without this, what is sent while the server is away piles up in the client and arrives all at once later.
pub async fn connected(client: &Client, deadline: Instant) -> bool {
    while client.connection_state() != State::Connected {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
