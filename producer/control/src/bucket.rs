//! A key-value bucket of JSON documents, read and written on its stream's leader.
//!
//! By JetStream's own calls: two that change an entry at the same time must see what the other has written, which a read from
//! any replica does not promise.

use std::time::Duration;

use async_nats::{Client, HeaderMap, RequestErrorKind};
use data_encoding::BASE64;
use embed_schemas::streams;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

use embed_client::nats::{
    api::{ApiError, STREAM_NOT_FOUND, WRONG_LAST_SEQUENCE},
    refusal, request,
};

use crate::{Error, ready, times};

const TIMEOUT: Duration = Duration::from_secs(2);
/// How long the bucket may be without a leader, as after the death of the server that was it.
const NO_LEADER: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);
/// JetStream's code for "no message found".
const NO_MESSAGE: u64 = 10037;
/// The status of what is temporarily unavailable.
const UNAVAILABLE: u64 = 503;

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Its sequence; in a bucket, the revision.
    pub(crate) sequence: u64,
    /// Empty if it marks a deletion.
    pub(crate) payload: Vec<u8>,
    /// When it was stored, by the server's clock: Unix time in milliseconds. 0 if it does not say.
    pub(crate) at_ms: u64,
}

/// An entry as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The key's last revision.
    pub revision: u64,
    /// When that was written, by the server's clock: Unix time in milliseconds.
    pub at_ms: u64,
    /// `None` if it was removed.
    pub value: Option<T>,
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Client,
    name: &'static str,
}

impl Bucket {
    /// A bucket of this name.
    #[must_use]
    pub const fn new(client: Client, name: &'static str) -> Self {
        Self { client, name }
    }

    /// The keys that match a filter such as `model.>`, in no order.
    ///
    /// # Errors
    /// [`Error::NoBucket`], [`Error::Nats`], [`Error::Rejected`].
    pub async fn keys(&self, filter: &str) -> Result<Vec<String>, Error> {
        let filter = json!({"subjects_filter": self.subject(filter)});
        let stream = streams::bucket_stream(self.name);
        let info = call(&self.client, "STREAM.INFO", &stream, &filter).await;
        let info = info.map_err(|error| self.named(error))?.unwrap_or_default();
        let prefix = self.subject("");
        let subjects = info["state"]["subjects"].as_object();
        let keys = subjects.into_iter().flat_map(|subjects| subjects.keys());
        Ok(keys.filter_map(|subject| subject.strip_prefix(&prefix)).map(str::to_owned).collect())
    }

