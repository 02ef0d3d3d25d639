//! The connection, and the few requests that everything here, and in what builds on it, is made of.
//!
//! Calls have one inbox together (`answers`); other requests get one of their own: the library's shared one keeps an entry for every request that
//! timed out.

pub(crate) mod answers;
pub mod api;
pub mod scan;
pub mod stored;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, connection::State};
use bytes::Bytes;
use embed_connect::{ConnectSettings, Refusal, Refusals};
use tokio::time::Instant;

use crate::Error;

/// A server that does not answer two of these in a row is given up for another. With the library's own, that would take minutes.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Connects once; later disconnections mend themselves.
///
/// `name` is the connection's name, as `nats server report connections` shows it.
///
/// # Errors
/// As [`embed_connect::connect`], as [`Error::Connect`].
pub async fn connect(settings: &ConnectSettings, name: &str) -> Result<Client, Error> {
    Ok(embed_connect::connect(settings, name, |options| options.ping_interval(PING_INTERVAL)).await?)
}

/// How much longer an answer is waited for after the server has refused what a route has made of some message on the same subject.
const MAPPED: Duration = Duration::from_secs(1);

/// An inbox that begins as all of its connection do: of a request of its own, or, with a token more for each call, of all calls. Workers serve callers in
/// turn, and tell them apart by what stands before the last token.
fn inbox(client: &Client) -> String {
    static PROCESS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    // All clones of a client share its statistics.
    let connection = PROCESS.hash_one(Arc::as_ptr(&client.statistics()));
    let inbox = client.new_inbox();
    match inbox.rsplit_once('.') {
        Some((prefix, request)) => format!("{prefix}.{connection:016x}.{request}"),
        None => inbox,
    }
}

/// A request with an inbox of its own. It takes no longer than `timeout`, whatever the connection does meanwhile.
///
/// # Errors
/// Those of the client's library; [`RequestErrorKind::TimedOut`] also where it would only wait for the connection. At once, if the server
/// says that it does not permit this: see [`refusal`].
pub async fn request(
    client: &Client,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    timeout: Duration,
) -> Result<Message, async_nats::RequestError> {
    let inbox = inbox(client);
    let refusals = Refusals::of(client);
    let mut request = Request::new().payload(payload).inbox(inbox.clone()).timeout(Some(timeout));
    if !headers.is_empty() {
        request = request.headers(headers);
    }
    let answer = client.send_request(subject.clone(), request);
    unless_refused(&refusals, &[subject.as_str(), inbox.as_str()], answer, timeout).await
}

/// An answer, unless the server says that something on one of these subjects is not permitted.
async fn unless_refused(
    refusals: &Refusals,
    subjects: &[&str],
    answer: impl Future<Output = Result<Message, async_nats::RequestError>>,
    timeout: Duration,
) -> Result<Message, async_nats::RequestError> {
    let answer = tokio::time::timeout(timeout, answer);
    let refused = |refusal| Err(async_nats::RequestError::with_source(RequestErrorKind::Other, refusal));
    tokio::pin!(answer);
    let refusal = tokio::select! {
        biased;
        answer = &mut answer => return answer.unwrap_or_else(|_| Err(RequestErrorKind::TimedOut.into())),
        refusal = refusals.concerning(subjects) => refusal,
    };
    if subjects.contains(&refusal.subject.as_str()) {
        return refused(refusal);
    }
    // A route sends some of what is published here to where it is not permitted. Whether this message was among it cannot be told, until
    // it is not answered.
    match tokio::time::timeout(MAPPED, answer).await {
        Ok(Ok(answer)) => answer,
        _ => refused(refusal),
    }
}

/// What the server does not permit, if that is why a request failed.
#[must_use]
pub fn refusal(error: &async_nats::RequestError) -> Option<&Refusal> {
    std::error::Error::source(error)?.downcast_ref()
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
