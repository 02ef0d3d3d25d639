//! One online call, and what is sent in it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, Request, RequestErrorKind};
use bytes::Bytes;
use embed_schemas::{ErrorCode, Format, WireError, wire::decode_outcome};

use crate::tally::Outcome;

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub subject: String,
    /// The payloads, in turn.
    pub payloads: Arc<[Bytes]>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Calls before this moment are made, but not counted.
    pub warm_up: Duration,
    /// An answer within this time is a good one.
    pub slo: Duration,
    /// Most calls under way; one that is due beyond it is counted as not sent.
    pub most_in_flight: usize,
}

impl Load {
    /// The payload of the n-th call.
    pub(crate) fn payload(&self, n: usize) -> Bytes {
        self.payloads[n % self.payloads.len()].clone()
    }
}

/// Makes a call. The latency counts from `intended`.
pub(crate) async fn call(
    client: &Client,
    subject: String,
    payload: Bytes,
    timeout: Duration,
    intended: Instant,
) -> (Duration, Outcome) {
    let answer = client.send_request(subject, Request::new().payload(payload).timeout(Some(timeout))).await;
    let latency = intended.elapsed();
    let outcome = match answer {
        Ok(message) => match decode_outcome(&message.payload).map(embed_schemas::Outcome::into_result) {
            Ok(Ok(result)) => match result.items.iter().find_map(|item| item.error.as_ref()) {
                None => Outcome::Answered {
                    tokens: result.items.iter().map(|item| item.tokens).collect(),
                    batch_size: result.timing.batch_size,
                },
                Some(error) => failed(error),
            },
            Ok(Err(error)) => failed(&error),
            Err(_) => Outcome::Failed("not_an_answer".to_owned()),
        },
        Err(error) => Outcome::Failed(
            match error.kind() {
                RequestErrorKind::TimedOut => "timeout",
                RequestErrorKind::NoResponders => "no_responders",
                RequestErrorKind::MaxPayloadExceeded => "payload_too_large",
                _ => "connection",
            }
            .to_owned(),
        ),
    };
    (latency, outcome)
}

fn failed(error: &WireError) -> Outcome {
    match error.code {
        ErrorCode::Overloaded => Outcome::Refused,
        code => Outcome::Failed(code.to_string()),
    }
}

/// The payloads of calls with `per_call` texts each, that are worth nothing after `deadline`.
#[must_use]
pub fn payloads(texts: &[String], per_call: usize, format: Format, deadline: Option<Duration>) -> Arc<[Bytes]> {
    let mut turning = texts.iter().cycle();
    let calls = texts.len().div_ceil(per_call);
    let deadline_ms = deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
    let request = |_| embed_schemas::EmbedRequest {
        deadline_ms,
        ..embed_schemas::EmbedRequest::new(turning.by_ref().take(per_call).map(String::as_str))
    };
    (0..calls).map(request).map(|request| format.encode(&request)).collect()
}
