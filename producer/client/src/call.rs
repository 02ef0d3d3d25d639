//! Online calls: request-reply, split into several where one message cannot hold the texts or the vectors.

use std::{ops::Range, time::Duration};

use async_nats::{HeaderMap, RequestErrorKind};
use embed_schemas::{
    EmbedRequest, EmbedResult, ErrorCode, Format, Lane, Outcome, Slug, WireError, headers, streams, subjects, wire,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use serde_json::Value;
use tokio::{sync::OnceCell, time::Instant};

use super::{
    Backoff, Client, Error,
    combine::{check_space, combine},
    error::Answered,
    identity::is_of_another,
    ids::{new_id, part_id},
    nats::{self, api},
    split::{MessageBudget, check, split, without_texts},
};

/// Texts in one call. The dimension is not known here, so this bounds the answer too: 64 vectors of 4096 components are
/// 1 MiB, the default limit of a server.
pub(crate) const TEXTS_PER_CALL: usize = 64;
/// Calls in flight for one request.
const CALLS_IN_FLIGHT: usize = 8;
/// For the look which workers there are.
const LOOK_AT_WORKERS: Duration = Duration::from_millis(350);
/// For the look whether a model that nobody serves is one that is to be served.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How to call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// The only embedding space whose vectors are of use; any if `None`.
    pub space: Option<String>,
    /// For the whole request, retries included, whatever the connection does meanwhile. Workers are told how much of it is left.
    pub timeout: Duration,
    /// W3C trace context, handed on to the answer.
    pub traceparent: Option<String>,
    /// Sent along with each call.
    pub headers: HeaderMap,
    /// What is tried again.
    pub retry: Retry,
}

/// What is tried again, within the time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Retry {
    /// Nothing.
    Never,
    /// What a worker says can help, with the pause that it asks for.
    Refused,
    /// The same, and calls that nobody takes although the model is provisioned: its workers are being restarted.
    #[default]
    Unserved,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            variant: None,
            space: None,
            timeout: Duration::from_secs(10),
            traceparent: None,
            headers: HeaderMap::new(),
            retry: Retry::default(),
        }
    }
}

impl CallOptions {
    /// Asks this variant.
    #[must_use]
    pub fn variant(self, variant: impl Into<Option<Slug>>) -> Self {
        Self { variant: variant.into(), ..self }
    }

    /// Refuses vectors of any other space.
    #[must_use]
    pub fn space(self, space: impl Into<Option<String>>) -> Self {
        Self { space: space.into(), ..self }
    }

    /// Waits no longer than this.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sends a trace context along.
    #[must_use]
    pub fn traceparent(self, traceparent: impl Into<Option<String>>) -> Self {
        Self { traceparent: traceparent.into(), ..self }
    }

    /// Sends headers along.
    #[must_use]
    pub fn headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }

    /// What is tried again.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }
}

/// What is the same for all parts of a request.
struct Call<'a> {
    client: &'a Client,
    model: &'a Slug,
    options: &'a CallOptions,
    subject: String,
    deadline: Instant,
    /// Whether the model is to be served, as far as one look can tell.
    provisioned: OnceCell<bool>,
}

/// How an attempt failed.
enum Failed {
    /// Nobody takes calls for it.
    Unserved,
    Error(Error),
}

