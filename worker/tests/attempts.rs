//! Deliveries are not attempts: what counts against a job is what it did, not what happened to its worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use crate::support::{Stack, model, provision, relayed_command, variant, worker_command};
use async_nats::{
    Client, HeaderMap,
    jetstream::{self, AckKind, consumer::PullConsumer},
};
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, JobId, Lane, Outcome, headers,
    streams::{self, StreamSettings},
    subjects,
};
use embed_testkit::{Daemon, NatsServer, PATIENCE, Relay, Stopped};
use futures::StreamExt;
use tempfile::TempDir;

/// A configuration with so many attempts.
fn attempts(most: u64) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, format!("[limits]\nmax_deliveries = {most}\n")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

/// A job that takes about a second.
fn slow(id: &str) -> EmbedRequest {
    let text = "a long sentence about nothing in particular that goes on and on ".repeat(16);
    let texts = (0..16).map(|n| format!("{n} {text}"));
    EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new(texts) }
}

async fn publish(stack: &Stack, lane: Lane, request: &EmbedRequest) {
    stack.publish_raw(lane, HeaderMap::new(), Format::MessagePack.encode(request)).await;
}

/// SIGKILL, and another worker in its place.
fn kill(stack: Stack, config: &str) -> Stack {
    let Stack { worker, nats, client, .. } = stack;
    worker.kill();
    let worker = Daemon::spawn(&mut worker_command(&nats, &["--config", config]));
    Stack { ready: worker.json_line(), worker, nats, client }
}

/// The ids of all dead letters, with the attempts that they name.
async fn dead(stack: &Stack) -> BTreeMap<String, u64> {
    let context = jetstream::new(stack.client.clone());
    let stream = context.get_stream(streams::dead_stream(&model())).await.unwrap();
    let mut dead = BTreeMap::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let letter = stream.get_raw_message(sequence).await.unwrap();
        let request: EmbedRequest = rmp_serde::from_slice(&letter.payload).unwrap();
        let attempts = letter.headers.get(headers::DEAD_ATTEMPTS).unwrap().as_str().parse().unwrap();
        dead.insert(request.id.unwrap().to_string(), attempts);
    }
    dead
}