    /// An entry, if there is one, and the key's last revision; 0 if there never was one.
    ///
    /// # Errors
    /// As [`Bucket::keys`]; [`Error::BadAnswer`] for an entry that cannot be read.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<(u64, Option<T>), Error> {
        let found = self.find(key).await?;
        Ok(found.map_or((0, None), |found| (found.revision, found.value)))
    }

    /// The same, with the time at which it was written. `None` if there never was an entry.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn find<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Found<T>>, Error> {
        self.read(&json!({"last_by_subj": self.subject(key)})).await
    }

    /// The server's clock: Unix time in milliseconds. That of this machine if an old server does not say.
    ///
    /// # Errors
    /// As [`Bucket::keys`].
    pub async fn now_ms(&self) -> Result<u64, Error> {
        let info = call(&self.client, "STREAM.INFO", &streams::bucket_stream(self.name), &Value::Null).await;
        let info = info.map_err(|error| self.named(error))?.unwrap_or_default();
        let server = info["ts"].as_str().and_then(times::parse_ms);
        Ok(server.unwrap_or_else(times::now_ms))
    }

    /// The first revision of a key from this one on, `None` past the last.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub(crate) async fn next<T: DeserializeOwned>(
        &self,
        key: &str,
        from: u64,
    ) -> Result<Option<(u64, Option<T>)>, Error> {
        let found = self.read(&json!({"seq": from, "next_by_subj": self.subject(key)})).await?;
        Ok(found.map(|found| (found.revision, found.value)))
    }

    /// Writes an entry, if `after` is given only while it is still the key's last revision (0: there is none). Returns the new
    /// revision, `None` if somebody else was faster.
    ///
    /// # Errors
    /// If it cannot be written, also within the time that it may take to find another leader.
    pub async fn put(&self, key: &str, value: &impl Serialize, after: Option<u64>) -> Result<Option<u64>, Error> {
        let payload = serde_json::to_vec(value);
        let payload = payload.map_err(|error| Error::nats(format!("cannot write {key} to {}", self.name), error))?;
        self.write(key, HeaderMap::new(), payload, after).await
    }

    /// Removes an entry, if `after` is still the key's last revision. `false` if somebody else was faster.
    ///
    /// # Errors
    /// As [`Bucket::put`].
    pub async fn delete(&self, key: &str, after: u64) -> Result<bool, Error> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        Ok(self.write(key, headers, Vec::new(), Some(after)).await?.is_some())
    }

    async fn write(
        &self,
        key: &str,
        mut headers: HeaderMap,
        payload: Vec<u8>,
        after: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let what = || format!("cannot write {key} to {}", self.name);
        let failed = |reason: String| Error::nats(what(), reason);
        if let Some(after) = after {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, after.to_string());
        }
        let deadline = Instant::now() + NO_LEADER;
        // Whether one was sent of which nothing was heard.
        let mut unheard = false;
        loop {
            let subject = embed_connect::bucket_subject(&self.client, &self.subject(key));
            let sent = request(&self.client, subject, headers.clone(), payload.clone().into(), TIMEOUT).await;
            let reason = match sent {
                Ok(answer) => {
                    let answer: Value =
                        serde_json::from_slice(&answer.payload).map_err(|error| failed(error.to_string()))?;
                    let Some(error) = answer.get("error") else { return Ok(answer["seq"].as_u64()) };
                    if error["err_code"].as_u64().is_some_and(|code| WRONG_LAST_SEQUENCE.contains(&code)) {
                        return if unheard { self.is_ours(key, &payload).await } else { Ok(None) };
                    }
                    if error["code"].as_u64() != Some(UNAVAILABLE) {
                        return Err(failed(error["description"].to_string()));
                    }
                    error["description"].to_string()
                }
                Err(error) if refusal(&error).is_some() => return Err(Error::rejected(what(), error)),
                Err(error) => {
                    unheard |= error.kind() == RequestErrorKind::TimedOut;
                    error.to_string()
                }
            };
            // Without `after`, a second one would go over what somebody else has written meanwhile.
            if Instant::now() >= deadline || (after.is_none() && unheard) {
                let later = if unheard { "; it may be written all the same, once the bucket has a leader" } else { "" };
                return Err(failed(format!("{reason}{later}")));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The last revision of a key, if it holds just this: it was ours, and only the answer was lost.
    async fn is_ours(&self, key: &str, payload: &[u8]) -> Result<Option<u64>, Error> {
        let query = json!({"last_by_subj": self.subject(key)});
        let found = message(&self.client, &streams::bucket_stream(self.name), &query).await;
        let found = found.map_err(|error| self.named(error))?;
        Ok(found.filter(|found| found.payload == payload).map(|found| found.sequence))
    }

    /// Removes all entries that match a filter, with their history.
    ///
    /// # Errors
    /// As [`Bucket::keys`].
    pub(crate) async fn purge(&self, filter: &str) -> Result<(), Error> {
        let filter = json!({"filter": self.subject(filter)});
        let stream = streams::bucket_stream(self.name);
        call(&self.client, "STREAM.PURGE", &stream, &filter).await.map(drop).map_err(|error| self.named(error))
    }

    async fn read<T: DeserializeOwned>(&self, query: &Value) -> Result<Option<Found<T>>, Error> {
        let found = message(&self.client, &streams::bucket_stream(self.name), query).await;
        let found = found.map_err(|error| self.named(error))?;
        let Some(Stored { sequence, payload, at_ms }) = found else { return Ok(None) };
        if payload.is_empty() {
            return Ok(Some(Found { revision: sequence, at_ms, value: None }));
        }
        let value = serde_json::from_slice(&payload)
            .map_err(|error| Error::bad_answer(format!("{}, revision {sequence}", self.name), error))?;
        Ok(Some(Found { revision: sequence, at_ms, value: Some(value) }))
    }

    fn named(&self, error: Error) -> Error {
        match error {
            Error::NoBucket { .. } => Error::NoBucket { bucket: self.name.to_owned() },
            other => other,
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }
}

/// One message of a stream, read from its leader. `None` if there is no such message.
///
/// # Errors
/// [`Error::NoBucket`] naming the stream if it does not exist, [`Error::Nats`] if it has no leader for too long.
pub(crate) async fn message(client: &Client, stream: &str, query: &Value) -> Result<Option<Stored>, Error> {
    let Some(answer) = call(client, "STREAM.MSG.GET", stream, query).await? else { return Ok(None) };
    let message = &answer["message"];
    let sequence = message["seq"].as_u64().unwrap_or_default();
    let payload = BASE64.decode(message["data"].as_str().unwrap_or_default().as_bytes());
    let broken = |error: data_encoding::DecodeError| Error::bad_answer(stream, error);
    let at_ms = message["time"].as_str().and_then(times::parse_ms).unwrap_or_default();
    Ok(Some(Stored { sequence, payload: payload.map_err(broken)?, at_ms }))
}

/// Calls JetStream about a stream. `None` if there is no such message.
///
/// # Errors
/// As [`message`].
pub(crate) async fn call(client: &Client, what: &str, stream: &str, body: &Value) -> Result<Option<Value>, Error> {
    match ready::call(client, &format!("{what}.{stream}"), body, TIMEOUT, NO_LEADER).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is(NO_MESSAGE) => Ok(None),
        Err(error) if error.is(STREAM_NOT_FOUND) => Err(Error::NoBucket { bucket: stream.to_owned() }),
        Err(error @ ApiError::NotReady(_)) => Err(Error::nats(format!("cannot read {stream}"), error)),
        Err(error) => Err(Error::rejected(format!("cannot read {stream}"), error)),
    }
}