impl Client {
    /// Asks a worker for the vectors of any number of texts, and waits for them. Takes back-off advice from a worker that
    /// is overloaded or stopping, and tries again within the time-out, as far as [`CallOptions::retry`] says.
    ///
    /// A single text may still have failed: see [`embed_schemas::Item::error`].
    ///
    /// Dropped before it is done, the future sends nothing more. What it has sent is computed all the same, if it is not late, and nobody
    /// hears of it.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] if no worker serves the model, at once unless it is provisioned; [`Error::PayloadTooLarge`] for a text that
    /// no message can hold; [`Error::OtherSpace`] for vectors of another space than the one that was asked for; [`Error::Wire`] with
    /// what the worker says; [`Error::Timeout`]. If it took several calls, and those before the one that failed were answered, [`Error::Incomplete`] with them.
    pub async fn embed(
        &self,
        model: &Slug,
        request: EmbedRequest,
        options: &CallOptions,
    ) -> Result<EmbedResult, Error> {
        check(&request)?;
        let id = request.id.clone();
        let budget = MessageBudget::new(self.nats().max_payload(), TEXTS_PER_CALL, &request).beside(&options.headers);
        let parts = split(&request.texts, budget)?;
        let subject = match &options.variant {
            Some(variant) => subjects::pinned(Lane::Rpc, model, variant),
            None => subjects::bare(Lane::Rpc, model),
        };
        let deadline = Instant::now() + options.timeout;
        let call = Call { client: self, model, options, subject, deadline, provisioned: OnceCell::new() };
        let several = parts.len() > 1;
        let one = |(n, range): (usize, Range<usize>)| {
            let part = EmbedRequest { texts: request.texts[range.clone()].to_vec(), ..without_texts(&request) };
            let id = id.as_ref().filter(|_| several).and_then(|id| part_id(id, n).ok());
            // An answer is known by the id that was sent with the call.
            let id = id.or_else(|| part.id.clone()).unwrap_or_else(new_id);
            let answer = call.texts(EmbedRequest { id: Some(id), ..part });
            async move { (range, answer.await) }
        };
        let calls: Vec<_> = parts.into_iter().enumerate().map(one).collect();
        let mut calls = stream::iter(calls).buffered(CALLS_IN_FLIGHT);
        let mut answered = Vec::new();
        while let Some((texts, answer)) = calls.next().await {
            match answer {
                Ok(result) => answered.push(Answered { texts, result }),
                Err(error) if answered.is_empty() => return Err(error),
                Err(source) => {
                    let texts = request.texts.len();
                    return Err(Error::Incomplete { source: Box::new(source), answered, texts });
                }
            }
        }
        let mut result = combine(answered.into_iter().map(|part| part.result).collect())?;
        if let Some(id) = id {
            result.id = id;
        }
        Ok(result)
    }
}

/// Whether fewer texts in one call can help.
const fn is_too_much(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ResultTooLarge | ErrorCode::CallTooLarge)
}

