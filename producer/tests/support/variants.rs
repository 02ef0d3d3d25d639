//! Variants of model `m`, served without a model: each counts what comes to it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use embed_client::Client;
use embed_control::models;
use embed_schemas::{
    Lane, Precision,
    serving::{LiveVersion, STATUS_PREFIX, VariantState, VariantStatus},
    streams, subjects, wire,
};
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::{slug, worker};

/// Calls by variant.
pub(crate) struct Calls {
    counts: BTreeMap<String, Arc<AtomicU64>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Calls {
    /// Serves the calls of these variants, each in its embedding space. The first is the default.
    pub(crate) async fn serve(client: &Client, variants: &[(&str, &str)]) -> Self {
        let (mut counts, mut tasks) = (BTreeMap::new(), Vec::new());
        for (i, (name, space)) in variants.iter().enumerate() {
            let (model, variant) = (slug("m"), slug(name));
            let mut lines = vec![subjects::pinned(Lane::Rpc, &model, &variant)];
            if i == 0 {
                lines.push(subjects::bare(Lane::Rpc, &model));
            }
            let count = Arc::new(AtomicU64::new(0));
            counts.insert((*name).to_owned(), count.clone());
            for subject in lines {
                let mut calls = client.nats().queue_subscribe(subject, subjects::RPC_QUEUE_GROUP.into()).await.unwrap();
                let (nats, count, space) = (client.nats().clone(), count.clone(), (*space).to_owned());
                tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                    while let Some(call) = calls.next().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        let (request, format) = wire::decode_request(&call.payload, None).unwrap();
                        let outcome = format.encode(&worker::embed_in(&space, &request));
                        nats.publish(call.reply.unwrap(), outcome).await.unwrap();
                    }
                })));
            }
        }
        tasks.push(tell(client, variants).await);
        client.nats().request("$JS.API.INFO", "".into()).await.unwrap();
        Self { counts, _tasks: tasks }
    }

    pub(crate) fn of(&self, variant: &str) -> u64 {
        self.counts[variant].load(Ordering::SeqCst)
    }
}

/// A worker that serves what the bucket wants as soon as it sees it, and says so.
pub(crate) async fn follow(client: &Client) -> (worker::Worker, AbortOnDropHandle<()>) {
    let says = Arc::new(Mutex::new(serde_json::json!({})));
    let (shared, watching) = (says.clone(), client.clone());
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if let Ok(wanted) = models::desired(&watching).await {
                let statuses = wanted.into_iter().map(|((model, variant), desired)| {
                    let status = live("s", desired.default == Some(true), "current (v1)");
                    (format!("{model}.{variant}"), serde_json::to_value(status).unwrap())
                });
                *shared.lock().unwrap() = statuses.collect::<serde_json::Map<_, _>>().into();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }));
    (worker::Worker::says(client, "follower", Arc::new(move || says.lock().unwrap().clone())).await, task)
}

fn live(space: &str, default: bool, wanted: &str) -> VariantStatus {
    let live = LiveVersion {
        devices: Vec::new(),
        nodes_elsewhere: None,
        online_run_us: None,
        skipped: Vec::new(),
        version: "v1".into(),
        precision: Precision::Fp32,
        provider: "cpu".into(),
        space: space.into(),
        since: String::new(),
    };
    let wanted = wanted.to_owned();
    VariantStatus { state: VariantState::Live, default, wanted, live: Some(live), previous: None, failed: None }
}

/// Tells what is served, as workers do: one for each variant.
async fn tell(client: &Client, variants: &[(&str, &str)]) -> AbortOnDropHandle<()> {
    let answer = |(i, (variant, space)): (usize, &(&str, &str))| {
        let status = live(space, i == 0, "current");
        let metadata =
            BTreeMap::from([(format!("{STATUS_PREFIX}m.{variant}"), serde_json::to_string(&status).unwrap())]);
        let (name, id) = (subjects::SERVICE_NAME, worker_of(variant));
        serde_json::json!({"name": name, "id": id, "metadata": metadata, "endpoints": []}).to_string()
    };
    let answers: Vec<_> = variants.iter().enumerate().map(answer).collect();
    let nats = client.nats().clone();
    let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(info) = infos.next().await {
            for answer in &answers {
                nats.publish(info.reply.clone().unwrap(), answer.clone().into()).await.unwrap();
            }
        }
    }))
}

/// Each variant has a worker of its own, which reports on it as well.
pub(crate) fn worker_of(variant: &str) -> String {
    format!("worker-of-{variant}")
}

/// What was taken from the stream: how often each id, and by which variant.
pub(crate) type Taken = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// Takes the jobs of these variants, each through the consumers of its own.
pub(crate) fn take_jobs(client: &Client, variants: &[&str]) -> (Taken, Vec<AbortOnDropHandle<()>>) {
    let taken = Taken::default();
    let mut tasks = Vec::new();
    for variant in variants {
        for lane in Lane::STORED {
            let context = jetstream::new(client.nats().clone());
            let (taken, variant) = (taken.clone(), (*variant).to_owned());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                let name = streams::consumer(&slug(&variant), lane);
                let stream = streams::jobs_stream(&slug("m"));
                let consumer: jetstream::consumer::PullConsumer =
                    context.get_consumer_from_stream(name, stream).await.unwrap();
                loop {
                    let batch = consumer.batch().max_messages(500).expires(Duration::from_secs(1)).messages();
                    let mut batch = batch.await.unwrap();
                    while let Some(Ok(message)) = batch.next().await {
                        let id = String::from_utf8(message.payload.to_vec()).unwrap();
                        taken.lock().unwrap().entry(id).or_default().push(variant.clone());
                        message.ack().await.unwrap();
                    }
                }
            })));
        }
    }
    (taken, tasks)
}
