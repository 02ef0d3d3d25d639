//! Vectors that were made before: found by whoever has asked for them, and told in the figures.

use embed_testkit::NatsServer;
use serde_json::json;

use crate::support::{Worker, command, connect, spawn, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_finds_what_it_has_asked_for_and_no_other_key_does() {
    let server = NatsServer::start();
    let worker = Worker::start(&connect(&server).await, "m").await;
    let mut command = command(&server.url(), &["--cache=1MiB"]);
    let (_gateway, http) = spawn(command.env("EMBED_GATEWAY_KEYS", "one=the-key-of-one,two=the-key-of-two"));
    let (one, two) = (http.with_key("the-key-of-one"), http.with_key("the-key-of-two"));
    one.ready().await;
    let first = one.embeddings("again").await.ok();
    until("what workers serve is known", async || {
        let before = worker.taken();
        assert_eq!(one.embeddings("again").await.ok().json(), first.json());
        worker.taken() == before
    })
    .await;
    let again = one.embeddings("again").await.ok();
    for name in ["x-embed-model", "x-embed-variant", "x-embed-version", "x-embed-space"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
    let before = worker.taken();
    assert_eq!(two.embeddings("again").await.ok().json(), first.json());
    assert_eq!(worker.taken(), before + 1, "it is new to this key");
    let list = one.embeddings(json!(["again", "more"])).await.ok().json();
    assert_eq!(list["data"][0]["embedding"], first.json()["data"][0]["embedding"]);
    let figures = one.get("/metrics").await.ok().text;
    let hits = figures.lines().find_map(|line| line.strip_prefix("akidb_gateway_cache_texts_total{outcome=\"hit\"} "));
    assert!(hits.unwrap().parse::<u64>().unwrap() >= 2, "{figures}");
}
