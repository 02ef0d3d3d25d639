//! Servers, streams and lines that fail: nothing waits for long that need not, and what is told is true.

use std::time::{Duration, Instant};

use crate::support::{Stack, model, variant, worker_command};
use async_nats::{Client, HeaderMap, jetstream};
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane,
    streams::{self, StreamSettings},
    subjects,
    wire::decode_outcome,
};
use embed_testkit::{Daemon, NatsServer, PATIENCE, Relay};
use futures::StreamExt;
use serde_json::json;

/// As long as the server waits for an acknowledgement: what is found sooner was not waited for.
const ACK_WAIT: Duration = Duration::from_secs(60);

fn settings() -> StreamSettings {
    StreamSettings { ack_wait_ms: ACK_WAIT.as_millis() as u64, ..StreamSettings::default() }
}

/// A server whose consumers wait long, and a worker on a line to it.
async fn behind_a_relay() -> (NatsServer, Client, Relay, Daemon) {
    crate::support::behind_a_relay(&settings()).await
}

async fn publish(client: &Client, lane: Lane, request: &EmbedRequest) {
    let context = jetstream::new(client.clone());
    let payload = Format::MessagePack.encode(request);
    context.publish(subjects::bare(lane, &model()), payload).await.unwrap().await.unwrap();
}

