//! Online calls: request-reply, split into several where one message cannot hold the texts or the vectors.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use embed_schemas::{
    EmbedRequest, EmbedResult, ErrorCode, Format, Lane, Outcome, Slug, WireError, headers, subjects, wire,
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use tokio::time::Instant;

use super::{
    Backoff, Client,
    combine::{check_space, combine},
    ids::part_id,
    split::{MessageBudget, split, without_texts},
};
use crate::{Error, nats};

/// Texts in one call. The dimension is not known here, so this bounds the answer too: 64 vectors of 4096 components are
/// 1 MiB, the default limit of a server.
const TEXTS_PER_CALL: usize = 64;
/// Calls in flight for one request.
const CALLS_IN_FLIGHT: usize = 8;

/// How to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOptions {
    /// The variant; left to the route if `None`.
    pub variant: Option<Slug>,
    /// The only embedding space whose vectors are of use; any if `None`.
    pub space: Option<String>,
    /// For the whole request, retries included.
    pub timeout: Duration,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { variant: None, space: None, timeout: Duration::from_secs(10) }
    }
}

/// What is the same for all parts of a request.
struct Call<'a> {
    client: &'a Client,
    model: &'a Slug,
    options: &'a CallOptions,
    subject: String,
    deadline: Instant,
}

impl Client {
    /// Asks a worker for the vectors of any number of texts, and waits for them. Takes back-off advice from a worker that
    /// is overloaded or stopping, and tries again within the timeout.
    ///
    /// A single text may still have failed: see [`embed_schemas::Item::error`].
    ///
    /// # Errors
    /// [`Error::UnknownModel`] at once if no worker serves the model; [`Error::PayloadTooLarge`] for a text that no message
    /// can hold; [`Error::OtherSpace`] for vectors of another space than the one that was asked for; [`Error::Wire`] with
    /// what the worker says; [`Error::Timeout`].
    pub async fn embed(
        &self,
        model: &Slug,
        request: EmbedRequest,
        options: &CallOptions,
    ) -> Result<EmbedResult, Error> {
        check(&request)?;
        let id = request.id.clone();
        let budget = MessageBudget::new(self.nats.max_payload(), TEXTS_PER_CALL, &request);
        let parts = split(&request.texts, budget)?;
        let subject = match &options.variant {
            Some(variant) => subjects::pinned(Lane::Rpc, model, variant),
            None => subjects::bare(Lane::Rpc, model),
        };
        let deadline = Instant::now() + options.timeout;
        let call = Call { client: self, model, options, subject, deadline };
        let several = parts.len() > 1;
        let calls = parts.into_iter().enumerate().map(|(n, range)| {
            let part = EmbedRequest { texts: request.texts[range].to_vec(), ..without_texts(&request) };
            let id = id.as_ref().filter(|_| several).and_then(|id| part_id(id, n).ok());
            call.texts(EmbedRequest { id: id.or(part.id.clone()), ..part })
        });
        let results: Vec<_> = stream::iter(calls.collect::<Vec<_>>()).buffered(CALLS_IN_FLIGHT).try_collect().await?;
        let mut result = combine(results)?;
        if let Some(id) = id {
            result.id = id;
        }
        Ok(result)
    }
}

impl Call<'_> {
    /// One part. Asks for its halves if the answer does not fit into a message.
    fn texts(&self, request: EmbedRequest) -> BoxFuture<'_, Result<EmbedResult, Error>> {
        async move {
            match self.retried(&request).await {
                Err(Error::Wire(error)) if error.code == ErrorCode::ResultTooLarge && request.texts.len() > 1 => {
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

    /// One message, sent again while the worker says that this can help.
    async fn retried(&self, request: &EmbedRequest) -> Result<EmbedResult, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            match self.once(request).await {
                Err(Error::Wire(error)) if worth_retrying(&error) => {
                    let pause = backoff.pause(error.retry_after_ms.map(Duration::from_millis), rand::random());
                    if Instant::now() + pause >= self.deadline {
                        return Err(error.into());
                    }
                    tracing::debug!(%error, ?pause, "the call is made again");
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
    }

    async fn once(&self, request: &EmbedRequest) -> Result<EmbedResult, Error> {
        let mut header = HeaderMap::new();
        header.insert(headers::CONTENT_TYPE, Format::MessagePack.content_type());
        let payload = Format::MessagePack.encode(request);
        let left = self.deadline.saturating_duration_since(Instant::now());
        let answer = nats::request(&self.client.nats, self.subject.clone(), header, payload, left).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => {
                        self.client.unknown_model(self.model, self.options.variant.as_ref()).await
                    }
                    RequestErrorKind::TimedOut => Error::Timeout {
                        what: format!("no answer from {}", self.subject),
                        after: self.options.timeout,
                        hint: ": the workers are busy or the connection is gone; try a longer --timeout".into(),
                    },
                    _ => Error::nats(format!("cannot call {}", self.subject), error),
                });
            }
        };
        let bad = |reason: String| Error::BadAnswer { from: self.subject.clone(), reason };
        match wire::decode_outcome(&answer.payload).map_err(|error| bad(error.to_string()))? {
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
}

/// Checks a request as if it were one message, except for the number of its texts.
pub(super) fn check(request: &EmbedRequest) -> Result<(), WireError> {
    let first = request.texts.iter().take(1).cloned().collect();
    EmbedRequest { texts: first, ..without_texts(request) }.validate(Format::MessagePack)
}

/// A deadline that has passed is the caller's own: nobody needs the answer any more.
fn worth_retrying(error: &WireError) -> bool {
    error.retryable && error.code != ErrorCode::DeadlineExceeded
}