impl Call<'_> {
    /// One part. Asks for its halves if it is more than a worker computes in one call, or the answer does not fit into a message.
    fn texts(&self, request: EmbedRequest) -> BoxFuture<'_, Result<EmbedResult, Error>> {
        async move {
            match self.retried(&request).await {
                Err(Error::Wire(error)) if is_too_much(error.code) && request.texts.len() > 1 => {
                    let mut first = request;
                    let second = first.texts.split_off(first.texts.len() / 2);
                    let second = EmbedRequest { texts: second, ..without_texts(&first) };
                    let (first, second) = tokio::try_join!(self.texts(first), self.texts(second))?;
                    combine(vec![first, second])
                }
                other => other,
            }
        }
        .boxed()
    }

    /// One message, sent again while that can help.
    async fn retried(&self, request: &EmbedRequest) -> Result<EmbedResult, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            // What is sent while the server is away would arrive when nobody waits for it any more.
            if !nats::connected(self.client.nats(), self.deadline).await {
                return Err(self.timed_out(": the connection to the server is gone"));
            }
            let begun = Instant::now();
            let (error, advice) = match self.once(request).await {
                Ok(result) => return Ok(result),
                Err(Failed::Unserved) if self.is_worth_waiting_for().await => (None, None),
                Err(Failed::Unserved) => return Err(self.unserved().await),
                Err(Failed::Error(Error::Wire(error))) if self.options.retry != Retry::Never && can_help(&error) => {
                    let advice = error.retry_after_ms.map(Duration::from_millis);
                    (Some(Error::Wire(error)), advice)
                }
                Err(Failed::Error(error)) => return Err(error),
            };
            let pause = backoff.pause(advice, rand::random());
            let next = Instant::now() + pause;
            match error {
                // What would be refused again takes as long as this did: if it were late, the advice would be lost.
                Some(error) if next + begun.elapsed() >= self.deadline => return Err(error),
                // It takes a moment to find out who is there.
                None if next + LOOK_AT_WORKERS >= self.deadline => return Err(self.unserved().await),
                _ => {}
            }
            tracing::debug!(subject = self.subject, ?pause, "the call is made again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether somebody is likely to take calls for the model soon: it has been provisioned.
    async fn is_worth_waiting_for(&self) -> bool {
        if self.options.retry != Retry::Unserved {
            return false;
        }
        let look = async {
            let stream = streams::jobs_stream(self.model);
            let left = self.deadline.saturating_duration_since(Instant::now()).min(LOOK_TIMEOUT);
            let subject = match &self.options.variant {
                None => format!("STREAM.INFO.{stream}"),
                Some(variant) => format!("CONSUMER.INFO.{stream}.{}", streams::consumer(variant, Lane::Job)),
            };
            // Where it cannot be told, waiting costs no more than the time-out.
            !matches!(
                api::call(self.client.nats(), &subject, &Value::Null, left).await,
                Err(error) if error.is(api::STREAM_NOT_FOUND) || error.is(api::CONSUMER_NOT_FOUND)
            )
        };
        *self.provisioned.get_or_init(|| look).await
    }

    /// Why nobody takes the call, as far as there is time to find out.
    async fn unserved(&self) -> Error {
        let look = self.client.unknown_model(self.model, self.options.variant.as_ref());
        match tokio::time::timeout_at(self.deadline, look).await {
            Ok(error) => error,
            Err(_) => self.timed_out(": no worker took it"),
        }
    }

    async fn once(&self, request: &EmbedRequest) -> Result<EmbedResult, Failed> {
        let client = self.client.nats();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let payload = Format::MessagePack.encode(&with_deadline(request, left));
        let mut header = self.options.headers.clone();
        header.insert(headers::CONTENT_TYPE, Format::MessagePack.content_type());
        if let Some(traceparent) = &self.options.traceparent {
            header.insert(headers::TRACEPARENT, traceparent.as_str());
        }
        let answers = &self.client.answers;
        let answer = match answers.request(client, &self.subject, header, payload, left).await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => Failed::Unserved,
                    RequestErrorKind::TimedOut => Failed::Error(
                        self.timed_out(": the workers are busy or the connection is gone; try a longer --timeout"),
                    ),
                    RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                        let (what, reason) = (format!("cannot call {}", self.subject), error.to_string());
                        Failed::Error(Error::Rejected { what, reason })
                    }
                    _ => Failed::Error(Error::request(format!("cannot call {}", self.subject), &error)),
                });
            }
        };
        self.read(request, &answer).map_err(Failed::Error)
    }

    fn read(&self, request: &EmbedRequest, answer: &async_nats::Message) -> Result<EmbedResult, Error> {
        let bad = |reason: String| Error::BadAnswer { from: self.subject.clone(), reason };
        let outcome = wire::decode_outcome(&answer.payload).map_err(|error| bad(error.to_string()))?;
        if let Some((other, id)) = request.id.as_ref().and_then(|id| Some((is_of_another(&outcome, id)?, id))) {
            return Err(bad(format!("it answers the call {other}, and not {id}")));
        }
        match outcome {
            Outcome::Failure(failure) => Err(failure.error.into()),
            Outcome::Result(result) if result.items.len() != request.texts.len() => {
                Err(bad(format!("{} rows for {} texts", result.items.len(), request.texts.len())))
            }
            Outcome::Result(result) => {
                check_space(self.options.space.as_deref(), &result)?;
                Ok(result)
            }
        }
    }

    fn timed_out(&self, hint: &str) -> Error {
        Error::Timeout {
            what: format!("no answer from {}", self.subject),
            after: self.options.timeout,
            hint: hint.to_owned(),
        }
    }
}

/// The same request, which nobody waits for any longer than `left`.
fn with_deadline(request: &EmbedRequest, left: Duration) -> EmbedRequest {
    let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    let deadline_ms = Some(request.deadline_ms.map_or(left, |own| own.min(left)));
    EmbedRequest { deadline_ms, ..request.clone() }
}

/// A deadline that has passed is the caller's own: nobody needs the answer any more.
fn can_help(error: &WireError) -> bool {
    error.retryable && error.code != ErrorCode::DeadlineExceeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_told_of_whichever_deadline_is_nearer() {
        let request = EmbedRequest::new(["a"]);
        let of = |own: Option<u64>, left: u64| {
            let request = EmbedRequest { deadline_ms: own, ..request.clone() };
            with_deadline(&request, Duration::from_millis(left)).deadline_ms
        };
        assert_eq!(
            [of(None, 70), of(Some(50), 70), of(Some(90), 70), of(None, 0)],
            [Some(70), Some(50), Some(70), Some(1)]
        );
    }
}