#[tokio::test(flavor = "multi_thread")]
async fn innocents_of_a_worker_that_is_killed_are_no_dead_letters() {
    let (_folder, config) = attempts(2);
    let mut stack = Stack::start_with("", &["--config", &config]).await;
    let mut notes = stack.client.subscribe("embed.attempts.>").await.unwrap();
    for n in 0..40 {
        publish(&stack, Lane::Job, &slow(&format!("innocent-{n}"))).await;
    }
    let results = streams::results_stream(&model());
    for kills in 1..=3 {
        // It has many, and some are done.
        while stack.messages_in(&results).await < kills {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stack = kill(stack, &config);
    }
    stack.wait_for_messages(&results, 40).await;
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    // Each kill may have hit one that ran alone. The first kill was before any did.
    let dead = dead(&stack).await;
    assert!(dead.len() <= 2, "{dead:?}");
    let mut alone = BTreeSet::new();
    while let Ok(Some(note)) = tokio::time::timeout(Duration::from_millis(100), notes.next()).await {
        alone.insert(note.subject.to_string());
    }
    assert!(!alone.is_empty(), "what was redelivered ran alone");
    assert!(dead.values().all(|attempts| *attempts >= 2), "{dead:?}");
}

/// A worker whose outcome of the job `poison` is stopped on its way to the server: however late it is killed, the job has not come to its end.
struct Poisoned {
    relay: Relay,
    outcome: Stopped,
    stack: Stack,
}

impl Poisoned {
    fn start(nats: NatsServer, client: Client, config: &str) -> Self {
        let relay = Relay::start(nats.address());
        let outcome = relay.stop_at(&format!("embed.store.{}.poison ", model()), 1);
        let worker = Daemon::spawn(&mut relayed_command(&relay, &["--config", config]));
        let ready = worker.json_line();
        Self { relay, outcome, stack: Stack { client, worker, ready, nats } }
    }

    /// SIGKILL, and another one in its place.
    fn kill(self, config: &str) -> Self {
        let Self { relay, outcome, stack: Stack { worker, nats, client, .. } } = self;
        worker.kill();
        // What it had sent so far is lost with it.
        relay.go_down();
        outcome.pass();
        Self::start(nats, client, config)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_is_found_alone_and_its_neighbours_are_stored() {
    let (_folder, config) = attempts(3);
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings { ack_wait_ms: 2_000, ..StreamSettings::default() }).await;
    let mut poisoned = Poisoned::start(nats, client, &config);
    let neighbours = 20;
    publish(&poisoned.stack, Lane::Bulk, &slow("poison")).await;
    for n in 0..neighbours {
        publish(&poisoned.stack, Lane::Bulk, &slow(&format!("neighbour-{n}"))).await;
    }
    // In company, it kills its worker once.
    while poisoned.stack.worker_metric("akidb_leases_held").await < 2.0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // From now on it dies whenever the poison runs: it runs alone, and that is written down before. Who listens first misses no note.
    let subject = subjects::attempts(&model(), "1-");
    let mut notes = poisoned.stack.client.subscribe("embed.attempts.>").await.unwrap();
    poisoned.stack.client.flush().await.unwrap();
    poisoned = poisoned.kill(&config);
    let mut kills = 1;
    let dead_stream = streams::dead_stream(&model());
    loop {
        if let Ok(Some(note)) = tokio::time::timeout(Duration::from_millis(50), notes.next()).await {
            let begun = serde_json::from_slice::<serde_json::Value>(&note.payload).unwrap()["begun"] != 0;
            if note.subject.starts_with(&subject) && begun {
                kills += 1;
                assert!(kills <= 3, "it is found within the attempts that it has");
                poisoned = poisoned.kill(&config);
            }
        } else if poisoned.stack.messages_in(&dead_stream).await > 0 {
            // It is found: what is stored of it from here on is that.
            break;
        }
    }
    let Poisoned { relay: _relay, outcome, stack } = poisoned;
    outcome.pass();
    stack.wait_for_messages(&streams::results_stream(&model()), neighbours + 1).await;
    let error = stack.stored(&"poison".parse().unwrap()).await.into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::TooManyDeliveries);
    assert_eq!(dead(&stack).await.keys().collect::<Vec<_>>(), ["poison"]);
    for n in 0..neighbours {
        let id: JobId = format!("neighbour-{n}").parse().unwrap();
        assert!(matches!(stack.stored(&id).await, Outcome::Result(_)), "{id}");
    }
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
}

/// What a worker's pulls for a lane come from.
async fn consumer_of(client: &Client, lane: Lane) -> PullConsumer {
    let stream = jetstream::new(client.clone()).get_stream_no_info(streams::jobs_stream(&model())).await.unwrap();
    stream.get_consumer(&streams::consumer(&variant(), lane)).await.unwrap()
}

/// Publishes a job and has it delivered so often, to nobody who does anything with it.
async fn deliver(client: &Client, lane: Lane, id: &str, times: usize) {
    let request = EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new([id]) };
    let (subject, payload) = (subjects::bare(lane, &model()), Format::MessagePack.encode(&request));
    jetstream::new(client.clone()).publish(subject, payload).await.unwrap().await.unwrap();
    let consumer = consumer_of(client, lane).await;
    for _ in 0..times {
        let mut messages = consumer.batch().max_messages(1).expires(PATIENCE).messages().await.unwrap();
        let message = messages.next().await.unwrap().unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_back_while_its_attempts_cannot_be_read_and_not_for_ever() {
    let refused = format!("$JS.API.DIRECT.GET.{}.>", streams::ATTEMPTS_STREAM);
    let nats = NatsServer::start_with(&format!(
        "accounts {{ A: {{ jetstream: enabled, users: [ {{user: all, password: p}}, \
         {{user: worker, password: p, permissions: {{ publish: {{ deny: [{refused:?}] }} }} }} ] }} }}\nno_auth_user: all"
    ));
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, &StreamSettings::default()).await;
    deliver(&client, Lane::Job, "often", 50).await;
    deliver(&client, Lane::Bulk, "once", 1).await;
    let worker = Daemon::spawn(worker_command(&nats, &["--user", "worker"]).env("NATS_PASSWORD", "p"));
    let stack = Stack { ready: worker.json_line(), worker, nats, client };
    // Whoever never gets an answer has to go on at some time.
    assert!(matches!(stack.stored(&"often".parse().unwrap()).await, Outcome::Result(_)));
    // What has hardly been tried may have killed a worker: it goes back, and comes again.
    let results = streams::results_stream(&model());
    let mut consumer = consumer_of(&stack.client, Lane::Bulk).await;
    while consumer.info().await.unwrap().delivered.consumer_sequence < 3 {
        assert_eq!(stack.messages_in(&results).await, 1, "it was not run");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let another = Daemon::spawn(&mut worker_command(&stack.nats, &[]));
    another.json_line();
    assert!(matches!(stack.stored(&"once".parse().unwrap()).await, Outcome::Result(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_back_at_shutdown_counts_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[limits]\nmax_deliveries = 1\n[worker]\ndrain_timeout = \"1s\"\n").unwrap();
    let config = file.to_str().unwrap();
    let mut stack = Stack::start_with("", &["--config", config]).await;
    for n in 0..24 {
        publish(&stack, Lane::Job, &slow(&format!("handed-{n}"))).await;
    }
    for _ in 0..4 {
        while stack.worker_metric("akidb_leases_held").await < 2.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let Stack { worker, nats, client, .. } = stack;
        let (status, log) = worker.terminate();
        assert!(status.success(), "{log}");
        let worker = Daemon::spawn(&mut worker_command(&nats, &["--config", config]));
        stack = Stack { ready: worker.json_line(), worker, nats, client };
    }
    stack.wait_for_messages(&streams::results_stream(&model()), 24).await;
    assert!(dead(&stack).await.is_empty());
}
