//! A backfill on a cluster whose streams have no quorum for a while: what the server refuses meanwhile passes.

use std::{sync::Arc, time::Duration};

use crate::support::{
    PATIENCE,
    files::{Files, assert_complete, pace},
    model_m, stored, until,
    worker::{Worker, embed},
};
use embed_client::{Client, nats::api};
use embed_connect::ConnectSettings;
use embed_control::provision;
use embed_schemas::streams::StreamSettings;
use embed_testkit::{Cluster, NatsServer};
use futures::StreamExt;
use serde_json::{Value, json};

const CALL: Duration = Duration::from_secs(5);

async fn connect(url: String) -> Client {
    Client::connect(&ConnectSettings { server: Some(url), ..ConnectSettings::default() }).await.unwrap()
}

/// Which of the servers leads a stream, by its place.
async fn leader(client: &Client, stream: &str) -> Option<usize> {
    let info = api::call(client.nats(), &format!("STREAM.INFO.{stream}"), &Value::Null, CALL).await;
    let name = info.ok()?["cluster"]["leader"].as_str()?.to_owned();
    name.strip_prefix('n')?.parse::<usize>().ok().map(|number| number - 1)
}

/// Has a server lead a stream.
async fn lead(client: &Client, stream: &str, place: usize) {
    until("the stream is led by that server", async || {
        if leader(client, stream).await == Some(place) {
            return true;
        }
        let body = json!({ "placement": { "preferred": format!("n{}", place + 1) } });
        let _ = api::call(client.nats(), &format!("STREAM.LEADER.STEPDOWN.{stream}"), &body, CALL).await;
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_frozen_followers_end_no_backfill() {
    let mut cluster = Cluster::start(3, "");
    // All on the server that goes on, so that what is seen is the missing quorum, and no broken connection.
    let client = connect(cluster.servers[0].url()).await;
    let settings = StreamSettings { replicas: 3, ack_wait_ms: 2_000, ..StreamSettings::default() };
    provision::apply(client.nats(), &[model_m()], &settings).await.unwrap();
    for stream in ["EMBED_m", "EMBED_RESULTS_m", "KV_embed_backfills"] {
        lead(&client, stream, 0).await;
    }
    let _worker = Worker::jobs(&connect(cluster.servers[0].url()).await, 1, Arc::new(|r| Some(embed(r))));
    let mut answers = client.nats().subscribe("_INBOX.>").await.unwrap();
    let files = Files::new(100);
    let pace = pace();
    let rest = &mut cluster.servers[1..];
    rest.iter_mut().for_each(NatsServer::pause);
    let running = files.run(&client, 2, &pace);
    let thaw = async {
        // A job that was not acknowledged in time is published again while the first is still on its way: "duplicate message id is in process".
        let refused = async {
            while let Some(answer) = answers.next().await {
                if String::from_utf8_lossy(&answer.payload).contains("\"err_code\":10158") {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.expect("a job is refused");
        rest.iter_mut().for_each(NatsServer::resume);
    };
    let (summary, ()) = tokio::join!(running, thaw);
    let summary = summary.unwrap();
    assert_eq!((summary.stored, summary.results_left), (100, 0));
    assert_complete(&files, 100);
    assert_eq!(stored(&client, "EMBED_RESULTS_m").await, 0);
}
