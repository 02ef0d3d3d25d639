//! Bad input gets an answer that a person can act on, and does no harm to its neighbours.

use crate::support::{Stack, model, variant};
use async_nats::{HeaderMap, jetstream};
use embed_schemas::{EmbedRequest, ErrorCode, Format, JobId, Lane, Outcome, headers, streams, subjects};
use futures::StreamExt;

fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

/// A good call still gets its vector.
async fn assert_unharmed(stack: &Stack) {
    let result = stack.call(&EmbedRequest::new(["hello"]), Format::MessagePack).await.unwrap();
    assert_eq!(result.vector(0).unwrap().len(), 384);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_no_requests() {
    let stack = Stack::start().await;
    let too_many = format!(r#"{{"texts":[{}"a"]}}"#, "\"a\",".repeat(256));
    for (payload, words) in [
        (&br#"{"texts":[]}"#[..], &["texts", "empty", "1 to 256"][..]),
        (too_many.as_bytes(), &["257 texts", "at most 256"]),
        (br#"{"texts":["a",5]}"#, &["texts[1]", "integer `5`", "expected a string"]),
        (br#"{"text":["a"]}"#, &["unknown field `text`", "did you mean `texts`?"]),
        (br#"{"texts":["a"#, &["EOF"]),
        (b"\x81\xa5texts\x92\xa1a", &["texts"]),
        (b"not json", &["neither a JSON object nor a MessagePack map"]),
        (br#"{"id":"a.b c","texts":["a"]}"#, &["id", "'.'", "use letters, digits"]),
        (br#"{"id":"a b","texts":["a"]}"#, &["id", "' '"]),
    ] {
        let error = stack.refusal(payload.to_vec()).await;
        assert_eq!(error.code, ErrorCode::InvalidRequest);
        assert!(!error.retryable);
        assert_says(&error.message, words);
    }
    assert_unharmed(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_the_model_cannot_serve() {
    let stack = Stack::start().await;
    let request = EmbedRequest { prompt: Some("query".into()), ..EmbedRequest::new(["a"]) };
    let error = stack.refusal(Format::Json.encode(&request)).await;
    assert_eq!(error.code, ErrorCode::UnknownPrompt);
    assert_says(&error.message, &["\"query\"", "leave `prompt` out"]);

    let request = EmbedRequest { dimensions: Some(128), ..EmbedRequest::new(["a"]) };
    let error = stack.refusal(Format::Json.encode(&request)).await;
    assert_eq!(error.code, ErrorCode::UnsupportedDimensions);
    assert_says(&error.message, &["384 dimensions", "128", "leave `dimensions` out"]);

    let request = EmbedRequest { dimensions: Some(384), ..EmbedRequest::new(["a"]) };
    assert!(stack.call(&request, Format::Json).await.is_ok(), "the model's own number is fine");
    assert_unharmed(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_cannot_be_embedded_does_not_fail_its_neighbours() {
    // Room for a text of 1 MB, so that it is the worker that refuses it.
    let stack = Stack::start_with("max_payload: 4194304", &[]).await;
    let long = "word ".repeat(300);
    let huge = "word ".repeat(200_000);
    let request =
        EmbedRequest { truncate: false, ..EmbedRequest::new(["hello", &long, &huge, "\0", "\u{1}\u{7f}\u{85}"]) };
    for format in [Format::Json, Format::MessagePack] {
        let result = stack.call(&request, format).await.unwrap();
        let hello = stack.call(&EmbedRequest::new(["hello"]), format).await.unwrap();
        assert_eq!(result.vector(0), hello.vector(0));
        let too_long = result.vector(1).unwrap_err();
        assert_eq!(too_long.code, ErrorCode::TextTooLong);
        assert_says(&too_long.message, &["302 tokens", "the model takes 256", "truncate"]);
        let too_large = result.vector(2).unwrap_err();
        assert_eq!(too_large.code, ErrorCode::TextTooLarge);
        assert_says(&too_large.message, &["1000000 bytes", "262144"]);
        // Control characters are dropped by the tokenizer, as the reference does: what is left is an empty text.
        let empty = stack.call(&EmbedRequest::new([""]), format).await.unwrap().vector(0).unwrap();
        for i in [3, 4] {
            assert_eq!(result.items[i].tokens, 2);
            assert!(crate::support::difference(&result.vector(i).unwrap(), &empty) <= 1e-5);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_fit_is_an_error_that_says_so() {
    let stack = Stack::start_with("max_payload: 262144", &[]).await;
    let request = EmbedRequest::new(vec!["a"; 256]);
    // Known before it is computed.
    for (format, texts) in [(Format::MessagePack, 256), (Format::Json, 100)] {
        let request = EmbedRequest::new(request.texts[..texts].to_vec());
        let error = stack.refusal(format.encode(&request)).await;
        assert_eq!(error.code, ErrorCode::ResultTooLarge);
        assert_says(&error.message, &["max_payload is 262144", "fewer texts"]);
    }
    let outcome = stack.job(Lane::Job, request, Format::MessagePack, "too-large").await;
    assert_eq!(outcome.into_result().unwrap_err().code, ErrorCode::ResultTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_answered_at_once() {
    let stack = Stack::start().await;
    let subject = subjects::bare(Lane::Rpc, &"no-such-model".parse().unwrap());
    let error = stack.client.request(subject, "{}".into()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
    let subject = subjects::bare(Lane::Job, &"no-such-model".parse().unwrap());
    let error = jetstream::new(stack.client.clone()).publish(subject, "{}".into()).await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), jetstream::context::PublishErrorKind::StreamNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_no_job_becomes_a_dead_letter_and_the_next_is_served() {
    let stack = Stack::start().await;
    let mut copies = stack.client.subscribe("_INBOX.copies").await.unwrap();
    // An id that can only be read from the header: the outcome is stored under it.
    let mut named = HeaderMap::new();
    named.insert(headers::MSG_ID, "broken-1");
    named.insert(headers::REPLY_TO, "_INBOX.copies");
    stack.publish_raw(Lane::Job, named, r#"{"texts":["a"], "broken"#).await;
    let outcome = stack.stored(&"broken-1".parse().unwrap()).await;
    assert_says(&outcome.into_result().unwrap_err().message, &["EOF"]);

    // No id at all, and one that is no subject token: only the dead letter tells.
    let mut reply = HeaderMap::new();
    reply.insert(headers::REPLY_TO, "_INBOX.copies");
    stack.publish_raw(Lane::Bulk, reply.clone(), "\u{81}").await;
    stack.publish_raw(Lane::Job, reply, r#"{"id":"a.b c","texts":["a"]}"#).await;
    for _ in 0..3 {
        assert!(copies.next().await.unwrap().headers.unwrap().get(headers::SERVICE_ERROR).is_some());
    }
    let outcome = stack.job(Lane::Job, EmbedRequest::new(["fine"]), Format::Json, "fine").await;
    assert!(outcome.into_result().is_ok());

    stack.wait_for_messages(&streams::dead_stream(&model()), 3).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    let dead = jetstream::new(stack.client.clone()).get_stream(streams::dead_stream(&model())).await.unwrap();
    for sequence in 1..=3 {
        let letter = dead.direct_get(sequence).await.unwrap();
        assert_eq!(letter.subject.as_str(), subjects::dead(&model(), &variant()));
        let header = |name| letter.headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header(headers::DEAD_CODE), "invalid_request");
        assert!(header(headers::DEAD_SUBJECT).starts_with("embed."));
        assert_eq!(header(headers::DEAD_DELIVERIES), "1");
        assert!(!letter.payload.is_empty(), "the job is kept as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_deadline_has_passed_is_not_done() {
    let stack = Stack::start().await;
    let request = EmbedRequest { deadline_ms: Some(0), ..EmbedRequest::new(["late"]) };
    let error = stack.refusal(Format::Json.encode(&request)).await;
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    let outcome = stack.job(Lane::Job, request, Format::Json, "late").await;
    let Outcome::Failure(failure) = outcome else { panic!("it was done all the same") };
    assert_eq!(failure.id, Some("late".parse::<JobId>().unwrap()));
    assert_eq!(failure.error.code, ErrorCode::DeadlineExceeded);
    let (_, metrics) = stack.get("/metrics").await;
    assert!(metrics.contains("akidb_embed_errors_total") && metrics.contains("deadline_exceeded"), "{metrics}");
}
