//! Stopping: no call is lost, no job is lost, and it ends in time, whatever is the matter.

use std::{
    fs,
    process::Command,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use crate::support::{
    Stack,
    fake::{Devices, FakeWorker, server},
    model,
    registry::{FIRST, SECOND, remark},
    worker_command,
};
use async_nats::{Client, HeaderMap};
use bytesize::ByteSize;
use embed_engine::settings::Provider;
use embed_schemas::{EmbedRequest, ErrorCode, Format, Lane, streams, subjects, wire::decode_outcome};
use embed_testkit::{Daemon, NatsServer, PATIENCE, Relay, TestRegistry};
use embed_worker::config::VariantConfig;

/// A worker behind a line to the server.
fn behind(relay: &Relay, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    let server = format!("nats://{}", relay.address());
    command.args(["run", "--server", &server, "--metrics-addr", "127.0.0.1:0", "--json"]).args(more);
    command.env("EMBED_REGISTRY", embed_testkit::registry());
    command
}

async fn call(client: Client, subject: String, text: String) -> Result<(), ErrorCode> {
    let payload = Format::MessagePack.encode(&EmbedRequest::new([text]));
    let request = async_nats::Request::new().payload(payload).inbox(client.new_inbox()).timeout(Some(PATIENCE));
    // Nobody answers a call that is lost, for as long as a test waits.
    let answer = client.send_request(subject, request).await.expect("an answer");
    decode_outcome(&answer.payload).unwrap().into_result().map(|_| ()).map_err(|error| error.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_stops_and_no_call_is_lost_on_a_slow_line() {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    crate::support::provision(&client, &streams::StreamSettings::default()).await;
    let relay = Relay::start(nats.address());
    relay.slow_down(Duration::from_millis(50));
    let stops = Daemon::spawn(&mut behind(&relay, &[]));
    let stays = Daemon::spawn(&mut worker_command(&nats, &[]));
    stops.json_line();
    stays.json_line();
    // 100 calls a second, whatever becomes of those before.
    let (mut calls, mut ticks) = (Vec::new(), tokio::time::interval(Duration::from_millis(10)));
    for n in 0..300 {
        ticks.tick().await;
        if n == 150 {
            stops.signal(libc::SIGTERM);
        }
        calls.push(tokio::spawn(call(client.clone(), subjects::bare(Lane::Rpc, &model()), format!("call {n}"))));
    }
    let mut stops = stops;
    let (status, log) = stops.wait();
    assert!(status.success(), "{log}");
    for call in calls {
        match tokio::time::timeout(PATIENCE, call).await.expect("no call is lost").unwrap() {
            Ok(()) | Err(ErrorCode::Overloaded | ErrorCode::ShuttingDown) => {}
            Err(code) => panic!("{code}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_worker_at_once() {
    let stack = Stack::start().await;
    let text = "a text of some length, so that it takes a while, and then a while more ".repeat(10);
    for n in 0..30 {
        let texts = (0..16).map(|i| format!("{n} {i} {text}"));
        stack.publish_raw(Lane::Bulk, HeaderMap::new(), Format::MessagePack.encode(&EmbedRequest::new(texts))).await;
    }
    while stack.worker_metric("akidb_leases_held").await < 10.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Stack { mut worker, client, nats, .. } = stack;
    worker.signal(libc::SIGTERM);
    worker.wait_for_log("stopping: finishing");
    let started = Instant::now();
    worker.signal(libc::SIGTERM);
    let (_, log) = worker.wait();
    assert!(started.elapsed() < Duration::from_secs(20), "not after the 25 s that it has to drain");
    assert!(log.contains("these jobs go back"), "{log}");
    // What it gave back is there at once, not after the server has waited for it.
    let worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let stack = Stack { ready: worker.json_line(), worker, client, nats };
    stack.wait_for_messages(&streams::results_stream(&model()), 30).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_it_ends_within_the_time_to_drain() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[worker]\ndrain_timeout = \"4s\"\n").unwrap();
    let stack = Stack::start_with("", &["--config", file.to_str().unwrap()]).await;
    let text = "a text of some length, so that it takes a while, and then a while more ".repeat(10);
    for n in 0..50 {
        let texts = (0..16).map(|i| format!("{n} {i} {text}"));
        stack.publish_raw(Lane::Job, HeaderMap::new(), Format::MessagePack.encode(&EmbedRequest::new(texts))).await;
    }
    while stack.worker_metric("akidb_leases_held").await < 2.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Stack { mut worker, mut nats, .. } = stack;
    nats.kill();
    worker.wait_for_log("NATS connection");
    let started = Instant::now();
    worker.signal(libc::SIGTERM);
    let (_, log) = worker.wait();
    // It never ended before.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}: {log}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_version_are_told_that_the_worker_stops() {
    let (nats, client) = server().await;
    let second = "second".parse().unwrap();
    crate::support::provision_variant(&client, &second, &streams::StreamSettings::default()).await;
    let registry = TestRegistry::new();
    registry.derive(SECOND, |folder, metadata| remark(folder, metadata, "the second"));
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start_with(&nats, &devices, &[Provider::Cuda], |config| {
        // Room for one of them: the second is loaded when it is asked for.
        config.models.memory_budget = Some(ByteSize::mb(300));
        config.models.stay_loaded = Duration::ZERO;
        let variant = |name: &str, version: &str| VariantConfig {
            name: Some(name.to_owned()),
            version: version.to_owned(),
            ..VariantConfig::of("all-minilm-l6-v2".to_owned())
        };
        config.variant = vec![variant("fp32", FIRST), variant("second", SECOND)];
    });
    worker.ready().await;
    let (tell, told) = mpsc::channel();
    *devices.loading.lock().unwrap() = Some(told);
    let subject = subjects::pinned(Lane::Rpc, &model(), &second);
    let calls: Vec<_> =
        (0..10).map(|n| tokio::spawn(call(client.clone(), subject.clone(), format!("waits {n}")))).collect();
    while devices.loading.lock().unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.stop().await.unwrap();
    drop(tell);
    for call in calls {
        let code = tokio::time::timeout(PATIENCE, call).await.expect("an answer").unwrap().unwrap_err();
        assert_eq!(code, ErrorCode::ShuttingDown);
    }
}
