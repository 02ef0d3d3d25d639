//! A registry behind a network: it goes away in the middle of a download, and while a worker starts.

use std::{path::Path, process::Command};

use crate::support::{
    Stack, model, provision,
    registry::{FIRST, TestRegistry, remark},
    worker_command,
};
use async_nats::Client;
use embed_schemas::{EmbedRequest, Format, streams::StreamSettings};
use embed_testkit::{Daemon, NatsServer, Relay, S3Server};

const REGISTRY: &str = "s3://models/registry";

fn models(settings: &[(String, String)], arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.arg("models").args(arguments).env("EMBED_REGISTRY", REGISTRY).envs(settings.iter().cloned());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn worker(nats: NatsServer, client: Client, settings: &[(String, String)], cache: &Path) -> Stack {
    let mut command = worker_command(&nats, &[]);
    command.env("EMBED_REGISTRY", REGISTRY).envs(settings.iter().cloned());
    command.env("EMBED_WORKER__MODELS__CACHE_DIR", cache);
    let worker = Daemon::spawn(&mut command);
    let ready = worker.json_line();
    Stack { client, worker, ready, nats }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_go_away_during_a_download_and_before_a_start() {
    let local = TestRegistry::new();
    let second = "v1.0.1";
    local.derive(second, |folder, metadata| remark(folder, metadata, "another file"));
    let s3 = S3Server::start();
    s3.make_bucket("models");
    let direct = S3Server::settings(&s3.address());
    for version in [FIRST, second] {
        models(&direct, &["publish", local.version(version).to_str().unwrap()]);
    }
    models(&direct, &["promote", model().as_str(), FIRST]);

    let relay = Relay::start(s3.address());
    let through = S3Server::settings(relay.address());
    let cache = tempfile::tempdir().unwrap();
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings::default()).await;
    let stack = worker(nats, client, &through, cache.path());
    assert_eq!(stack.status().await.live.unwrap().version, FIRST);

    // It goes away when a third of the other version is here.
    models(&direct, &["promote", model().as_str(), second]);
    relay.go_down_after(30_000_000);
    let status = stack.status_when(|status| status.failed.as_ref().is_some_and(|f| f.version == second)).await;
    assert_eq!(status.live.unwrap().version, FIRST);
    assert_eq!(stack.call(&EmbedRequest::new(["a"]), Format::Json).await.unwrap().version, FIRST);

    // When it is back, only the rest is fetched.
    let before = relay.answered();
    relay.mend();
    stack.status_when(|status| status.live.as_ref().is_some_and(|live| live.version == second)).await;
    let fetched = relay.answered() - before;
    assert!(fetched < 70_000_000, "{fetched} bytes more");

    // A worker that starts while it is away has all it needs.
    relay.go_down();
    let Stack { client, worker: first, nats, .. } = stack;
    assert!(first.terminate().0.success());
    let stack = worker(nats, client, &through, cache.path());
    assert_eq!(stack.call(&EmbedRequest::new(["a"]), Format::Json).await.unwrap().version, second);
    assert!(stack.worker.log().contains("the registry does not answer"), "{}", stack.worker.log());
}
