//! The split that NATS makes is the one that the route says, for every kind of client, and while it changes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::support::{
    PATIENCE,
    routed::{alone, router, set},
    slug, stored, until,
    variants::{Calls, take_jobs},
};
use async_nats::jetstream;
use embed_client::{CallOptions, Client, PublishOptions};
use embed_control::route::Change;
use embed_schemas::{EmbedRequest, Lane, Weights, streams, subjects};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

const MESSAGES: u64 = 100_000;
/// Messages that are under way at a time.
const WINDOW: usize = 512;

fn weights(shares: &[&str]) -> Weights {
    Weights::parse(shares).unwrap()
}

/// Within four standard errors of a binomial share.
fn assert_share(what: &str, observed: u64, percent: u8) {
    let (n, p) = (MESSAGES as f64, f64::from(percent) / 100.0);
    let (expected, error) = (n * p, (n * p * (1.0 - p)).sqrt());
    let off = (observed as f64 - expected) / error;
    eprintln!("{what}: {observed} of {MESSAGES}, {:.3} %, {off:+.2} standard errors off", observed as f64 / n * 100.0);
    assert!(off.abs() < 4.0, "{what}: {observed}, expected {expected} ± {error:.1}");
}

/// Messages of the jobs' stream by subject; then it is emptied.
async fn count_and_purge(client: &Client, lane: Lane, variant: &str) -> u64 {
    let context = jetstream::new(client.nats().clone());
    let name = streams::jobs_stream(&slug("m"));
    let info: Value = context.request(format!("STREAM.INFO.{name}"), &json!({"subjects_filter": ">"})).await.unwrap();
    assert_eq!(info["state"]["messages"], MESSAGES);
    let subject = subjects::pinned(lane, &slug("m"), &slug(variant));
    let count = info["state"]["subjects"][&subject].as_u64().unwrap();
    context.get_stream(name).await.unwrap().purge().await.unwrap();
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_are_split_as_the_route_says() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let caller = nodes[0].client().await;
    // A plain client of NATS, that knows nothing of variants.
    let plain = jetstream::new(async_nats::connect(&nodes[0].url).await.unwrap());
    for (a, b) in [(95, 5), (99, 1)] {
        let route = weights(&[&format!("a={a}"), &format!("b={b}")]);
        set(&router, &slug("m"), &Change::to(route, "test")).await;

        let subject = subjects::bare(Lane::Job, &slug("m"));
        let publish = |_| {
            let (plain, subject) = (plain.clone(), subject.clone());
            async move { plain.publish(subject, "x".into()).await?.await }
        };
        stream::iter(0..MESSAGES).map(publish).buffer_unordered(WINDOW).try_collect::<Vec<_>>().await.unwrap();
        assert_share(&format!("plain client, job, {a}/{b}"), count_and_purge(&client, Lane::Job, "b").await, b);

        let publish = |_| {
            let client = caller.clone();
            async move {
                let job = client.jobs(EmbedRequest::new(["x"])).unwrap().remove(0);
                client.publish_job(&slug("m"), Lane::Bulk, &job, &PublishOptions::default()).await
            }
        };
        stream::iter(0..MESSAGES).map(publish).buffer_unordered(WINDOW).try_collect::<Vec<_>>().await.unwrap();
        assert_share(&format!("embed, bulk, {a}/{b}"), count_and_purge(&client, Lane::Bulk, "b").await, b);

        let before = (calls.of("a"), calls.of("b"));
        let options = CallOptions::default().timeout(PATIENCE);
        let call = |_| {
            let (client, options) = (caller.clone(), options.clone());
            async move { client.embed(&slug("m"), EmbedRequest::new(["x"]), &options).await.map(drop) }
        };
        stream::iter(0..MESSAGES).map(call).buffer_unordered(WINDOW).try_collect::<Vec<_>>().await.unwrap();
        let (to_a, to_b) = (calls.of("a") - before.0, calls.of("b") - before.1);
        assert_eq!(to_a + to_b, MESSAGES);
        assert_share(&format!("embed, rpc, {a}/{b}"), to_b, b);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changes_under_load_lose_nothing_and_double_nothing() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let router = router(&client, &nodes).await;
    let (taken, _tasks) = take_jobs(&nodes[0].client().await, &["a", "b"]);
    let (stop, published, answered) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::new(AtomicU64::new(0)));

    let mut load = Vec::new();
    for publisher in 0..3 {
        let context = jetstream::new(async_nats::connect(&nodes[0].url).await.unwrap());
        let (stop, published): (_, Arc<AtomicU64>) = (stop.clone(), Arc::clone(&published));
        load.push(tokio::spawn(async move {
            let ids = (0..).take_while(|_| !stop.load(Ordering::SeqCst));
            let publish = |i: u64| {
                let (context, published) = (context.clone(), published.clone());
                let subject = subjects::bare(Lane::STORED[usize::try_from(i % 2).unwrap()], &slug("m"));
                async move {
                    context.publish(subject, format!("{publisher}-{i}").into()).await.unwrap().await.unwrap();
                    published.fetch_add(1, Ordering::SeqCst);
                }
            };
            stream::iter(ids).map(publish).buffer_unordered(128).collect::<()>().await;
        }));
    }
    let (caller, stopped, count) = (nodes[0].client().await, stop.clone(), answered.clone());
    load.push(tokio::spawn(async move {
        let options = CallOptions::default().timeout(PATIENCE);
        while !stopped.load(Ordering::SeqCst) {
            caller.embed(&slug("m"), EmbedRequest::new(["x"]), &options).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
        }
    }));

    for change in 0..10u8 {
        // Each weight is in effect while there is load.
        let enough = published.load(Ordering::SeqCst) + 1000;
        until("load", async || published.load(Ordering::SeqCst) > enough).await;
        let b = 1 + change * 10;
        let route = weights(&[&format!("a={}", 100 - b), &format!("b={b}")]);
        let applied = set(&router, &slug("m"), &Change::to(route, "test")).await;
        eprintln!("change {change} took {:?}", applied.took);
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    let published = published.load(Ordering::SeqCst);
    until("everything to be taken", async || taken.lock().unwrap().len() as u64 == published).await;
    // What is acknowledged leaves the work queue.
    until("the queue to be empty", async || stored(&client, "EMBED_m").await == 0).await;
    let answered = answered.load(Ordering::SeqCst);
    assert_eq!(calls.of("a") + calls.of("b"), answered, "every call is answered, once");
    let taken = taken.lock().unwrap();
    assert!(taken.values().all(|by| by.len() == 1), "nothing is doubled");
    for variant in ["a", "b"] {
        let count = taken.values().filter(|by| by[0] == variant).count();
        eprintln!("{variant}: {count} of {published} jobs; {answered} calls");
        assert!(count > 0, "{variant} takes jobs through consumers of its own");
    }
}
