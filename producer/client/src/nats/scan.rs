//! Messages of a stream, read in its order without a consumer: what a work queue holds can be looked at and is not taken.

use std::time::Duration;

use async_nats::{Client, header::NATS_SEQUENCE};
use futures::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::api::ApiError;
pub use super::stored::Stored;

/// Messages in one answer at most.
const MOST: usize = 256;
/// Bytes in one answer, about. What is more comes with the next.
const MOST_BYTES: usize = 8 << 20;

/// Where a scan has come to.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    stream: String,
    filter: String,
    next: Option<u64>,
}

impl Scan {
    /// Of the messages whose subject matches `filter`, from the first on.
    #[must_use]
    pub fn new(client: &Client, stream: impl Into<String>, filter: impl Into<String>) -> Self {
        Self::from(client, stream, filter, 1)
    }

    /// The same, from the message with this sequence on, or the first one after it.
    #[must_use]
    pub fn from(client: &Client, stream: impl Into<String>, filter: impl Into<String>, sequence: u64) -> Self {
        Self { client: client.clone(), stream: stream.into(), filter: filter.into(), next: Some(sequence) }
    }

    /// The next few messages. Empty after the last.
    ///
    /// # Errors
    /// [`ApiError::NotReady`] if the stream does not answer within `timeout`, or there is none; [`ApiError::Refused`] by servers before
    /// 2.11, which cannot answer with several messages.
    pub async fn page(&mut self, timeout: Duration) -> Result<Vec<Stored>, ApiError> {
        let deadline = Instant::now() + timeout;
        while let Some(from) = self.next {
            let (page, last) = self.get(from, deadline).await?;
            self.next = last.map(|last| last.max(from) + 1);
            // None of them may be readable.
            if !page.is_empty() {
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }

    /// A page, and the last sequence of it.
    async fn get(&self, from: u64, deadline: Instant) -> Result<(Vec<Stored>, Option<u64>), ApiError> {
        let failed = |error: &dyn std::fmt::Display| ApiError::NotReady(error.to_string());
        let inbox = self.client.new_inbox();
        let question = json!({"seq": from, "next_by_subj": self.filter, "batch": MOST, "max_bytes": MOST_BYTES});
        let subject = embed_connect::api_subject(&self.client, &format!("DIRECT.GET.{}", self.stream));
        let answer = async {
            let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
            let sent = self.client.publish_with_reply(subject, inbox, question.to_string().into());
            sent.await.map_err(|e| failed(&e))?;
            let (mut page, mut last) = (Vec::new(), None);
            loop {
                let Some(message) = answers.next().await else { return Err(failed(&"the connection is closed")) };
                // A message of the stream, whatever status its publisher has given it.
                if let Some(sequence) = sequence(&message) {
                    last = Some(sequence);
                    page.extend(Stored::of(message));
                    continue;
                }
                match message.status.map(|status| status.as_u16()) {
                    None => {}
                    // The end, or that there is nothing.
                    Some(204 | 404) => return Ok((page, last)),
                    Some(503) => return Err(failed(&"no responders")),
                    Some(code) => {
                        let description = message.description.unwrap_or_default();
                        let description = format!("{description}: reading several messages needs nats-server 2.11");
                        return Err(ApiError::Refused { code: code.into(), description });
                    }
                }
            }
        };
        let late = |_| failed(&"it does not answer in time");
        tokio::time::timeout_at(deadline, answer).await.map_err(late)?
    }
}

/// The sequence under which the server has it.
fn sequence(message: &async_nats::Message) -> Option<u64> {
    message.headers.as_ref()?.get_last(NATS_SEQUENCE)?.as_str().parse().ok()
}
