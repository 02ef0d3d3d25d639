//! Publishing to a cluster that is short of a quorum for a while: what can be stored later is stored, once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::support::{model_m, slug, stored, until};
use async_nats::jetstream;
use embed_client::{Client, ConnectSettings, PublishOptions};
use embed_control::provision::apply;
use embed_schemas::{EmbedRequest, Lane, streams::StreamSettings};
use embed_testkit::Cluster;
use futures::StreamExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_frozen_followers_end_no_publish() {
    let mut cluster = Cluster::start(3, "");
    let connect = async |url: String| {
        Client::connect(&ConnectSettings { server: Some(url), ..ConnectSettings::default() }).await.unwrap()
    };
    let settings = StreamSettings { replicas: 3, ..StreamSettings::default() };
    apply(connect(cluster.servers[0].url()).await.nats(), &[model_m()], &settings).await.unwrap();
    let context = jetstream::new(connect(cluster.servers[0].url()).await.nats().clone());
    let info = context.get_stream("EMBED_m").await.unwrap().cached_info().clone();
    let leader = info.cluster.unwrap().leader.unwrap();
    let leader: usize = leader.strip_prefix('n').unwrap().parse::<usize>().unwrap() - 1;
    let client = connect(cluster.servers[leader].url()).await;
    let attempts = Arc::new(AtomicU64::new(0));
    let mut heard = client.nats().subscribe("embed.job.m").await.unwrap();
    let count = Arc::clone(&attempts);
    tokio::spawn(async move {
        while heard.next().await.is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });

    let followers: Vec<_> = (0..3).filter(|n| *n != leader).collect();
    for n in &followers {
        cluster.servers[*n].pause();
    }
    let publishing = tokio::spawn({
        let client = client.clone();
        async move {
            let job = EmbedRequest { id: Some("a".parse().unwrap()), ..EmbedRequest::new(["cat"]) };
            let options = PublishOptions::default().timeout(Duration::from_secs(120));
            client.publish(&slug("m"), Lane::Job, job, &options).await
        }
    });
    // The first is on its way to a quorum; to the others, the server says so.
    until("it is tried again and again", async || attempts.load(Ordering::SeqCst) >= 3).await;
    assert!(!publishing.is_finished(), "{:?}", publishing.await);
    for n in &followers {
        cluster.servers[*n].resume();
    }
    let published = publishing.await.unwrap().unwrap();
    assert_eq!(published[0].id.as_str(), "a");
    assert_eq!(stored(&client, "EMBED_m").await, 1);
}
