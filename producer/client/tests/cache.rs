//! What the client's cache of vectors promises: what is asked for once, what is never served, who waits for whom.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::Subscriber;
use bytes::Bytes;
use embed_client::{
    CallOptions, Client, ConnectSettings, EmbedRequest, EmbedResult, Encoding, Error, ErrorCode, Format, Item, Lane,
    Outcome, Slug, WireError,
    cache::{CacheSettings, CacheStats, CachedClient, SecondLevel},
};
use embed_schemas::{EmbedFailure, Timing, serving, subjects, wire};
use embed_testkit::{NatsServer, PATIENCE};
use futures::{StreamExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::task::JoinSet;

/// A worker of model `m` that says which space and version it serves, and writes down what it is asked for. Its vectors hold the length of the text
/// and the length of the space's name. Stops when dropped.
struct Model {
    now: Arc<Mutex<(String, String)>>,
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    _tasks: JoinSet<()>,
}

impl Model {
    async fn start(client: &Client, space: &str) -> Self {
        let now = Arc::new(Mutex::new((space.to_owned(), "v1".to_owned())));
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for subject in [subjects::bare(Lane::Rpc, &slug("m")), subjects::pinned(Lane::Rpc, &slug("m"), &slug("fp32"))] {
            let mut calls = client.nats().subscribe(subject).await.unwrap();
            let (now, asked, nats) = (Arc::clone(&now), Arc::clone(&asked), client.nats().clone());
            tasks.spawn(async move {
                while let Some(call) = calls.next().await {
                    let (request, format) = wire::decode_request(&call.payload, None).unwrap();
                    asked.lock().unwrap().push(request.texts.clone());
                    let (space, version) = now.lock().unwrap().clone();
                    let outcome = match request.texts.iter().any(|text| text == "bad") {
                        true => failure(&request, ErrorCode::UnknownPrompt),
                        false => made(&request, &space, &version),
                    };
                    nats.publish(call.reply.unwrap(), format.encode(&outcome)).await.unwrap();
                }
            });
        }
        let said = {
            let now = Arc::clone(&now);
            move || {
                let (space, version) = now.lock().unwrap().clone();
                ("fp32", status(&space, &version))
            }
        };
        says(&mut tasks, client, "w1", said).await;
        Self { now, asked, _tasks: tasks }
    }

    fn serve(&self, space: &str, version: &str) {
        *self.now.lock().unwrap() = (space.to_owned(), version.to_owned());
    }

    /// What it was asked for since the last time.
    fn asked(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Says of one variant of `m` how it stands.
async fn says(
    tasks: &mut JoinSet<()>,
    client: &Client,
    id: &'static str,
    said: impl Fn() -> (&'static str, serde_json::Value) + Send + 'static,
) {
    let nats = client.nats().clone();
    let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.unwrap();
    nats.flush().await.unwrap();
    tasks.spawn(async move {
        while let Some(info) = infos.next().await {
            let (variant, status) = said();
            let metadata = json!({format!("{}m.{variant}", serving::STATUS_PREFIX): status.to_string()});
            let body = json!({"name": subjects::SERVICE_NAME, "id": id, "metadata": metadata});
            nats.publish(info.reply.unwrap(), body.to_string().into()).await.unwrap();
        }
    });
}

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

async fn connect(server: &NatsServer) -> Client {
    let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
    Client::connect(&settings).await.unwrap()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn status(space: &str, version: &str) -> serde_json::Value {
    let live = json!({"version": version, "precision": "fp32", "provider": "cpu", "space": space, "since": ""});
    json!({"state": "live", "default": true, "wanted": "current", "live": live})
}

fn made(request: &EmbedRequest, space: &str, version: &str) -> Outcome {
    let rows = request.texts.iter().flat_map(|text| in_space(text, space)).flat_map(f32::to_le_bytes);
    Outcome::Result(EmbedResult {
        id: request.id.clone().unwrap(),
        model: slug("m"),
        variant: slug("fp32"),
        version: version.to_owned(),
        space: space.to_owned(),
        dim: 2,
        encoding: Encoding::F32,
        vectors: Bytes::from_iter(rows),
        items: request.texts.iter().map(|_| Item { tokens: 3, ..Item::default() }).collect(),
        timing: Timing::default(),
    })
}

fn failure(request: &EmbedRequest, code: ErrorCode) -> Outcome {
    Outcome::Failure(EmbedFailure { id: request.id.clone(), error: WireError::new(code, "no") })
}

fn in_space(text: &str, space: &str) -> [f32; 2] {
    [text.len() as f32, space.len() as f32]
}

fn options() -> CallOptions {
    CallOptions::default().timeout(PATIENCE)
}

fn cached(client: &Client) -> CachedClient {
    CachedClient::new(client.clone(), CacheSettings::default())
}

async fn embed(client: &CachedClient, texts: &[&str], options: &CallOptions) -> EmbedResult {
    let result = client.embed(&slug("m"), EmbedRequest::new(texts.iter().copied()), options).await.unwrap();
    assert_eq!(result.items.len(), texts.len());
    for (row, text) in texts.iter().enumerate() {
        assert_eq!(result.vector(row).unwrap(), in_space(text, &result.space), "{text}");
    }
    result
}

/// Asks until no worker is asked: what they serve is known.
async fn until_hit(client: &CachedClient, text: &str, options: &CallOptions) {
    until("what workers serve is known", async || {
        let before = client.stats().hits;
        embed(client, &[text], options).await;
        client.stats().hits > before
    })
    .await;
}

#[tokio::test]
async fn workers_are_asked_once_for_a_text_and_only_for_what_is_missing() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "s").await;
    let cached = cached(&client);
    until_hit(&cached, "a", &options()).await;
    model.asked();
    // From here on without what workers say of themselves, which takes its time.
    let options = options().space("s".to_owned());
    let before = cached.stats();
    embed(&cached, &["bb", "a", "ccc", "bb"], &options).await;
    assert_eq!(model.asked(), [["bb", "ccc"]]);
    let result = embed(&cached, &["ccc", "bb", "a"], &options).await;
    assert_eq!((result.space.as_str(), result.variant, result.version.as_str()), ("s", slug("fp32"), "v1"));
    assert_eq!(result.items[0].tokens, 3);
    assert!(model.asked().is_empty());
    let CacheStats { hits, misses, joined, entries, .. } = cached.stats();
    assert_eq!((hits - before.hits, misses - before.misses, joined - before.joined, entries), (4, 2, 1, 3));

    // Whatever makes another vector is another entry, and so is what somebody else has asked for.
    let request = EmbedRequest::new(["a"]);
    let others = [
        EmbedRequest { prompt: Some("query".into()), ..request.clone() },
        EmbedRequest { truncate: false, ..request.clone() },
        EmbedRequest { encoding: Some(Encoding::F16), ..request.clone() },
        EmbedRequest { dimensions: Some(1), ..request.clone() },
    ];
    for other in others {
        cached.embed(&slug("m"), other, &options).await.unwrap();
        assert_eq!(model.asked(), [["a"]]);
    }
    embed(&cached.scoped("other"), &["a"], &options).await;
    assert_eq!(model.asked(), [["a"]]);
}

/// Answers calls when the test wants it.
struct Held {
    calls: Subscriber,
    client: Client,
}

impl Held {
    async fn start(client: &Client) -> Self {
        let calls = client.nats().subscribe(subjects::bare(Lane::Rpc, &slug("m"))).await.unwrap();
        client.nats().flush().await.unwrap();
        Self { calls, client: client.clone() }
    }

    async fn next(&mut self) -> (EmbedRequest, async_nats::Subject) {
        let call = tokio::time::timeout(PATIENCE, self.calls.next()).await.unwrap().unwrap();
        (wire::decode_request(&call.payload, None).unwrap().0, call.reply.unwrap())
    }

    async fn answer(&self, to: async_nats::Subject, outcome: &Outcome) {
        self.client.nats().publish(to, Format::MessagePack.encode(outcome)).await.unwrap();
    }
}

fn ask(client: &CachedClient, texts: &[&'static str]) -> tokio::task::JoinHandle<Result<EmbedResult, Error>> {
    let (client, request) = (client.clone(), EmbedRequest::new(texts.iter().copied()));
    tokio::spawn(async move { client.embed(&slug("m"), request, &options()).await })
}

#[tokio::test]
async fn equal_texts_on_their_way_are_computed_once_whoever_goes_away() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let mut worker = Held::start(&client).await;
    let cached = cached(&client);
    let first = ask(&cached, &["a", "bb"]);
    let (request, reply) = worker.next().await;
    assert_eq!(request.texts, ["a", "bb"]);
    let second = ask(&cached, &["ccc", "bb"]);
    let (other, other_reply) = worker.next().await;
    assert_eq!(other.texts, ["ccc"], "bb is on its way");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let third = ask(&cached, &["bb"]);
    worker.answer(other_reply, &made(&other, "s", "v1")).await;
    worker.answer(reply, &made(&request, "s", "v1")).await;
    let second = second.await.unwrap().unwrap();
    assert_eq!([second.vector(0).unwrap(), second.vector(1).unwrap()], [in_space("ccc", "s"), in_space("bb", "s")]);
    third.await.unwrap().unwrap();
    assert_eq!((cached.stats().misses, cached.stats().joined), (3, 2));
}

#[tokio::test]
async fn an_error_is_neither_kept_nor_shared() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let mut worker = Held::start(&client).await;
    let cached = cached(&client);
    let first = ask(&cached, &["a"]);
    let (request, reply) = worker.next().await;
    let second = ask(&cached, &["bb", "a"]);
    let (other, other_reply) = worker.next().await;
    worker.answer(other_reply, &made(&other, "s", "v1")).await;
    worker.answer(reply, &failure(&request, ErrorCode::UnknownPrompt)).await;
    assert_eq!(first.await.unwrap().unwrap_err().code(), "unknown_prompt");
    let (again, reply) = worker.next().await;
    assert_eq!(again.texts, ["a"], "whoever waited asks for itself");
    worker.answer(reply, &made(&again, "s", "v1")).await;
    assert_eq!(second.await.unwrap().unwrap().vector(1).unwrap(), in_space("a", "s"));
    // Nor is the error of one text.
    let third = ask(&cached, &["long"]);
    let (request, reply) = worker.next().await;
    let Outcome::Result(mut result) = made(&request, "s", "v1") else { unreachable!("it embeds") };
    result.items[0].error = Some(WireError::new(ErrorCode::TextTooLong, "too long"));
    worker.answer(reply, &Outcome::Result(result)).await;
    assert!(third.await.unwrap().unwrap().vector(0).is_err());
    let fourth = CallOptions::default().timeout(PATIENCE).space("s".to_owned());
    let fourth = {
        let cached = cached.clone();
        tokio::spawn(async move { cached.embed(&slug("m"), EmbedRequest::new(["a", "long"]), &fourth).await })
    };
    let (request, reply) = worker.next().await;
    assert_eq!(request.texts, ["long"], "a is kept");
    worker.answer(reply, &made(&request, "s", "v1")).await;
    fourth.await.unwrap().unwrap().vector(1).unwrap();
}

#[tokio::test]
async fn what_was_answered_before_a_part_failed_is_not_lost_and_not_asked_for_again() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "s").await;
    let cached = cached(&client);
    let mut texts: Vec<String> = (1..=200).map(|n| "x".repeat(n)).collect();
    until_hit(&cached, &texts[3], &options()).await;
    texts[150] = "bad".to_owned();
    let error = cached.embed(&slug("m"), EmbedRequest::new(texts.clone()), &options()).await.unwrap_err();
    let Error::Incomplete { source, answered, texts: count } = error else { panic!("{error}") };
    assert_eq!((source.code(), count), ("unknown_prompt", 200));
    for part in &answered {
        for (row, text) in part.texts.clone().enumerate() {
            assert_eq!(part.result.vector(row).unwrap(), in_space(&texts[text], "s"));
        }
    }
    // 128 of those that were asked for, and the one that was there.
    assert_eq!(answered.iter().map(|part| part.texts.len()).sum::<usize>(), 129);
    model.asked();
    texts[150] = "good".to_owned();
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
    embed(&cached, &all, &options()).await;
    let again: Vec<String> = model.asked().concat();
    assert!(!again.contains(&texts[3]) && !again.contains(&texts[100]) && again.contains(&texts[150]));
}

