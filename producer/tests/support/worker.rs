//! A worker that keeps to the protocol and makes vectors from the lengths of texts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use embed_client::Client;
use embed_schemas::{
    EmbedFailure, EmbedRequest, EmbedResult, Encoding, Format, Item, Lane, Outcome, Slug, Timing, WireError, headers,
    serving, streams, subjects, wire,
};
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::slug;

/// What a worker makes of a request. `None`: it takes the job and never answers.
pub(crate) type Answer = Arc<dyn Fn(&EmbedRequest) -> Option<Outcome> + Send + Sync>;

/// A running worker. Stops when dropped.
pub(crate) struct Worker {
    /// Jobs taken.
    pub(crate) taken: Arc<AtomicU64>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// The vector of a text: its length, and 1.
pub(crate) fn vector(text: &str) -> [f32; 2] {
    [text.len() as f32, 1.0]
}

pub(crate) fn embed(request: &EmbedRequest) -> Outcome {
    embed_in("space", request)
}

pub(crate) fn embed_in(space: &str, request: &EmbedRequest) -> Outcome {
    let mut vectors = Vec::new();
    for text in &request.texts {
        Encoding::F32.storage().encode_row(&vector(text), &mut vectors);
    }
    let item = |text: &String| Item { tokens: text.split(' ').count() as u32, truncated: false, error: None };
    Outcome::Result(EmbedResult {
        id: request.id.clone().unwrap_or_else(embed_client::new_id),
        model: slug("m"),
        variant: slug("fp32"),
        version: "v1".into(),
        space: space.into(),
        dim: 2,
        encoding: Encoding::F32,
        vectors: vectors.into(),
        items: request.texts.iter().map(item).collect(),
        timing: Timing::default(),
    })
}

pub(crate) fn failure(request: &EmbedRequest, error: WireError) -> Outcome {
    Outcome::Failure(EmbedFailure { id: request.id.clone(), error })
}

impl Worker {
    /// Serves jobs and chunks of model `m`, `copies` times each result: a redelivery is answered again.
    pub(crate) fn jobs(client: &Client, copies: usize, answer: Answer) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let serve = |lane| {
            let (nats, taken, answer) = (client.nats().clone(), taken.clone(), answer.clone());
            AbortOnDropHandle::new(tokio::spawn(serve_jobs(nats, lane, copies, taken, answer)))
        };
        let tasks = Lane::STORED.map(serve).into();
        Self { taken, _tasks: tasks }
    }

    /// Serves calls of a model, and tells what it serves.
    pub(crate) async fn calls(client: &Client, model: Slug, answer: Answer) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let nats = client.nats().clone();
        let subject = subjects::bare(Lane::Rpc, &model);
        let mut calls = nats.subscribe(subject.clone()).await.unwrap();
        let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.unwrap();
        // A round trip: both subscriptions are known to the server.
        client.nats().request("$JS.API.INFO", "".into()).await.unwrap();
        let count = taken.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(call) = calls.next() => {
                        count.fetch_add(1, Ordering::SeqCst);
                        let (request, format) = wire::decode_request(&call.payload, None).unwrap();
                        if let (Some(outcome), Some(reply)) = (answer(&request), call.reply) {
                            nats.publish(reply, format.encode(&outcome)).await.unwrap();
                        }
                    }
                    Some(info) = infos.next() => {
                        let body = serde_json::json!({"name": "embed-worker", "endpoints": [{"subject": subject}]});
                        nats.publish(info.reply.unwrap(), body.to_string().into()).await.unwrap();
                    }
                    else => break,
                }
            }
        });
        Self { taken, _tasks: vec![AbortOnDropHandle::new(task)] }
    }

    /// Serves nothing, and says of its variants what it is told to: by `<model>.<variant>`, statuses.
    pub(crate) async fn says(
        client: &Client,
        id: &str,
        statuses: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    ) -> Self {
        let (nats, id) = (client.nats().clone(), id.to_owned());
        let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.unwrap();
        client.nats().request("$JS.API.INFO", "".into()).await.unwrap();
        let task = tokio::spawn(async move {
            while let Some(info) = infos.next().await {
                let statuses = statuses();
                let entries = statuses.as_object().unwrap().iter();
                let metadata: serde_json::Map<_, _> = entries
                    .map(|(key, status)| (format!("{}{key}", serving::STATUS_PREFIX), status.to_string().into()))
                    .collect();
                let body = serde_json::json!({"name": "embed-worker", "id": id, "metadata": metadata});
                nats.publish(info.reply.unwrap(), body.to_string().into()).await.unwrap();
            }
        });
        Self { taken: Arc::default(), _tasks: vec![AbortOnDropHandle::new(task)] }
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

async fn serve_jobs(nats: async_nats::Client, lane: Lane, copies: usize, taken: Arc<AtomicU64>, answer: Answer) {
    let mut context = jetstream::new(nats);
    context.set_timeout(Duration::from_secs(2));
    let model = slug("m");
    loop {
        // Whatever fails while the server is away is begun anew.
        let _ = serve_once(&context, &model, lane, copies, &taken, &answer).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn serve_once(
    context: &jetstream::Context,
    model: &Slug,
    lane: Lane,
    copies: usize,
    taken: &AtomicU64,
    answer: &Answer,
) -> Result<(), async_nats::Error> {
    let name = streams::consumer(&slug("fp32"), lane);
    let consumer: jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream(name, streams::jobs_stream(model)).await?;
    loop {
        let mut batch = consumer.batch().max_messages(8).expires(Duration::from_millis(500)).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message?;
            let (request, _) = wire::decode_request(&message.payload, None)?;
            taken.fetch_add(1, Ordering::SeqCst);
            let Some(outcome) = answer(&request) else { continue };
            let tenant = subjects::parse(&message.subject).and_then(|target| target.tenant);
            for _ in 0..copies {
                // A full stream pushes back until the producer has made room.
                while let Err(error) = store_for(context, model, tenant.as_ref(), &outcome, Some(&request)).await {
                    if !format!("{error:?}").contains("maximum bytes exceeded") {
                        return Err(error.into());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            message.double_ack().await?;
        }
    }
}

/// Stores an outcome once: a second copy is refused by the stream. It does not say of which request it is.
pub(crate) async fn store(
    context: &jetstream::Context,
    model: &Slug,
    outcome: &Outcome,
) -> Result<(), jetstream::context::PublishError> {
    store_for(context, model, None, outcome, None).await
}

/// The same for a tenant, and for a request.
pub(crate) async fn store_for(
    context: &jetstream::Context,
    model: &Slug,
    tenant: Option<&Slug>,
    outcome: &Outcome,
    request: Option<&EmbedRequest>,
) -> Result<(), jetstream::context::PublishError> {
    let mut header = HeaderMap::new();
    header.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    header.insert(headers::CONTENT_TYPE, Format::MessagePack.content_type());
    if let Some(request) = request {
        header.insert(headers::REQUEST_DIGEST, request.digest().as_str());
    }
    let subject = subjects::store_for(model, tenant, outcome.id().unwrap());
    let publish = context.publish_with_headers(subject, header, Format::MessagePack.encode(outcome));
    match publish.await?.await {
        Err(error) if error.kind() == jetstream::context::PublishErrorKind::WrongLastSequence => Ok(()),
        other => other.map(|_| ()),
    }
}
