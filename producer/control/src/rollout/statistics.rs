//! The windows that workers publish, read from the stream that keeps them, many at a time.

use std::time::Duration;

use async_nats::{Client, Message};
use embed_connect::Refusals;
use embed_schemas::{Slug, streams::STATS_STREAM, wire::DecodeError};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::server_time::parse_ms;
use crate::{Error, times::rfc3339};

/// Messages that one request asks for, and bytes.
const BATCH: u64 = 512;
const BATCH_BYTES: u64 = 4 << 20;
/// Longest wait for the next message of an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The statuses that end a batch: all is sent; there is nothing.
const END: u16 = 204;
const NOTHING: u16 = 404;

/// Reads what workers publish on some subjects, in the order in which it was published.
#[derive(Debug)]
pub(crate) struct Reader {
    client: Client,
    filter: String,
    from: From,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// With what was stored from this moment on, Unix time in milliseconds.
    Time(u64),
    /// With this message, or the first one after it.
    Sequence(u64),
}

impl Reader {
    /// The windows of all variants of a model, and nothing else. They are read with [`embed_schemas::wire::decode_stats`].
    pub(super) fn windows(client: Client, model: &Slug, from: From) -> Self {
        Self::new(client, format!("embed.stats.{model}.*"), from)
    }

    /// `filter`: subjects of [`STATS_STREAM`].
    pub(crate) const fn new(client: Client, filter: String, from: From) -> Self {
        Self { client, filter, from }
    }

    /// Whether everything up to this message of the stream has been read.
    pub(super) fn has_read(&self, last: u64) -> bool {
        matches!(self.from, From::Sequence(next) if next > last)
    }

    /// The next reports, as many as one request brings, each with the time when the server stored it (Unix time in milliseconds); those that
    /// cannot be read are left out. `None` if there are no more by now.
    ///
    /// # Errors
    /// If the stream does not answer, or there is none.
    pub(crate) async fn batch<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<(u64, T)>>, Error> {
        let mut query = json!({"next_by_subj": self.filter, "batch": BATCH, "max_bytes": BATCH_BYTES});
        match self.from {
            From::Sequence(sequence) => query["seq"] = sequence.into(),
            From::Time(ms) => query["start_time"] = rfc3339(ms).into(),
        }
        let (mut reports, mut next, mut unreadable) = (Vec::new(), self.from, None);
        for message in self.messages(&query).await? {
            let headers = message.headers.unwrap_or_default();
            let header = |name: &str| headers.get(name).map(|value| value.as_str());
            let sequence = header("Nats-Sequence").and_then(|text| text.parse::<u64>().ok());
            let (Some(sequence), Some(stored_ms)) = (sequence, header("Nats-Time-Stamp").and_then(parse_ms)) else {
                return Err(Error::bad_answer(STATS_STREAM, "a message without its sequence and time"));
            };
            next = From::Sequence(sequence + 1);
            match decode(&message.payload) {
                Ok(report) => reports.push((stored_ms, report)),
                // From another release, or from somebody who may publish what he likes: nothing to wait for.
                Err(error) => unreadable = Some((sequence, error)),
            }
        }
        if let Some((sequence, error)) = unreadable {
            // One line for all of them, however many there are.
            tracing::warn!(%error, sequence, "reports that cannot be read are left out; the last of them");
        }
        let read = next != self.from;
        self.from = next;
        Ok(read.then_some(reports))
    }

    async fn messages(&self, query: &Value) -> Result<Vec<Message>, Error> {
        let failed = |reason: String| Error::nats("cannot read statistics", reason);
        let inbox = self.client.new_inbox();
        let subject = embed_connect::api_subject(&self.client, &format!("DIRECT.GET.{STATS_STREAM}"));
        let refusals = Refusals::of(&self.client);
        let asked = subject.clone();
        let asked = [asked.as_str()];
        let answers = async {
            let answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
            let payload = query.to_string().into();
            let sent = self.client.publish_with_reply(subject, inbox, payload).await;
            sent.map_err(|error| failed(error.to_string()))?;
            Ok::<_, Error>(answers)
        };
        let late = |_| failed("the stream does not answer".to_owned());
        let mut answers = timeout(PATIENCE, answers).await.map_err(late)??;
        let mut messages = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                next = timeout(PATIENCE, answers.next()) => next,
                refusal = refusals.concerning(&asked) => {
                    return Err(Error::rejected("cannot read statistics", refusal));
                }
            };
            let Some(message) = next.map_err(late)? else {
                return Err(failed("the connection is closed".to_owned()));
            };
            match message.status.map(|status| status.as_u16()) {
                None => messages.push(message),
                Some(END | NOTHING) => return Ok(messages),
                Some(503) => {
                    return Err(failed(format!(
                        "nobody answers for stream {STATS_STREAM}: has `embed init` been run?"
                    )));
                }
                Some(status) => {
                    return Err(failed(format!("status {status}: {}", message.description.unwrap_or_default())));
                }
            }
        }
    }
}
