//! What a worker takes in: no more than it has room for, and whatever it is, it comes to an end.

use std::{fs, time::Duration};

use crate::support::{Stack, model, variant};
use async_nats::{HeaderMap, jetstream};
use base64::{Engine, prelude::BASE64_URL_SAFE};
use embed_schemas::{EmbedRequest, ErrorCode, Format, Lane, MAX_TEXTS, headers, streams, subjects};
use sha2::{Digest, Sha256};

async fn consumer_info(stack: &Stack, lane: Lane) -> jetstream::consumer::Info {
    let context = jetstream::new(stack.client.clone());
    let stream = context.get_stream(streams::jobs_stream(&model())).await.unwrap();
    stream.consumer_info(streams::consumer(&variant(), lane)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_held_than_there_is_room_for_and_nothing_is_redelivered() {
    // Long enough for a machine that stalls while all cores compute.
    let stack = Stack::start_within(20_000, "", &[]).await;
    for n in 0..200 {
        stack.publish_raw(Lane::Bulk, HeaderMap::new(), format!("no job {n}")).await;
    }
    stack.wait_for_messages(&streams::dead_stream(&model()), 200).await;
    let text = "a text that is long enough to take a while, but not so long that the test does ".repeat(2);
    let jobs = 24;
    for _ in 0..jobs {
        let request = EmbedRequest::new(vec![text.as_str(); MAX_TEXTS]);
        // No two texts alike: the same text is computed once.
        let texts = request.texts.iter().enumerate().map(|(n, text)| format!("{n} {text}")).collect();
        stack
            .publish_raw(Lane::Bulk, HeaderMap::new(), Format::MessagePack.encode(&EmbedRequest { texts, ..request }))
            .await;
    }
    // 1,024 texts have room: four of these.
    let (mut most, mut most_told) = (0, 0);
    while stack.messages_in(&streams::jobs_stream(&model())).await > 0 {
        let info = consumer_info(&stack, Lane::Bulk).await;
        most = most.max(info.num_ack_pending);
        assert_eq!(info.num_redelivered, 0);
        most_told = most_told.max(told_to_be_held(&stack).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((1..=4).contains(&most), "{most} jobs were held at the same time");
    assert!((1..=4).contains(&most_told), "{most_told} jobs were said to be held at the same time");
    assert_eq!(told_to_be_held(&stack).await, 0);
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, jobs);
    assert_eq!(stack.worker_metric("akidb_redeliveries_total").await, 0.0);
}

/// How many chunks the worker says that it has.
async fn told_to_be_held(stack: &Stack) -> u64 {
    let answer = stack.client.request("$SRV.STATS.embed-worker", "".into()).await.unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    let all = stats["endpoints"].as_array().unwrap().iter().filter_map(|endpoint| endpoint["data"]["bulk"].as_array());
    all.flatten().map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap() + 1).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_the_worker_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[limits]\njob_bytes = \"1 MiB\"\n").unwrap();
    let stack = Stack::start_with("", &["--config", file.to_str().unwrap()]).await;
    // 400 kB each, of which the model reads little.
    let jobs = 12;
    for n in 0..jobs {
        let text = format!("{n} {}", "word ".repeat(40_000));
        let request = EmbedRequest::new([text.clone(), format!("{text} again")]);
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::MessagePack.encode(&request)).await;
    }
    let mut most = 0.0f64;
    while stack.messages_in(&streams::jobs_stream(&model())).await > 0 {
        most = most.max(stack.worker_metric("akidb_in_flight_bytes").await);
    }
    assert!(most <= 1024.0 * 1024.0, "{most} bytes");
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, jobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_as_large_as_a_message_can_be_come_to_an_end() {
    let stack = Stack::start().await;
    let max_payload = stack.client.server_info().max_payload;
    // Neither is a job; of one, the id can be read.
    let garbage = "x".repeat(max_payload - 80);
    stack.publish_raw(Lane::Job, HeaderMap::new(), garbage.clone()).await;
    let head = r#"{"id":"doc","texts":""#;
    let broken = format!("{head}{}\"}}", "y".repeat(max_payload - 80 - head.len() - 2));
    stack.publish_raw(Lane::Job, HeaderMap::new(), broken.clone()).await;
    stack.wait_for_messages(&streams::dead_stream(&model()), 2).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    let error = stack.stored(&"doc".parse().unwrap()).await.into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    assert!(error.message.len() < 2000 && error.message.contains("texts"), "{}", error.message.len());

    let stream = jetstream::new(stack.client.clone()).get_stream(streams::dead_stream(&model())).await.unwrap();
    // Whichever of the two was done first.
    let mut found = Vec::new();
    for sequence in [1, 2] {
        let letter = stream.get_raw_message(sequence).await.unwrap();
        let whole = if garbage.as_bytes().starts_with(&letter.payload) { &garbage } else { &broken };
        found.push(whole.as_ptr());
        let header = |name| letter.headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header(headers::DEAD_SIZE), whole.len().to_string());
        let digest = format!("SHA-256={}", BASE64_URL_SAFE.encode(Sha256::digest(whole)));
        assert_eq!(header(headers::DEAD_DIGEST), digest);
        assert!(letter.payload.len() > max_payload / 2 && whole.as_bytes().starts_with(&letter.payload));
    }
    assert_ne!(found[0], found[1], "one letter of each");

    // A call of the same kind is answered.
    let error = stack.refusal(broken).await;
    assert_eq!(error.code, ErrorCode::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_beside_a_backfill_is_never_refused() {
    let stack = Stack::start().await;
    for n in 0..40 {
        let texts = (0..64).map(|i| format!("chunk {n}, text {i}, with a few words more than that"));
        stack.publish_raw(Lane::Bulk, HeaderMap::new(), Format::MessagePack.encode(&EmbedRequest::new(texts))).await;
    }
    let subject = subjects::bare(Lane::Rpc, &model());
    for n in 0..20 {
        let request = EmbedRequest::new((0..50).map(|i| format!("call {n}, text {i}")));
        let answer = stack.call_raw(subject.clone(), HeaderMap::new(), Format::MessagePack.encode(&request)).await;
        let result = embed_schemas::wire::decode_outcome(&answer.payload).unwrap().into_result();
        assert!(result.is_ok(), "call {n}: {result:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_under_overload_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[limits]\nrpc_max_wait = \"200ms\"\n[http]\nready_timeout = \"10s\"\n").unwrap();
    let stack = Stack::start_with("", &["--config", file.to_str().unwrap()]).await;
    let request = EmbedRequest::new((0..64).map(|i| format!("text {i} of a call that comes when there are too many")));
    let payload = Format::MessagePack.encode(&request);
    let subject = subjects::bare(Lane::Rpc, &model());
    let calls: Vec<_> = (0..60).map(|_| stack.call_raw(subject.clone(), HeaderMap::new(), payload.clone())).collect();
    let ready = async {
        // The second is asked after the first is forgotten.
        for _ in 0..2 {
            assert_eq!(stack.get("/readyz").await, (200, "ready\n".to_owned()));
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    };
    let (answers, ()) = futures::future::join(futures::future::join_all(calls), ready).await;
    let outcomes =
        answers.iter().map(|answer| embed_schemas::wire::decode_outcome(&answer.payload).unwrap().into_result());
    let (answered, refused): (Vec<_>, Vec<_>) = outcomes.partition(Result::is_ok);
    assert!(!answered.is_empty() && !refused.is_empty(), "{} answered, {} refused", answered.len(), refused.len());
    for refusal in refused {
        let error = refusal.unwrap_err();
        assert_eq!(error.code, ErrorCode::Overloaded);
        assert!(error.retry_after_ms.is_some_and(|wait| wait >= 10), "{error:?}");
    }
}