#[tokio::test]
async fn no_vector_of_another_space_is_served() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "old").await;
    let cached = CachedClient::new(client.clone(), CacheSettings::default().max_staleness(Duration::from_millis(1500)));
    until_hit(&cached, "a", &options()).await;
    embed(&cached, &["bb"], &options()).await;
    model.serve("newer", "v2");
    // One answer tells: what is missing comes from the new space, so all is asked for anew.
    let result = embed(&cached, &["a", "ccc"], &options()).await;
    assert_eq!(result.space, "newer");
    assert_eq!(embed(&cached, &["bb"], &options()).await.space, "newer");
    // Without an answer, it is noticed in time.
    until_hit(&cached, "a", &options()).await;
    model.serve("old", "v1");
    let changed = std::time::Instant::now();
    until("the old space is served", async || embed(&cached, &["a"], &options()).await.space == "old").await;
    assert!(changed.elapsed() < PATIENCE / 2);
    // What was kept of it is good again.
    until_hit(&cached, "a", &options()).await;
    model.asked();
    embed(&cached, &["a", "bb"], &options().space("old".to_owned())).await;
    assert!(model.asked().is_empty());
    // Two spaces at once: whoever names none asks workers.
    let mut other = JoinSet::new();
    says(&mut other, &client, "w2", || ("next", status("newer", "v2"))).await;
    until("both are seen", async || {
        let before = cached.stats().hits;
        embed(&cached, &["a"], &options()).await;
        cached.stats().hits == before
    })
    .await;
    model.asked();
    embed(&cached, &["a"], &options()).await;
    assert_eq!(model.asked(), [["a"]]);
    let named = options().space("newer".to_owned());
    assert_eq!(embed(&cached, &["a", "ccc"], &named).await.space, "newer");
    assert!(model.asked().is_empty(), "a vector of a space is one for ever");
}