async fn messages_in(client: &Client, stream: &str) -> u64 {
    jetstream::new(client.clone()).get_stream(stream).await.unwrap().cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_with_a_backlog_nothing_waits_for_an_acknowledgement() {
    let (_nats, client, relay, _worker) = behind_a_relay().await;
    for n in 0..200 {
        let texts = (0..8).map(|i| format!("job {n}, text {i}, which is of middling length as texts go"));
        publish(&client, Lane::Job, &EmbedRequest::new(texts)).await;
    }
    let results = streams::results_stream(&model());
    while messages_in(&client, &results).await < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Longer than pull requests last.
    relay.go_down();
    tokio::time::sleep(Duration::from_secs(12)).await;
    relay.mend();
    let mended = Instant::now();
    while messages_in(&client, &results).await < 200 {
        assert!(mended.elapsed() < ACK_WAIT, "{} of 200", messages_in(&client, &results).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while messages_in(&client, &streams::jobs_stream(&model())).await > 0 {
        assert!(mended.elapsed() < ACK_WAIT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_behind_a_dead_line_is_offered_no_calls_after_seconds() {
    let (nats, client, relay, _worker) = behind_a_relay().await;
    let other = Daemon::spawn(&mut worker_command(&nats, &[]));
    other.json_line();
    // Bytes vanish; nobody is told.
    relay.swallow();
    let cut = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 40 {
        let payload = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
        let request =
            async_nats::Request::new().payload(payload).inbox(client.new_inbox()).timeout(Some(Duration::from_secs(5)));
        let answered = client.send_request(subjects::bare(Lane::Rpc, &model()), request).await.is_ok();
        in_a_row = if answered { in_a_row + 1 } else { 0 };
        assert!(cut.elapsed() < Duration::from_secs(120), "half of the calls are still lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_and_made_anew_is_pulled_from_at_once() {
    let stack = Stack::start().await;
    let context = jetstream::new(stack.client.clone());
    let jobs = streams::jobs_stream(&model());
    let stream = context.get_stream(&jobs).await.unwrap();
    for round in 0..3 {
        stream.delete_consumer(&streams::consumer(&variant(), Lane::Job)).await.unwrap();
        for consumer in streams::consumers(&model(), &variant(), true, &settings()).iter().take(1) {
            let config = json!({"stream_name": jobs, "config": consumer});
            let call = format!("CONSUMER.DURABLE.CREATE.{jobs}.{}", consumer.durable_name);
            let answer: serde_json::Value = context.request(call, &config).await.unwrap();
            assert!(answer["error"].is_null(), "{answer}");
        }
        let made = Instant::now();
        let id: JobId = format!("anew-{round}").parse().unwrap();
        publish(&stack.client, Lane::Job, &EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(["a"]) }).await;
        stack.stored(&id).await.into_result().unwrap();
        assert!(made.elapsed() < Duration::from_secs(30));
    }
}

/// Gives a stream another limit: beyond it, it takes nothing.
async fn limit(stack: &Stack, stream: &str, max_bytes: i64) {
    let context = jetstream::new(stack.client.clone());
    let mut found = context.get_stream(stream).await.unwrap();
    let mut config = serde_json::to_value(&found.info().await.unwrap().config).unwrap();
    config["max_bytes"] = json!(max_bytes);
    let answer: serde_json::Value = context.request(format!("STREAM.UPDATE.{stream}"), &config).await.unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Waits until the worker says that it is not ready, for a reason with all of these words.
async fn unready(stack: &Stack, words: &[&str]) {
    let said = async {
        loop {
            let (status, body) = stack.get("/readyz").await;
            if status == 503 && words.iter().all(|word| body.contains(word)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.expect("unready in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_its_clients_away_holds_up_no_job() {
    let nats = NatsServer::start_with("lame_duck_duration: 30s\nlame_duck_grace_period: 1s");
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &settings()).await;
    let worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let mut stack = Stack { ready: worker.json_line(), worker, client, nats };
    let text = "a long sentence about nothing in particular that goes on and on ".repeat(16);
    for n in 0..3 {
        let id = Some(format!("long-{n}").parse().unwrap());
        publish(
            &stack.client,
            Lane::Job,
            &EmbedRequest { id, ..EmbedRequest::new((0..16).map(|i| format!("{i} {text}"))) },
        )
        .await;
    }
    while stack.worker_metric("akidb_leases_held").await < 1.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stack.nats.lame_duck();
    // JetStream ends at once, and connections end one by one.
    while stack.nats.is_running() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stack.nats.restart();
    let back = Instant::now();
    for n in 0..3 {
        stack.stored(&format!("long-{n}").parse().unwrap()).await.into_result().unwrap();
    }
    assert!(back.elapsed() < ACK_WAIT / 2, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_results_stream_nobody_hears_what_is_not_stored_and_the_worker_is_not_ready() {
    let stack = Stack::start().await;
    let name = streams::results_stream(&model());
    limit(&stack, &name, 1).await;
    let id: JobId = "unstored".parse().unwrap();
    let mut heard = stack.client.subscribe(subjects::result(&model(), &id)).await.unwrap();
    stack.client.flush().await.unwrap();
    publish(&stack.client, Lane::Job, &EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(["a"]) }).await;
    unready(&stack, &["stream of results", "full"]).await;
    assert!(stack.worker_metric("akidb_store_retries_total").await >= 1.0);
    assert!(futures::FutureExt::now_or_never(heard.next()).is_none(), "nobody hears what is not stored");
    limit(&stack, &name, 1 << 30).await;
    let message = tokio::time::timeout(PATIENCE, heard.next()).await.expect("heard in time").unwrap();
    assert!(decode_outcome(&message.payload).unwrap().into_result().is_ok());
    stack.stored(&id).await.into_result().unwrap();
    while stack.get("/readyz").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_though_the_workers_clock_is_wrong() {
    let library =
        ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
    let Some(library) = library.into_iter().find(|path| std::path::Path::new(path).exists()) else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &settings()).await;
    for off in ["+600s", "-600s"] {
        let worker = Daemon::spawn(worker_command(&nats, &[]).env("LD_PRELOAD", library).env("FAKETIME", off));
        worker.json_line();
        let id: JobId = format!("clock{}", off.replace('+', "p")).parse().unwrap();
        let request =
            EmbedRequest { id: Some(id.clone()), deadline_ms: Some(60_000), ..EmbedRequest::new(["in time"]) };
        publish(&client, Lane::Job, &request).await;
        let outcome = crate::support::outcome(&client, &model(), &id).await.into_result();
        assert!(outcome.is_ok(), "{off}: {outcome:?}");
        worker.kill();
        // And one that has passed is not computed.
        let late: JobId = format!("late{}", off.replace('+', "p")).parse().unwrap();
        let request = EmbedRequest { id: Some(late.clone()), deadline_ms: Some(1), ..EmbedRequest::new(["too late"]) };
        publish(&client, Lane::Job, &request).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let worker = Daemon::spawn(worker_command(&nats, &[]).env("LD_PRELOAD", library).env("FAKETIME", off));
        worker.json_line();
        let error = crate::support::outcome(&client, &model(), &late).await.into_result().unwrap_err();
        assert_eq!(error.code, ErrorCode::DeadlineExceeded, "{off}");
        worker.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_done_is_measured_in_the_stream() {
    let stack = Stack::start().await;
    // Jobs for a variant that nobody serves.
    let nobody = "nobody".parse().unwrap();
    for _ in 0..3 {
        let payload = Format::Json.encode(&EmbedRequest::new(["a"]));
        let context = jetstream::new(stack.client.clone());
        context.publish(subjects::pinned(Lane::Job, &model(), &nobody), payload).await.unwrap().await.unwrap();
    }
    let measured = async {
        while stack.worker_metric("akidb_unclaimed_jobs").await != 3.0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, measured).await.expect("measured in time");
    let (_, metrics) = stack.get("/metrics").await;
    for name in [
        "akidb_consumer_pending",
        "akidb_consumer_ack_pending",
        "akidb_oldest_job_age_seconds",
        "akidb_ready",
        "akidb_nats_connected",
        "akidb_leases_held",
        "akidb_runner_busy_seconds_total",
        "akidb_tokenizer_queue_texts",
        "akidb_build_info",
        "akidb_in_flight_bytes",
        "akidb_stream_bytes{",
        "akidb_stream_max_bytes{",
        "akidb_cache_disk_bytes",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(&format!("\n{name}")), "{name} is missing");
    }
    assert_eq!(stack.worker_metric("akidb_ready").await, 1.0);
    // Three jobs lie in their stream, and none has a result.
    let of = |name: &str, stream: &str| {
        let line =
            metrics.lines().find(|line| line.starts_with(name) && line.contains(&format!("stream=\"{stream}\"")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} {stream}"))
    };
    assert!(of("akidb_stream_bytes", "jobs") > 0.0);
    assert_eq!(of("akidb_stream_bytes", "results"), 0.0);
    let limits = StreamSettings::default();
    assert_eq!(of("akidb_stream_max_bytes", "jobs"), limits.jobs_max_bytes as f64);
    assert_eq!(of("akidb_stream_max_bytes", "results"), limits.results_max_bytes as f64);
    let free = stack.worker_metric("akidb_cache_disk_free_bytes").await;
    assert!(0.0 < free && free <= stack.worker_metric("akidb_cache_disk_bytes").await);
    // Equal texts count alike everywhere.
    let before =
        (stack.worker_metric("akidb_embed_texts_total").await, stack.worker_metric("akidb_embed_tokens_total").await);
    let request = EmbedRequest { id: Some("equal".parse().unwrap()), ..EmbedRequest::new(vec!["hello world"; 8]) };
    stack.publish_raw(Lane::Job, HeaderMap::new(), Format::Json.encode(&request)).await;
    let result = stack.stored(&"equal".parse().unwrap()).await.into_result().unwrap();
    let tokens: u32 = result.items.iter().map(|item| item.tokens).sum();
    let after =
        (stack.worker_metric("akidb_embed_texts_total").await, stack.worker_metric("akidb_embed_tokens_total").await);
    // The worker's calls to itself are texts as well.
    assert!(after.0 - before.0 >= 8.0 && after.1 - before.1 >= f64::from(tokens), "{before:?} {after:?}");
}
