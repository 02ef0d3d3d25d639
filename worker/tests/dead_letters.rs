//! Dead letters cannot be used up, and what cannot be stored holds up nobody.

use std::time::{Duration, Instant};

use crate::support::{Stack, model, worker_command};
use async_nats::{HeaderMap, jetstream};
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane, Outcome, headers,
    streams::{self, StreamSettings},
};
use embed_testkit::{Daemon, NatsServer, PATIENCE};
use serde_json::json;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn dead() -> String {
    streams::dead_stream(&model())
}

/// Changes a stream, as an operator does.
async fn change(stack: &Stack, stream: &str, fields: serde_json::Value) {
    let context = jetstream::new(stack.client.clone());
    let mut found = context.get_stream(stream).await.unwrap();
    let mut config = serde_json::to_value(&found.info().await.unwrap().config).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer: serde_json::Value = context.request(format!("STREAM.UPDATE.{stream}"), &config).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// Waits until `/readyz` says all of these words; with none, until the worker is ready.
async fn readiness(stack: &Stack, words: &[&str]) {
    until("readiness", async || {
        let (status, body) = stack.get("/readyz").await;
        if words.is_empty() { status == 200 } else { status == 503 && words.iter().all(|word| body.contains(word)) }
    })
    .await;
}

/// A job that the model cannot serve.
fn bad(id: Option<&str>) -> bytes::Bytes {
    let id = id.map(|id| id.parse().unwrap());
    Format::Json.encode(&EmbedRequest { id, prompt: Some("none-such".into()), ..EmbedRequest::new(["x"]) })
}

async fn all_done(stack: &Stack) {
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_forgets_the_oldest_and_no_lane_stalls() {
    let stack = Stack::start().await;
    change(&stack, &dead(), json!({"max_bytes": 2 << 20})).await;
    let junk = "x".repeat(300_000);
    for n in 0..20 {
        stack.publish_raw(Lane::Job, HeaderMap::new(), format!("{n} {junk}")).await;
    }
    all_done(&stack).await;
    for n in 0..300 {
        let publish = stack.client.publish(format!("embed.job.{}", model()), format!("tiny {n}").into());
        publish.await.unwrap();
    }
    let result = stack.job(Lane::Job, EmbedRequest::new(["a job"]), Format::Json, "beside").await;
    result.into_result().unwrap();
    all_done(&stack).await;
    let context = jetstream::new(stack.client.clone());
    let state = context.get_stream(dead()).await.unwrap().cached_info().state.clone();
    assert!(state.bytes <= 2 << 20 && state.last_sequence == 320 && state.messages < 320, "{state:?}");
    readiness(&stack, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_letter_can_be_stored_the_failure_is_the_outcome_and_the_worker_is_not_ready() {
    let stack = Stack::start().await;
    change(&stack, &dead(), json!({"max_bytes": 1, "discard": "new"})).await;
    for n in 0..20 {
        stack.publish_raw(Lane::Job, HeaderMap::new(), bad(Some(&format!("bad-{n}")))).await;
    }
    stack.publish_raw(Lane::Job, HeaderMap::new(), "no job").await;
    readiness(&stack, &["dead letters", "full"]).await;
    // Those that can be served are.
    stack.job(Lane::Job, EmbedRequest::new(["a"]), Format::Json, "beside").await.into_result().unwrap();
    all_done(&stack).await;
    for n in 0..20 {
        let error = stack.stored(&format!("bad-{n}").parse().unwrap()).await.into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::UnknownPrompt);
    }
    // What has no id has the one that follows from where it was: its failure is not lost either.
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, 22);
    readiness(&stack, &["dead letters", "21 jobs have ended without one"]).await;
    assert_eq!(stack.worker_metric("akidb_dead_letters_unwritten_total").await, 21.0);
    assert_eq!(stack.worker_metric("akidb_leases_held").await, 0.0);
    // Once there is room, they are written again.
    change(&stack, &dead(), json!({"max_bytes": 1 << 20, "discard": "old"})).await;
    stack.publish_raw(Lane::Job, HeaderMap::new(), bad(Some("last"))).await;
    stack.wait_for_messages(&dead(), 1).await;
    readiness(&stack, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_valid_trace_context_is_taken_along() {
    let stack = Stack::start().await;
    let traces = ["x".repeat(65_480), "x".repeat(55), TRACE.to_uppercase(), TRACE.to_owned()];
    for (n, trace) in traces.iter().enumerate() {
        let mut header = HeaderMap::new();
        header.insert(headers::TRACEPARENT, trace.as_str());
        let id: JobId = format!("traced-{n}").parse().unwrap();
        let request = EmbedRequest { id: Some(id), ..EmbedRequest::new(["hello"]) };
        stack.publish_raw(Lane::Job, header.clone(), Format::Json.encode(&request)).await;
        stack.publish_raw(Lane::Job, header.clone(), bad(Some(&format!("bad-{n}")))).await;
        let call = Format::Json.encode(&EmbedRequest::new(["hello"]));
        let answer = stack.call_raw(format!("embed.rpc.{}", model()), header, call).await;
        let taken = answer.headers.unwrap().get(headers::TRACEPARENT).map(|value| value.as_str().to_owned());
        assert_eq!(taken, (n == 3).then(|| TRACE.to_owned()), "{n}");
    }
    all_done(&stack).await;
    let context = jetstream::new(stack.client.clone());
    for (stream, messages) in [(streams::results_stream(&model()), 8), (dead(), 4)] {
        let stream = context.get_stream(stream).await.unwrap();
        let mut found = 0;
        for sequence in 1..=messages {
            let stored = stream.get_raw_message(sequence).await.unwrap();
            found += u64::from(stored.headers.get(headers::TRACEPARENT).is_some_and(|value| value.as_str() == TRACE));
            let all: usize =
                stored.headers.iter().flat_map(|(_, values)| values).map(|value| value.as_str().len()).sum();
            assert!(all < 2_000, "{all} bytes of headers");
        }
        assert_eq!(found, messages / 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_its_stream_can_never_hold_ends_the_job() {
    let stack = Stack::start().await;
    let results = streams::results_stream(&model());
    // Limits of two kinds: of one message, and of all.
    for (n, fields) in
        [json!({"max_msg_size": 20_000}), json!({"max_msg_size": -1, "max_bytes": 20_000})].into_iter().enumerate()
    {
        change(&stack, &results, fields).await;
        let id: JobId = format!("large-{n}").parse().unwrap();
        let request = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new((0..32).map(|n| format!("text {n}"))) };
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::MessagePack.encode(&request)).await;
        let error = stack.stored(&id).await.into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::ResultTooLarge, "{error}");
        all_done(&stack).await;
        stack.wait_for_messages(&dead(), n as u64 + 1).await;
    }
    until("permits are free", async || stack.worker_metric("akidb_in_flight_texts").await == 0.0).await;
    stack.job(Lane::Job, EmbedRequest::new(["small"]), Format::MessagePack, "small").await.into_result().unwrap();
}

/// A server on which the worker may not publish on one subject, and anybody else may.
async fn with_a_worker_that_may_not(publish: &str) -> Stack {
    let users = format!(
        "accounts {{ A: {{ jetstream: enabled, users: [ {{user: all, password: p}}, \
         {{user: worker, password: p, permissions: {{ publish: {{ deny: [{publish:?}] }} }} }} ] }} }}\nno_auth_user: all"
    );
    let nats = NatsServer::start_with(&users);
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &StreamSettings { ack_wait_ms: 2_000, ..StreamSettings::default() }).await;
    let worker = Daemon::spawn(worker_command(&nats, &["--user", "worker"]).env("NATS_PASSWORD", "p"));
    Stack { ready: worker.json_line(), worker, nats, client }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_store_outcomes_says_so_and_leaves_the_jobs_to_others() {
    let stack = with_a_worker_that_may_not("embed.store.>").await;
    for n in 0..10 {
        let request = EmbedRequest { id: Some(format!("job-{n}").parse().unwrap()), ..EmbedRequest::new(["hello"]) };
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::Json.encode(&request)).await;
    }
    readiness(&stack, &["results", "does not permit", "embed.store."]).await;
    // Nothing waits in it: they have gone back.
    until("permits are free", async || stack.worker_metric("akidb_in_flight_texts").await == 0.0).await;
    let another = Daemon::spawn(&mut worker_command(&stack.nats, &[]));
    another.json_line();
    for n in 0..10 {
        let outcome = stack.stored(&format!("job-{n}").parse().unwrap()).await;
        assert!(matches!(outcome, Outcome::Result(_)), "{outcome:?}");
    }
    all_done(&stack).await;
    assert_eq!(stack.messages_in(&dead()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_write_dead_letters_ends_jobs_without_them_at_once() {
    let stack = with_a_worker_that_may_not("embed.dead.>").await;
    let begun = Instant::now();
    stack.publish_raw(Lane::Job, HeaderMap::new(), bad(Some("bad"))).await;
    let error = stack.stored(&"bad".parse().unwrap()).await.into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownPrompt);
    all_done(&stack).await;
    readiness(&stack, &["dead letters", "does not permit", "1 jobs"]).await;
    assert!(begun.elapsed() < PATIENCE);
}