/// A rollout: another version of the same space.
#[tokio::test]
async fn a_variant_that_is_named_has_the_vectors_of_its_version() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "s").await;
    let cached = CachedClient::new(client.clone(), CacheSettings::default().max_staleness(Duration::from_millis(1500)));
    let pinned = options().variant(slug("fp32"));
    until_hit(&cached, "a", &options()).await;
    until_hit(&cached, "a", &pinned).await;
    model.serve("s", "v2");
    until("the new version answers", async || embed(&cached, &["a"], &pinned).await.version == "v2").await;
    // Vectors of one space stand for each other.
    let before = cached.stats().misses;
    assert_eq!(embed(&cached, &["a"], &options().space("s".to_owned())).await.space, "s");
    assert_eq!(cached.stats().misses, before);
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let _model = Model::start(&client, "s").await;
    let room = 100_000;
    let cached = CachedClient::new(client.clone(), CacheSettings::default().max_bytes(room));
    let texts: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
    for texts in texts.chunks(500) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        embed(&cached, &texts, &options()).await;
    }
    let CacheStats { entries, bytes, .. } = cached.stats();
    assert!(bytes <= room && bytes > room / 2 && entries < 500, "{entries} entries, {bytes} bytes");
}

/// Lists that overlap, asked for by many, while the model goes from space to space: every result is of one space, and every vector in it is the one
/// that this space has of its text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_every_result_is_of_one_space() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "s").await;
    let cached = CachedClient::new(client.clone(), CacheSettings::default().max_staleness(Duration::from_millis(1000)));
    let texts: Vec<String> = (1..40).map(|n| "x".repeat(n)).collect();
    let swaps = Arc::new(AtomicUsize::new(0));
    let asker = |seed: u64| {
        let (cached, texts, swaps) = (cached.clone(), texts.clone(), Arc::clone(&swaps));
        tokio::spawn(async move {
            let mut random = SmallRng::seed_from_u64(seed);
            while swaps.load(Ordering::Relaxed) < 4 {
                let some: Vec<&str> = (0..random.random_range(1..12))
                    .map(|_| texts[random.random_range(0..texts.len())].as_str())
                    .collect();
                // Some go away before they are answered.
                let patience = if random.random_bool(0.1) { Duration::from_micros(300) } else { PATIENCE };
                let _ = tokio::time::timeout(patience, embed(&cached, &some, &options())).await;
                // What is found is there at once: others would never have a turn.
                tokio::task::yield_now().await;
            }
        })
    };
    let askers: Vec<_> = (0..6).map(asker).collect();
    while swaps.load(Ordering::Relaxed) < 4 {
        // Each time until something was found, so that there is something to be wrong with.
        let before = cached.stats().hits;
        until("something is found", async || {
            assert!(!askers.iter().any(tokio::task::JoinHandle::is_finished), "an asker has failed");
            cached.stats().hits > before + 100
        })
        .await;
        let next = swaps.load(Ordering::Relaxed) + 1;
        model.serve(&"s".repeat(1 + next % 3), "v1");
        swaps.store(next, Ordering::Relaxed);
    }
    for asker in askers {
        asker.await.unwrap();
    }
    assert!(cached.stats().joined > 0);
}

