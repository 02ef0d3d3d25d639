//! Results are stored once: the first publication on a result's subject wins, and later ones are recognized.

use std::time::Duration;

use async_nats::jetstream::{Context, context::PublishErrorKind, message::PublishMessage};
use embed_schemas::{JobId, Slug, streams, subjects};
use tokio_util::sync::CancellationToken;

use super::encoded::Encoded;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// How an attempt to store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is in the stream now.
    New,
    /// The stream had a result for this job already.
    Before,
    /// The worker had to give up.
    No,
}

/// Stores an outcome, and waits for the server to say that it did. While it cannot be stored (no leader, a full stream,
/// no connection) it is tried again: that holds the job's permit, and so slows down what is pulled.
pub(super) async fn store(
    jetstream: &Context,
    give_up: &CancellationToken,
    model: &Slug,
    id: &JobId,
    outcome: &Encoded,
) -> Stored {
    let subject = subjects::result(model, id);
    let mut delay = FIRST_DELAY;
    loop {
        let message = PublishMessage::build()
            .payload(outcome.payload.clone())
            .headers(outcome.headers.clone())
            .expected_stream(streams::results_stream(model))
            .expected_last_subject_sequence(0);
        let error = match jetstream.send_publish(subject.clone(), message).await {
            Ok(ack) => match ack.await {
                Ok(_) => return Stored::New,
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => return Stored::Before,
                Err(error) => error,
            },
            Err(error) => error,
        };
        tracing::warn!(%error, %subject, "a result could not be stored; trying again");
        tokio::select! {
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
            () = give_up.cancelled() => return Stored::No,
        }
    }
}
