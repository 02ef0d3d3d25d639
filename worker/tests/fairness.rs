//! Whoever asks for much does not stop others: calls are served in turn by sender, and jobs by what they are.

use std::{fs, time::Duration};

use async_nats::{Client, HeaderMap};
use embed_schemas::{EmbedRequest, EmbedResult, ErrorCode, Format, Lane, WireError, subjects, wire::decode_outcome};
use embed_testkit::PATIENCE;

use crate::support::{Stack, model};

/// Texts of 254 tokens and hardly more bytes, no two of them alike.
fn heavy(texts: usize, seed: usize) -> EmbedRequest {
    let symbols: Vec<char> = "!#$%&()*+,-./:;<=>?@[]^_{|}~".chars().collect();
    let text = |n: usize| (0..252).map(|i| symbols[(seed + n * 7 + i * (n + 3)) % symbols.len()]).collect::<String>();
    EmbedRequest::new((0..texts).map(text))
}

/// Waits until there is something in the worker.
async fn until_busy(stack: &Stack) {
    while stack.worker_metric("akidb_in_flight_texts").await == 0.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A caller with an inbox of its own, as a connection has one.
struct Caller {
    client: Client,
    name: &'static str,
}

impl Caller {
    async fn call(&self, request: &EmbedRequest, number: usize) -> Result<EmbedResult, WireError> {
        let payload = Format::MessagePack.encode(request);
        let inbox = format!("_INBOX.{}.{number}", self.name);
        let request = async_nats::Request::new().payload(payload).inbox(inbox).timeout(Some(PATIENCE));
        let answer = self.client.send_request(subjects::bare(Lane::Rpc, &model()), request).await.unwrap();
        decode_outcome(&answer.payload).unwrap().into_result()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_asks_for_much_neither_turns_another_away_nor_makes_it_wait_for_all_of_that() {
    let stack = Stack::start().await;
    let honest = Caller { client: stack.client.clone(), name: "honest" };
    let other = Caller { client: async_nats::connect(stack.nats.url()).await.unwrap(), name: "heavy" };
    honest.call(&EmbedRequest::new(["hello"]), 0).await.unwrap();
    // Several seconds of all cores, all at once.
    let calls = tokio::spawn(async move {
        let calls = (0..4).map(|n| (n, heavy(60, n))).collect::<Vec<_>>();
        let calls = calls.iter().map(|(n, request)| other.call(request, *n));
        futures::future::join_all(calls).await
    });
    until_busy(&stack).await;
    let mut beside = 0;
    for n in 1..=20 {
        let answer = honest.call(&EmbedRequest::new([format!("a short text {n}")]), n).await;
        assert!(answer.is_ok(), "call {n}: {answer:?}");
        beside += usize::from(!calls.is_finished());
    }
    assert!(beside >= 10, "{beside} calls of the other were answered before what was asked for earlier");
    let answers = calls.await.unwrap();
    assert!(answers.iter().any(Result::is_ok), "it has its share, too: {answers:?}");
    assert!(answers.iter().flatten().all(|result| result.items.iter().all(|item| item.tokens == 254)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_does_not_wait_for_twelve_large_ones() {
    let stack = Stack::start().await;
    for n in 0..12 {
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::MessagePack.encode(&heavy(256, n))).await;
    }
    until_busy(&stack).await;
    let outcome = stack.job(Lane::Job, EmbedRequest::new(["small"]), Format::Json, "small").await;
    outcome.into_result().unwrap();
    let results = stack.messages_in(&embed_schemas::streams::results_stream(&model())).await;
    assert!(results <= 2, "{results} were done before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_costs_too_much_is_told_to_be_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[limits]\ncall_tokens = 100\n").unwrap();
    let stack = Stack::start_with("", &["--config", file.to_str().unwrap()]).await;
    let error = stack.refusal(Format::Json.encode(&heavy(2, 0))).await;
    assert_eq!((error.code, error.code.status(), error.retryable), (ErrorCode::CallTooLarge, 413, false));
    assert!(error.message.contains("limits.call_tokens: 100") && error.message.contains("as a job"), "{error}");
    stack.call(&EmbedRequest::new(["hello"]), Format::Json).await.unwrap();
    let job = stack.job(Lane::Job, heavy(2, 0), Format::Json, "as-a-job").await;
    assert_eq!(job.into_result().unwrap().items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_will_not_fit_is_refused_before_anything_is_computed() {
    let stack = Stack::start_with("max_payload: 262144", &[]).await;
    stack.call(&EmbedRequest::new(["warm"]), Format::Json).await.unwrap();
    let computed = async || stack.worker_metric("akidb_embed_tokens_total").await;
    let before = computed().await;
    // Less than three bytes for each number would just fit.
    let request = EmbedRequest::new((0..60).map(|n| format!("text {n}")));
    let error = stack.refusal(Format::Json.encode(&request)).await;
    assert_eq!(error.code, ErrorCode::ResultTooLarge);
    for words in ["max_payload is 262144", "at most 5", "base64 in JSON", "f32 in MessagePack"] {
        assert!(error.message.contains(words), "{words}: {error}");
    }
    let outcome = stack.job(Lane::Job, request.clone(), Format::Json, "too-large").await;
    assert_eq!(outcome.into_result().unwrap_err().code, ErrorCode::ResultTooLarge);
    assert!((computed().await - before).abs() < 0.5, "something was computed");
    // What is said to fit does.
    stack.call(&request, Format::MessagePack).await.unwrap();
    stack.call(&EmbedRequest::new(request.texts[..50].to_vec()), Format::Json).await.unwrap();
}
