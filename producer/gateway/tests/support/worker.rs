//! A worker that keeps to the protocol, makes vectors of the lengths of texts, and does what it is told in them:
//!
//! - `!code:NAME` as the first text: the call fails with this code.
//! - `!bad` as any text: that text fails with `text_too_long`.
//! - `!never`: the call is not answered.
//! - `!wait`: the call is answered when the test says so.
//! - `!sender`: the answer's version is what the gateway says of the sender.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use embed_client::{Client, EmbedRequest, EmbedResult, Encoding, ErrorCode, Item, Outcome, Slug, WireError};
use embed_schemas::{EmbedFailure, Timing, headers, serving, subjects, wire};
use futures::StreamExt;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};

/// The variants that each model has: all in one space, the first answers where none is named.
const VARIANTS: [&str; 2] = ["fp32", "int8"];
pub(crate) const DIMENSION: u32 = 4;

/// A running worker. Stops when dropped.
pub(crate) struct Worker {
    /// Calls taken.
    taken: Arc<AtomicU64>,
    /// Whether those who wait are answered.
    go: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

/// The vector of a text.
pub(crate) fn vector(text: &str) -> [f32; DIMENSION as usize] {
    let length = text.len() as f32;
    let sum: u32 = text.bytes().map(u32::from).sum();
    [length / 7.0, sum as f32 * 0.001, -1.0 / (length + 3.0), 1.0e-7]
}

impl Worker {
    pub(crate) async fn start(client: &Client, model: &str) -> Self {
        let model: Slug = model.parse().unwrap();
        let nats = client.nats();
        let mut tasks = JoinSet::new();
        let (taken, go) = (Arc::new(AtomicU64::new(0)), watch::Sender::new(false));
        let mut endpoints = Vec::new();
        for variant in std::iter::once(None).chain(VARIANTS.map(Some)) {
            let variant: Option<Slug> = variant.map(|variant| variant.parse().unwrap());
            let subject = match &variant {
                None => subjects::bare(embed_schemas::Lane::Rpc, &model),
                Some(variant) => subjects::pinned(embed_schemas::Lane::Rpc, &model, variant),
            };
            endpoints.push(json!({"subject": subject}));
            let mut calls = nats.queue_subscribe(subject, subjects::RPC_QUEUE_GROUP.to_owned()).await.unwrap();
            let (nats, taken, go, model) = (nats.clone(), Arc::clone(&taken), go.clone(), model.clone());
            let variant = variant.unwrap_or_else(|| VARIANTS[0].parse().unwrap());
            tasks.spawn(async move {
                while let Some(call) = calls.next().await {
                    taken.fetch_add(1, Ordering::SeqCst);
                    let (nats, mut go, model, variant) = (nats.clone(), go.subscribe(), model.clone(), variant.clone());
                    tokio::spawn(async move {
                        let (request, format) = wire::decode_request(&call.payload, None).unwrap();
                        if request.texts[0] == "!wait" {
                            let _ = go.wait_for(|go| *go).await;
                        }
                        if request.texts[0] != "!never" {
                            let sender = call.headers.as_ref().and_then(|all| all.get(headers::SENDER));
                            let sender = sender.map_or("nobody", async_nats::HeaderValue::as_str);
                            let outcome = outcome(&request, model, variant, sender);
                            nats.publish(call.reply.unwrap(), format.encode(&outcome)).await.unwrap();
                        }
                    });
                }
            });
        }
        let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.unwrap();
        let info = json!({"name": subjects::SERVICE_NAME, "id": embed_client::new_id(), "endpoints": endpoints, "metadata": metadata(&model)});
        let answers = nats.clone();
        tasks.spawn(async move {
            while let Some(question) = infos.next().await {
                answers.publish(question.reply.unwrap(), info.to_string().into()).await.unwrap();
            }
        });
        // A round trip: the server knows of all subscriptions.
        nats.request("$JS.API.INFO", "".into()).await.unwrap();
        Self { taken, go, _tasks: tasks }
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Answers those who wait.
    pub(crate) fn go(&self) {
        self.go.send_replace(true);
    }
}

/// What it says of its variants.
fn metadata(model: &Slug) -> serde_json::Map<String, serde_json::Value> {
    let status = |name: &str| {
        let live = json!({"version": "v1.0.0", "precision": name, "provider": "cpu", "space": "sha256:one", "since": "2026-01-02T03:04:05Z"});
        json!({"state": "live", "default": name == VARIANTS[0], "wanted": "current", "live": live})
    };
    let entry = |name: &str| (format!("{}{model}.{name}", serving::STATUS_PREFIX), status(name).to_string().into());
    VARIANTS.map(entry).into_iter().collect()
}

fn outcome(request: &EmbedRequest, model: Slug, variant: Slug, sender: &str) -> Outcome {
    let id = request.id.clone();
    if let Some(code) = request.texts[0].strip_prefix("!code:") {
        let code: ErrorCode = serde_json::from_value(code.into()).unwrap();
        return Outcome::Failure(EmbedFailure { id, error: WireError::new(code, "texts[0]: it was told to fail") });
    }
    let dimension = request.dimensions.unwrap_or(DIMENSION);
    if dimension > DIMENSION {
        let error = WireError::new(ErrorCode::UnsupportedDimensions, "dimensions: at most 4");
        return Outcome::Failure(EmbedFailure { id, error });
    }
    let mut vectors = Vec::new();
    let mut items = Vec::new();
    for text in &request.texts {
        Encoding::F32.storage().encode_row(&vector(text)[..dimension as usize], &mut vectors);
        let error = (text == "!bad").then(|| WireError::new(ErrorCode::TextTooLong, "it has 9 tokens"));
        items.push(Item { tokens: text.split(' ').count() as u32 + 2, truncated: false, error });
    }
    let version = if request.texts[0] == "!sender" { sender } else { "v1.0.0" };
    Outcome::Result(EmbedResult {
        id: id.unwrap(),
        model,
        variant,
        version: version.to_owned(),
        space: "sha256:one".into(),
        dim: dimension,
        encoding: Encoding::F32,
        vectors: vectors.into(),
        items,
        timing: Timing { batch_size: request.texts.len() as u32, ..Timing::default() },
    })
}
