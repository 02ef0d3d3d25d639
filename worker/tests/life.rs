//! From ready to stopped: health, discovery, redeliveries, draining, idling.

use std::{
    collections::HashSet,
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::support::{Stack, http_get, model, registry::TestRegistry, variant, worker_command};
use async_nats::HeaderMap;
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane,
    control::{self, WorkerState, WorkerStatus},
    headers,
    stats::WindowCounts,
    streams, subjects,
    wire::{decode_outcome, decode_stats},
};
use embed_testkit::{Daemon, NatsServer};
use futures::{StreamExt, future::join_all};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_is_answered_in_json() {
    let stack = Stack::start().await;
    let answer =
        stack.client.request("embed.rpc.all-minilm-l6-v2", r#"{"texts":["hello world"]}"#.into()).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(json["dim"], 384);
    assert_eq!(json["items"][0]["tokens"], 4);
    assert_eq!(json["vectors"][0].as_array().unwrap().len(), 384);
    assert_eq!(answer.headers.unwrap().get(headers::CONTENT_TYPE).unwrap().as_str(), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_ready_only_with_its_server_and_its_streams() {
    let mut nats = NatsServer::start();
    let mut worker = Daemon::spawn(&mut worker_command(&nats, &["--log-format", "json"]));
    // No streams yet: it serves, says what is missing, and becomes ready by itself.
    worker.wait_for_log("run `embed init`");
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &streams::StreamSettings::default()).await;
    let ready = worker.json_line();
    let address = ready["metrics_url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    assert_eq!(http_get(&address, "/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(http_get(&address, "/healthz").await.0, 200);
    assert_eq!(health(&address, &[]), (Some(0), "ready\n".to_owned()));

    nats.kill();
    loop {
        let (status, body) = http_get(&address, "/readyz").await;
        if status == 503 {
            assert!(body.contains("call to itself through NATS failed"), "{body}");
            break;
        }
    }
    // Whoever asks at once waits for one test, which takes two seconds, and not for as many.
    let asked = Instant::now();
    let answers = join_all((0..16).map(|_| http_get(&address, "/readyz"))).await;
    assert!(answers.iter().all(|(status, _)| *status == 503), "{answers:?}");
    assert!(asked.elapsed() < Duration::from_secs(16), "{:?}", asked.elapsed());
    assert_eq!(http_get(&address, "/healthz").await.0, 200, "it is alive all the same");
    let (code, reason) = health(&address, &[]);
    assert_eq!(code, Some(1), "{reason}");
    assert!(reason.contains("not ready: ") && reason.contains("call to itself through NATS failed"), "{reason}");
    assert_eq!(health(&address, &["--alive"]), (Some(0), "ok\n".to_owned()));
    nats.restart();
    while http_get(&address, "/readyz").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, metrics) = http_get(&address, "/metrics").await;
    for name in ["akidb_embed_latency_seconds_bucket", "akidb_batch_size", "akidb_provider_in_use", "akidb_queue_depth"]
    {
        assert!(metrics.contains(name), "{name} is missing");
    }
    assert!(worker.is_running());
}

/// What a container's health check does: its status, and what it said on either output.
fn health(address: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    let output = command.arg("health").args(more).env("EMBED_WORKER__HTTP__ADDR", address).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_micro_service_protocol_knows_the_worker() {
    let stack = Stack::start().await;
    stack.call(&EmbedRequest::new(["a"]), Format::Json).await.unwrap();
    stack.refusal("broken").await;
    let ask = async |verb: &str| -> serde_json::Value {
        let answer = stack.client.request(format!("$SRV.{verb}.embed-worker"), "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    assert_eq!(ask("PING").await["id"], stack.ready["worker_id"]);
    let info = ask("INFO").await;
    let subjects: HashSet<&str> =
        info["endpoints"].as_array().unwrap().iter().map(|e| e["subject"].as_str().unwrap()).collect();
    assert!(subjects.contains("embed.rpc.all-minilm-l6-v2"), "{info}");
    assert!(subjects.contains("embed.rpc.all-minilm-l6-v2.fp32"), "{info}");
    let stats = ask("STATS").await;
    let endpoint = stats["endpoints"].as_array().unwrap().iter().find(|e| e["name"] == "all-minilm-l6-v2").unwrap();
    assert_eq!((&endpoint["num_requests"], &endpoint["num_errors"]), (&2.into(), &1.into()), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_reloads_and_drains_a_worker() {
    let (root, registry) = (tempfile::tempdir().unwrap(), TestRegistry::new());
    registry.derive("v2.0.0", |_, _| {});
    let config = root.path().join("worker.toml");
    // Nothing but the question makes it look at the registry.
    fs::write(&config, "models.refresh = \"1h\"").unwrap();
    let mut stack = Stack::start_on(registry.path(), &["--config", config.to_str().unwrap()]).await;
    let worker = stack.ready["worker_id"].as_str().unwrap().to_owned();
    let client = stack.client.clone();
    let ask = async |subject: String| -> WorkerStatus {
        let answer = client.request(subject, "".into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };

    let status = ask(control::STATUS_SUBJECT.to_owned()).await;
    assert_eq!((&status.worker, status.state), (&worker, WorkerState::Serving));
    let [one] = &status.variants[..] else { panic!("{status:?}") };
    let live = one.status.live.as_ref().unwrap();
    assert_eq!((&one.model, &one.variant, live.version.as_str()), (&model(), &variant(), "v1.0.0"));
    assert_eq!(ask(control::status(&worker)).await.variants, status.variants);
    assert!(!live.provider.is_empty());

    let answer = client.request("$SRV.INFO.embed-worker", "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    for subject in [control::status(&worker), control::reload(&worker), control::drain(&worker)] {
        assert!(info["endpoints"].as_array().unwrap().iter().any(|e| e["subject"] == subject), "{subject}: {info}");
    }

    registry.promote(model().as_str(), "v2.0.0");
    assert_eq!(ask(control::reload(&worker)).await.worker, worker);
    stack.status_when(|status| status.live.as_ref().is_some_and(|live| live.version == "v2.0.0")).await;

    // Whoever may ask the server anything can have it answer there. Nobody asks so.
    let stream = "$JS.API.STREAM.INFO.EMBED_all-minilm-l6-v2";
    for _ in 0..3 {
        client.publish_with_reply(stream, control::drain(&worker), "".into()).await.unwrap();
    }
    client.publish(control::drain(&worker), "".into()).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.request(stream, "".into()).await.map(|answer| answer.payload.is_empty()).ok(), Some(false));
    for _ in 0..3 {
        assert_eq!(ask(control::status(&worker)).await.state, WorkerState::Serving);
        client.flush().await.unwrap();
    }

    // What it has taken is still answered.
    let call = client.request("embed.rpc.all-minilm-l6-v2", r#"{"texts":["hello"]}"#.into());
    let (answer, drained) = tokio::join!(call, ask(control::drain(&worker)));
    assert_eq!(drained.state, WorkerState::Draining);
    assert!(decode_outcome(&answer.unwrap().payload).unwrap().into_result().is_ok());
    assert!(stack.worker.wait().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_each_window_are_published() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("worker.toml");
    fs::write(&config, "worker.stats_window = \"300ms\"").unwrap();
    let stack = Stack::start_with("", &["--config", config.to_str().unwrap()]).await;
    let mut windows = stack.client.subscribe(subjects::stats(&model(), &variant())).await.unwrap();
    stack.client.flush().await.unwrap();
    for _ in 0..5 {
        stack.call(&EmbedRequest::new(["one", "two"]), Format::Json).await.unwrap();
    }
    stack.refusal("broken").await;
    let job = EmbedRequest::new(["three"]);
    stack.job(Lane::Job, job, Format::Json, "counted").await.into_result().unwrap();
    let mut sums: [WindowCounts; 3] = Default::default();
    while sums[0].requests < 6 || sums[1].requests < 1 {
        let stats = decode_stats(&windows.next().await.unwrap().payload).unwrap();
        assert_eq!((&stats.worker, stats.length_ms), (&stack.ready["worker_id"].as_str().unwrap().to_owned(), 300));
        sums[stats.lane.index()].merge(&stats.counts);
    }
    let [rpc, job, bulk] = sums;
    assert_eq!((rpc.requests, rpc.errors.get(&ErrorCode::InvalidRequest)), (6, Some(&1)));
    assert_eq!(rpc.by_caller, rpc.errors, "it is told apart from what a variant does wrong");
    // The worker's calls to itself are no requests, but their texts are run as well.
    assert!(rpc.texts >= 10, "{rpc:?}");
    assert_eq!((rpc.latency_us.count(), job.texts, bulk.requests), (5, 1, 0));
    assert!(rpc.latency_us.quantile(0.5).unwrap() > 0.0 && rpc.busy_us > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_tell_when_what_was_waiting_had_been_published() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &streams::StreamSettings::default()).await;
    let job = Format::Json.encode(&EmbedRequest::new(["it waits for a worker"]));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let sent = now();
    client.request(subjects::bare(Lane::Job, &model()), job).await.unwrap();
    let published = now();
    let mut windows = client.subscribe(subjects::stats(&model(), &variant())).await.unwrap();
    client.flush().await.unwrap();
    // Loading a model takes many windows.
    let _worker = Daemon::spawn(worker_command(&nats, &[]).env("EMBED_WORKER__WORKER__STATS_WINDOW", "100ms"));
    let counts = loop {
        let stats = decode_stats(&windows.next().await.unwrap().payload).unwrap();
        if stats.lane == Lane::Job && stats.counts.requests > 0 {
            assert!(stats.start_ms > published + 100, "{stats:?}");
            break stats.counts;
        }
    };
    let [part] = &counts.earlier[..] else { panic!("{counts:?}") };
    assert_eq!((part.requests, &part.latency_us), (1, &counts.latency_us));
    // To within a window, and what it takes to wake up at its end.
    let stored = sent - 1_000..published + 1_000;
    assert!(stored.contains(&part.published_ms) && part.published_ms % 100 == 0, "{stored:?}: {part:?}");
    assert_eq!(counts.published_since(published + 1_000).0.requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_job_is_stored_once_and_copied_to_whoever_asked() {
    let stack = Stack::start().await;
    let mut copies = stack.client.subscribe("_INBOX.copies").await.unwrap();
    let mut ask = HeaderMap::new();
    ask.insert(headers::REPLY_TO, "_INBOX.copies");
    ask.insert(headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let request = EmbedRequest { id: Some("twice".parse().unwrap()), ..EmbedRequest::new(["once"]) };
    // The same job twice, without the header by which the server would notice.
    for _ in 0..2 {
        stack.publish_raw(Lane::Job, ask.clone(), Format::Json.encode(&request)).await;
    }
    for _ in 0..2 {
        let copy = copies.next().await.unwrap();
        assert!(copy.headers.unwrap().get(headers::TRACEPARENT).unwrap().as_str().starts_with("00-0af7"));
        assert_eq!(decode_outcome(&copy.payload).unwrap().id().unwrap().as_str(), "twice");
    }
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, 1);
    assert_eq!(stack.worker_metric("akidb_duplicate_results_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_pinned_to_the_variant_is_served_by_it() {
    let stack = Stack::start().await;
    for lane in Lane::STORED {
        let id: JobId = format!("pinned-{lane}").parse().unwrap();
        let request = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(["a"]) };
        let subject = subjects::pinned(lane, &model(), &variant());
        stack.client.publish(subject, Format::Json.encode(&request)).await.unwrap();
        assert_eq!(stack.stored(&id).await.into_result().unwrap().variant, variant());
    }
    let subject = subjects::pinned(Lane::Rpc, &model(), &variant());
    let answer = stack.call_raw(subject, HeaderMap::new(), r#"{"texts":["a"]}"#).await;
    assert!(decode_outcome(&answer.payload).unwrap().into_result().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_every_call_and_loses_no_job() {
    let stack = Stack::start().await;
    let text = "a sentence of some length, so that it takes a while ".repeat(8);
    let jobs = 60;
    for i in 0..jobs {
        let request =
            EmbedRequest { id: Some(format!("drain-{i}").parse().unwrap()), ..EmbedRequest::new(vec![&text; 8]) };
        stack.publish_raw(Lane::Bulk, HeaderMap::new(), Format::MessagePack.encode(&request)).await;
    }
    // Calls that are on their way when the order to stop comes.
    let calls = EmbedRequest::new(vec![text.as_str(); 4]);
    let calls: Vec<_> = (0..50).map(|_| stack.call_once(&calls, Format::MessagePack)).collect();
    stack.client.flush().await.unwrap();
    let calls = tokio::time::timeout(embed_testkit::PATIENCE, async {
        let calls = futures::future::join_all(calls);
        let stop = async {
            // Once something has come back, there is much in the worker.
            let results = streams::results_stream(&model());
            while stack.messages_in(&results).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stack.worker.signal(libc::SIGTERM);
        };
        futures::future::join(calls, stop).await.0
    });
    // Every call is answered; those that came when there was too much to do, at once.
    let refused = calls.await.expect("every call is answered").into_iter().filter_map(Result::err);
    assert!(refused.into_iter().all(|error| error.code == ErrorCode::Overloaded));
    let Stack { mut worker, nats, client, .. } = stack;
    let (status, log) = worker.wait();
    assert!(status.success(), "{log}");
    assert!(log.contains("stopped"), "{log}");

    // What it did not take, another does.
    let worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let stack = Stack { ready: worker.json_line(), worker, client, nats };
    stack.wait_for_messages(&streams::results_stream(&model()), jobs).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_uses_no_processor_to_speak_of() {
    let stack = Stack::start().await;
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", stack.worker.id())).unwrap();
        let fields: Vec<u64> = stat.rsplit_once(')').unwrap().1.split(' ').filter_map(|f| f.parse().ok()).collect();
        // utime and stime, in hundredths of a second; the fields before them that are numbers are ten.
        fields[10] + fields[11]
    };
    // What is left of its start, and what it tests now and then, is not in most of these times.
    let mut used = [0; 5];
    for used in &mut used {
        let before = ticks();
        tokio::time::sleep(Duration::from_secs(3)).await;
        *used = ticks() - before;
    }
    used.sort_unstable();
    assert!(used[2] <= 6, "hundredths of a second of processor time in 3 s each: {used:?}");
}
