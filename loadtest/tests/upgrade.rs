//! From the first version to this one, with work waiting and coming in: streams as the first `embed init` made them, what lies in them as the first
//! programs wrote it, and workers that are replaced one after the other.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use base64::{Engine, prelude::BASE64_STANDARD};
use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest, PublishOptions};
use embed_schemas::{Format, Lane, Outcome, Slug, streams, subjects};
use embed_testkit::{Daemon, NatsServer, PATIENCE, TestRegistry, model_registry::FIRST, registry, repository};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{
    Stack, embed,
    first_worker::{FirstWorker, Vectors},
};

const MODEL: &str = "all-minilm-l6-v2";

fn model() -> Slug {
    MODEL.parse().unwrap()
}

/// What is kept of earlier versions.
fn kept(name: &str) -> Value {
    let path = repository().join("schemas/golden/kept").join(name);
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).unwrap()
}

/// The streams and consumers of the first version, and a few messages of it.
async fn as_the_first_version_left_it(context: &jetstream::Context) {
    let made = kept("streams-2026-11-24.json");
    for stream in made["streams"].as_array().unwrap() {
        let answer: Value =
            context.request(format!("STREAM.CREATE.{}", stream["name"].as_str().unwrap()), stream).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    let jobs = streams::jobs_stream(&model());
    for consumer in made["consumers"].as_array().unwrap() {
        let name = consumer["durable_name"].as_str().unwrap();
        let body = serde_json::json!({"stream_name": jobs, "config": consumer});
        let answer: Value = context.request(format!("CONSUMER.DURABLE.CREATE.{jobs}.{name}"), &body).await.unwrap();
        assert!(answer["error"].is_null(), "{answer}");
    }
    for message in kept("messages-2026-11-24.json").as_array().unwrap() {
        let mut headers = HeaderMap::new();
        for (name, value) in message["headers"].as_object().unwrap() {
            headers.insert(name.as_str(), value.as_str().unwrap());
        }
        let subject = message["subject"].as_str().unwrap().to_owned();
        context.publish_with_headers(subject, headers, payload(message).into()).await.unwrap().await.unwrap();
    }
}

/// The bytes of a kept message.
fn payload(message: &Value) -> Vec<u8> {
    match &message["payload_base64"] {
        Value::String(text) => BASE64_STANDARD.decode(text).unwrap(),
        _ => message["payload"].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// Texts whose vectors are known, and the space.
fn golden() -> (Vectors, Vec<String>) {
    let golden = TestRegistry::new().golden(FIRST);
    let texts = golden.iter().map(|(text, _)| text.clone()).collect();
    let metadata = registry().join("models").join(MODEL).join(FIRST).join("metadata.json");
    let metadata: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    let vectors: HashMap<_, _> = golden.into_iter().collect();
    (Arc::new((vectors, metadata["space"].as_str().unwrap().to_owned())), texts)
}

/// Calls and jobs that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Vec<JoinHandle<usize>>,
    jobs: Vec<JoinHandle<Vec<String>>>,
    /// Calls that were answered so far, and jobs that were published.
    done: Arc<[AtomicUsize; 2]>,
}

impl Load {
    fn start(client: &Client, vectors: &Vectors, texts: &[String]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
        let calls = (0..3)
            .map(|n| {
                let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
                let (vectors, texts) = (Arc::clone(vectors), texts.to_vec());
                tokio::spawn(call_again_and_again(client, n, vectors, texts, stop, done))
            })
            .collect();
        let jobs = Lane::STORED
            .map(|lane| {
                let (client, stop, done) = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
                tokio::spawn(publish_again_and_again(client, lane, texts.to_vec(), stop, done))
            })
            .into();
        Self { stop, calls, jobs, done }
    }

    /// Waits until there was more of both: whatever has changed, it has met it.
    async fn goes_on(&self, after: &str) {
        let before = [0, 1].map(|n| self.done[n].load(Ordering::SeqCst));
        let more = async {
            while (0..2).any(|n| self.done[n].load(Ordering::SeqCst) < before[n] + 10) {
                // Whoever has failed is to be heard of, and not waited for.
                assert!(
                    !self.calls.iter().any(JoinHandle::is_finished) && !self.jobs.iter().any(JoinHandle::is_finished)
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let is_in_time = tokio::time::timeout(PATIENCE, more).await.is_ok();
        assert!(is_in_time, "{after}: calls and jobs do not go on: {before:?}, {:?}", self.done);
    }

    /// Ids of all jobs.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut answered = 0;
        for task in self.calls {
            answered += task.await.unwrap();
        }
        assert!(answered > 100, "{answered}");
        let mut ids = Vec::new();
        for task in self.jobs {
            ids.extend(task.await.unwrap());
        }
        ids
    }
}

async fn call_again_and_again(
    client: Client,
    first: usize,
    vectors: Vectors,
    texts: Vec<String>,
    stop: Arc<AtomicBool>,
    done: Arc<[AtomicUsize; 2]>,
) -> usize {
    let options = CallOptions::default().timeout(PATIENCE);
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let text = &texts[(first + n) % texts.len()];
        let answer = client.embed(&model(), EmbedRequest::new([text.clone()]), &options).await;
        let result = answer.unwrap_or_else(|error| panic!("call {n} failed: {error}"));
        let (found, wanted) = (result.vector(0).unwrap(), &vectors.0[text]);
        let cosine: f32 = found.iter().zip(wanted).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{text}: {cosine}");
        n += 1;
        done[0].fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    n
}

async fn publish_again_and_again(
    client: Client,
    lane: Lane,
    texts: Vec<String>,
    stop: Arc<AtomicBool>,
    done: Arc<[AtomicUsize; 2]>,
) -> Vec<String> {
    let options = PublishOptions::default().timeout(PATIENCE);
    let mut ids = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let id = format!("live-{lane}-{}", ids.len());
        let text = texts[ids.len() % texts.len()].clone();
        let request = EmbedRequest { id: Some(id.parse().unwrap()), ..EmbedRequest::new([text]) };
        client.publish(&model(), lane, request, &options).await.unwrap();
        ids.push(id);
        done[1].fetch_add(1, Ordering::SeqCst);
        // Less than what one worker gets done, beside the calls, on slow cores.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    ids
}

/// Replaces one worker: the new one is ready before the old one stops.
async fn replace(nats: &NatsServer, old: Daemon) -> Daemon {
    let new = Stack::start_worker(nats);
    let (status, log) = tokio::task::spawn_blocking(move || old.terminate()).await.unwrap();
    assert!(status.success(), "{log}");
    new
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_are_replaced_one_after_the_other_and_streams_are_brought_up_to_date_under_load() {
    let nats = NatsServer::start();
    let settings = ConnectSettings { server: Some(nats.url()), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.unwrap();
    let context = jetstream::new(client.nats().clone());
    as_the_first_version_left_it(&context).await;
    let (vectors, texts) = golden();

    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(FirstWorker::start(&nats.url(), &model(), &vectors).await);
    }
    let load = Load::start(&client, &vectors, &texts);
    load.goes_on("old workers").await;
    // Old and new side by side, on the streams of before.
    let mut workers = Vec::new();
    for first in old {
        workers.push(Stack::start_worker(&nats));
        load.goes_on("old and new").await;
        first.stop().await;
        load.goes_on("without an old one").await;
    }
    // The streams, once nobody is left who stores results as it was done before.
    let check = embed(&nats).args(["init", "--check"]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(said.contains("subject_transform") && said.contains("EMBED_DEAD_"), "{said}");
    for arguments in [&["init"][..], &["init", "--check"]] {
        let output = embed(&nats).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    load.goes_on("streams of now").await;
    // And once more, as from this version to the next.
    let mut newest = Vec::new();
    for worker in workers {
        newest.push(replace(&nats, worker).await);
        load.goes_on("new and newest").await;
    }

    let ids = load.end().await;
    all_are_there_once(&client, &context, &ids).await;
    what_was_there_is_read(&nats, &client).await;
}

/// Every job has one outcome, and none is left.
async fn all_are_there_once(client: &Client, context: &jetstream::Context, ids: &[String]) {
    for id in ids {
        let outcome = client.result(&model(), &id.parse().unwrap(), PATIENCE).await.unwrap();
        assert!(matches!(outcome, Outcome::Result(_)), "{id}: {outcome:?}");
    }
    let jobs = context.get_stream(streams::jobs_stream(&model())).await.unwrap();
    let empty = async {
        while jobs.get_info().await.unwrap().state.messages > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("nothing is left");
    let results = context.get_stream(streams::results_stream(&model())).await.unwrap();
    let of_before = kept("messages-2026-11-24.json");
    let before = of_before.as_array().unwrap().iter().filter(|one| {
        let subject = one["subject"].as_str().unwrap();
        !subject.starts_with("embed.dead.")
    });
    // The jobs of before have outcomes now, and what were outcomes are still there.
    assert_eq!(results.get_info().await.unwrap().state.messages as usize, ids.len() + before.count());
}

/// Jobs that waited have results, results are found, and dead letters are listed and can be sent once more.
async fn what_was_there_is_read(nats: &NatsServer, client: &Client) {
    for id in ["kept-job", "kept-bulk", "job-1"] {
        let outcome = client.result(&model(), &id.parse().unwrap(), PATIENCE).await.unwrap();
        let Outcome::Result(result) = outcome else { panic!("{id}: {outcome:?}") };
        assert!(!result.vectors.is_empty(), "{id}");
    }
    let failed = client.result(&model(), &"kept-failure".parse().unwrap(), PATIENCE).await.unwrap();
    assert!(matches!(failed, Outcome::Failure(_)), "{failed:?}");
    let list = embed(nats).args(["dead", "list", "--json"]).output().unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    let letters: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 1, "{text}");
    assert_eq!((&letters[0]["code"], &letters[0]["id"]), (&"engine_failed".into(), &"kept-failure".into()), "{text}");
    let retried = embed(nats).args(["dead", "retry", "kept-failure"]).output().unwrap();
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    let outcome = client.result(&model(), &"kept-failure".parse().unwrap(), PATIENCE).await.unwrap();
    assert!(matches!(outcome, Outcome::Result(_)), "{outcome:?}");
}

/// The bytes of the first version's messages are those of now: what they say is not only read, it is written so.
#[test]
fn what_the_first_version_published_is_what_this_one_publishes() {
    for message in kept("messages-2026-11-24.json").as_array().unwrap() {
        let subject = message["subject"].as_str().unwrap();
        let payload = payload(message);
        let format = Format::sniff(&payload).unwrap();
        let again = if subject.starts_with("embed.result.") {
            format.encode(&embed_schemas::wire::decode_outcome(&payload).unwrap())
        } else {
            format.encode(&embed_schemas::wire::decode_request(&payload, None).unwrap().0)
        };
        assert_eq!(again, payload, "{subject}");
    }
    assert_eq!(subjects::bare(Lane::Job, &model()), "embed.job.all-minilm-l6-v2");
}
