//! Jobs without an id have one that follows from where they are stored: each has one result, whatever happens to who computes it.

use std::time::Duration;

use crate::support::{Stack, model, variant, worker_command};
use async_nats::{HeaderMap, jetstream};
use embed_schemas::{EmbedRequest, Format, Lane, Outcome, streams, subjects, wire::decode_outcome};
use embed_testkit::Daemon;
use serde_json::json;

async fn publish(stack: &Stack, texts: impl IntoIterator<Item = String>) {
    for text in texts {
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::MessagePack.encode(&EmbedRequest::new([text]))).await;
    }
}

fn results() -> String {
    streams::results_stream(&model())
}

async fn done(stack: &Stack, results: u64) {
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    assert_eq!(stack.messages_in(&self::results()).await, results);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_restart_with_the_same_id_and_over_unserve_and_serve() {
    const ID: &[&str] = &["--worker-id", "the-same"];
    let stack = Stack::start_with("", ID).await;
    publish(&stack, (0..100).map(|n| format!("first {n}"))).await;
    done(&stack, 100).await;
    let Stack { worker, nats, client, .. } = stack;
    let (status, log) = worker.terminate();
    assert!(status.success(), "{log}");
    let worker = Daemon::spawn(&mut worker_command(&nats, ID));
    let stack = Stack { ready: worker.json_line(), worker, nats, client };
    publish(&stack, (0..100).map(|n| format!("second {n}"))).await;
    done(&stack, 200).await;

    // A variant of its own that goes and comes again.
    let other = "other".parse().unwrap();
    let settings = streams::StreamSettings { ack_wait_ms: 2_000, ..Default::default() };
    crate::support::provision_variant(&stack.client, &other, &settings).await;
    for round in 1..=2 {
        stack.desire("other", Some(&json!({"version": "current"}))).await;
        stack.statuses_when(|all| all.get(&(model(), other.clone())).is_some_and(|s| s.live.is_some())).await;
        for n in 0..50 {
            let request = EmbedRequest::new([format!("round {round}, {n}")]);
            let subject = subjects::pinned(Lane::Job, &model(), &other);
            stack.client.publish(subject, Format::MessagePack.encode(&request)).await.unwrap();
        }
        let expected = 200 + round * 50;
        while stack.messages_in(&results()).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stack.desire("other", None).await;
        stack.statuses_when(|all| !all.contains_key(&(model(), other.clone()))).await;
    }
    done(&stack, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_worker_that_was_frozen() {
    let stack = Stack::start().await;
    let text = "a long text that takes its time to be computed, so that the worker still has it when it is stopped ";
    publish(&stack, (0..40).map(|n| format!("{n} {}", text.repeat(20)))).await;
    while stack.messages_in(&results()).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stack.worker.signal(libc::SIGSTOP);
    let another = Daemon::spawn(&mut worker_command(&stack.nats, &[]));
    another.json_line();
    stack.wait_for_messages(&results(), 40).await;
    stack.worker.signal(libc::SIGCONT);
    // The one that was frozen stores what it had computed, or finds it stored.
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    while stack.worker_metric("akidb_leases_held").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stack.messages_in(&results()).await, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_place_in_a_stream_that_was_made_anew_is_another_job() {
    let stack = Stack::start().await;
    publish(&stack, ["one".to_owned()]).await;
    done(&stack, 1).await;
    stack.publish_raw(Lane::Job, HeaderMap::new(), "garbage").await;
    stack.wait_for_messages(&streams::dead_stream(&model()), 1).await;
    let context = jetstream::new(stack.client.clone());
    context.delete_stream(streams::jobs_stream(&model())).await.unwrap();
    let settings = streams::StreamSettings { ack_wait_ms: 2_000, ..Default::default() };
    for stream in streams::streams(&model(), &settings).iter().take(1) {
        let answer: serde_json::Value =
            context.request(format!("STREAM.CREATE.{}", stream.name), stream).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    for consumer in streams::consumers(&model(), &variant(), true, &settings) {
        let jobs = streams::jobs_stream(&model());
        let config = json!({"stream_name": jobs, "config": consumer});
        let call = format!("CONSUMER.DURABLE.CREATE.{jobs}.{}", consumer.durable_name);
        let answer: serde_json::Value = context.request(call, &config).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    publish(&stack, ["another".to_owned()]).await;
    while stack.messages_in(&results()).await != 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Garbage at the same place is another dead letter.
    stack.publish_raw(Lane::Job, HeaderMap::new(), "garbage").await;
    stack.wait_for_messages(&streams::dead_stream(&model()), 2).await;
    let stream = context.get_stream(results()).await.unwrap();
    let vector = |payload: &[u8]| match decode_outcome(payload).unwrap() {
        Outcome::Result(result) => result.vector(0).unwrap(),
        Outcome::Failure(failure) => panic!("{failure:?}"),
    };
    let first = vector(&stream.get_raw_message(1).await.unwrap().payload);
    let second = vector(&stream.get_raw_message(2).await.unwrap().payload);
    assert!(crate::support::cosine(&first, &second) < 0.99, "each has its own vector");
}