/// A level below that has what it was given.
#[derive(Debug, Default)]
struct Below {
    kept: Mutex<Vec<(String, EmbedResult)>>,
    asked: Mutex<Vec<Vec<String>>>,
}

impl SecondLevel for Below {
    fn find<'a>(
        &'a self,
        _: &'a Slug,
        space: &'a str,
        request: &'a EmbedRequest,
    ) -> BoxFuture<'a, Vec<Option<EmbedResult>>> {
        self.asked.lock().unwrap().push(request.texts.clone());
        let kept = self.kept.lock().unwrap();
        let of = |text: &String| kept.iter().find(|(kept, result)| kept == text && result.space == space);
        let found = request.texts.iter().map(|text| of(text).map(|(_, result)| result.clone())).collect();
        Box::pin(std::future::ready(found))
    }

    fn keep(&self, _: &Slug, request: &EmbedRequest, result: &EmbedResult) {
        for text in &request.texts {
            let Outcome::Result(one) = made(
                &EmbedRequest { texts: vec![text.clone()], id: Some(result.id.clone()), ..request.clone() },
                &result.space,
                "v1",
            ) else {
                unreachable!("vectors are made")
            };
            self.kept.lock().unwrap().push((text.clone(), one));
        }
    }
}

#[tokio::test]
async fn what_is_kept_below_is_asked_for_before_workers_are() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let model = Model::start(&client, "s").await;
    let below = Arc::new(Below::default());
    let over = |client: &Client| cached(client).above(Arc::<Below>::clone(&below));
    let first = over(&client);
    embed(&first, &["a", "bb"], &options()).await;
    assert!(below.asked.lock().unwrap().is_empty(), "it is not known which space a new vector would be of");
    assert_eq!(below.kept.lock().unwrap().len(), 2);
    // Another process, in the same space, and then in another.
    let second = over(&client);
    let in_s = options().space("s".to_owned());
    model.asked();
    embed(&second, &["ccc", "bb", "a"], &in_s).await;
    assert_eq!((model.asked(), second.stats().stored), (vec![vec!["ccc".to_owned()]], 2));
    embed(&second, &["a", "ccc", "bb"], &in_s).await;
    assert_eq!(below.asked.lock().unwrap().len(), 1, "what was found is in memory");
    assert!(model.asked().is_empty());
    embed(&over(&client), &["a"], &options().variant(slug("fp32"))).await;
    assert_eq!((model.asked().len(), below.kept.lock().unwrap().len()), (1, 3), "who names a variant gets its own");
    model.serve("other", "v2");
    let third = over(&client);
    until_hit(&third, "x", &options()).await;
    let result = embed(&third, &["bb"], &options()).await;
    assert_eq!((result.space.as_str(), third.stats().stored), ("other", 0));
}
