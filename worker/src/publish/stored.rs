//! Results are stored once: the first publication on a result's subject wins, and later ones are recognized.
//!
//! They are published on `embed.store.…`; the stream stores them as `embed.result.…` and sends them there itself, so that nobody hears
//! what was not stored. A stream that an older `embed init` made takes `embed.result.…` alone: there nobody answers on
//! `embed.store.…`, and the result is published as it was before. So workers are replaced first, and `embed init` follows.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
};
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
    let (current, former) = (subjects::store(model, id), subjects::result(model, id));
    let mut delay = FIRST_DELAY;
    loop {
        let mut result = publish(jetstream, model, current.clone(), outcome).await;
        if let Err(error) = &result
            && error.kind() == PublishErrorKind::StreamNotFound
            && is_of_before(jetstream, model).await
        {
            result = publish(jetstream, model, former.clone(), outcome).await;
        }
        let error = match result {
            Ok(()) => return Stored::New,
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => return Stored::Before,
            Err(error) => error,
        };
        tracing::warn!(%error, subject = %current, "a result could not be stored; trying again");
        tokio::select! {
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
            () = give_up.cancelled() => return Stored::No,
        }
    }
}

/// Publishes an outcome that must be the first on its subject, and waits for the answer.
async fn publish(jetstream: &Context, model: &Slug, subject: String, outcome: &Encoded) -> Result<(), PublishError> {
    let message = PublishMessage::build()
        .payload(outcome.payload.clone())
        .headers(outcome.headers.clone())
        .expected_stream(streams::results_stream(model))
        .expected_last_subject_sequence(0);
    jetstream.send_publish(subject, message).await?.await?;
    Ok(())
}

/// Whether the stream is there and takes results on their own subject. Without this look, a stream that is between leaders would be
/// taken for one of before, and those who listen would hear a result that nobody stores.
async fn is_of_before(jetstream: &Context, model: &Slug) -> bool {
    let stream = jetstream.get_stream(streams::results_stream(model)).await;
    let former = streams::former_result_subject(model);
    stream.is_ok_and(|stream| stream.cached_info().config.subjects.contains(&former))
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, jetstream};
    use embed_schemas::streams::{StreamSettings, StreamSpec};
    use embed_testkit::NatsServer;

    use super::*;

    async fn make(context: &Context, spec: &StreamSpec) {
        let answer: serde_json::Value = context.request(format!("STREAM.CREATE.{}", spec.name), spec).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }

    #[tokio::test]
    async fn a_result_is_stored_once_under_its_own_subject_in_streams_of_now_and_of_before() {
        let server = NatsServer::start();
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let encoded = Encoded { payload: "outcome".into(), headers: HeaderMap::new(), error: None };
        let (now, before): (Slug, Slug) = ("now".parse().unwrap(), "before".parse().unwrap());
        let [_, current, _] = embed_schemas::streams::streams(&now, &StreamSettings::default());
        make(&context, &current).await;
        let [_, former, _] = embed_schemas::streams::streams(&before, &StreamSettings::default());
        let subjects = vec![streams::former_result_subject(&before)];
        make(&context, &StreamSpec { subjects, subject_transform: None, republish: None, ..former }).await;
        for model in [now, before] {
            let (id, wait) = ("x".parse().unwrap(), CancellationToken::new());
            assert_eq!(store(&context, &wait, &model, &id, &encoded).await, Stored::New, "{model}");
            assert_eq!(store(&context, &wait, &model, &id, &encoded).await, Stored::Before, "{model}");
            let stream = context.get_stream(streams::results_stream(&model)).await.unwrap();
            let found = stream.direct_get_last_for_subject(subjects::result(&model, &id)).await.unwrap();
            assert_eq!((found.payload, stream.cached_info().state.messages), ("outcome".into(), 1), "{model}");
        }
    }
}
