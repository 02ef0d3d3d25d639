//! Whether jobs are for something that somebody serves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    Server, slug,
    worker::{Worker, embed},
};
use embed_client::Error;
use futures::StreamExt;
use serde_json::json;

/// Longer than any test takes: what is told at once does not wait for it.
const LONG: Duration = Duration::from_secs(300);

fn live() -> serde_json::Value {
    json!({"state": "live", "default": false, "wanted": "current"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_serves_is_told_at_once_with_what_is_served() {
    let server = Server::start();
    let client = server.client().await;
    let m = slug("m");
    let error = client.check_served(&m, None, LONG).await.unwrap_err();
    assert!(matches!(error, Error::NoStream { .. }), "{error}");
    let client = server.provisioned().await;
    let _default = Worker::calls(&client, m.clone(), Arc::new(|r| Some(embed(r)))).await;
    let _other = Worker::says(&client, "w", Arc::new(|| json!({"m.int8": live()}))).await;
    let begun = Instant::now();
    client.check_served(&m, None, LONG).await.unwrap();
    client.check_served(&m, Some(&slug("int8")), LONG).await.unwrap();
    for (model, variant, target) in
        [(&m, Some(slug("fp23")), "variant fp23 of model m"), (&slug("typo"), None, "model typo")]
    {
        let error = client.check_served(model, variant.as_ref(), LONG).await.unwrap_err();
        assert_eq!(error.code(), "unknown_model");
        let text = error.to_string();
        assert!(text.contains(&format!("no worker serves {target}; served are: m")), "{text}");
        assert!(text.contains("--allow-unserved"), "{text}");
    }
    assert!(begun.elapsed() < LONG / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_meant_to_be_served_is_waited_for() {
    let server = Server::start();
    let client = server.provisioned().await;
    let (m, variant) = (slug("m"), slug("fp32"));
    // Nobody at all, and nobody who serves it: no longer than there is patience.
    let mut looks = client.nats().subscribe("$JS.API.CONSUMER.INFO.EMBED_m.fp32-job").await.unwrap();
    let error = client.check_served(&m, Some(&variant), Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("no worker is running"), "{error}");
    let _other = Worker::says(&client, "other", Arc::new(|| json!({"m.int8": live()}))).await;
    let error = client.check_served(&m, Some(&variant), Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, Error::Unserved { .. }), "{error}");
    // It is not there at the first look, and is at a later one.
    let late = async {
        looks.by_ref().take(3).count().await;
        Worker::says(&client, "late", Arc::new(|| json!({"m.fp32": live()}))).await
    };
    let (found, _worker) = tokio::join!(client.check_served(&m, Some(&variant), LONG), late);
    found.unwrap();
}
