//! A worker of the test's own, on a nats-server of the test's own.

pub(crate) mod fake;

pub(crate) use embed_testkit::model_registry as registry;

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use async_nats::{Client, HeaderMap, jetstream};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use embed_schemas::{
    EmbedRequest, EmbedResult, ErrorCode, Format, JobId, Lane, Outcome, Slug, Storage, WireError, headers,
    serving::{MODELS_BUCKET, REFRESH_SUBJECT, VariantStatus, models_key, statuses},
    streams::{self, StreamSettings},
    subjects,
    wire::decode_outcome,
};
use embed_testkit::{Daemon, NatsServer, PATIENCE, Relay};
use serde::Deserialize;
use serde_json::Value;

/// The model's slug.
pub(crate) fn model() -> Slug {
    Slug::from_name("all-MiniLM-L6-v2").unwrap()
}

/// The default variant's name.
pub(crate) fn variant() -> Slug {
    "fp32".parse().unwrap()
}

/// `embed-worker run` on this server, with more arguments.
pub(crate) fn worker_command(nats: &NatsServer, more: &[&str]) -> Command {
    worker_command_to(&nats.url(), more)
}

/// The same over a line to it.
pub(crate) fn relayed_command(relay: &Relay, more: &[&str]) -> Command {
    worker_command_to(&format!("nats://{}", relay.address()), more)
}

fn worker_command_to(server: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.args(["run", "--server", server, "--metrics-addr", "127.0.0.1:0", "--json"]).args(more);
    command.env("EMBED_REGISTRY", embed_testkit::registry());
    command
}

/// A server with its streams, and a worker on a line to it.
pub(crate) async fn behind_a_relay(settings: &StreamSettings) -> (NatsServer, Client, Relay, Daemon) {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    provision(&client, settings).await;
    let relay = Relay::start(nats.address());
    let worker = Daemon::spawn(&mut relayed_command(&relay, &[]));
    worker.json_line();
    (nats, client, relay, worker)
}

/// The stored outcome of a job, once there is one.
pub(crate) async fn outcome(client: &Client, model: &Slug, id: &JobId) -> Outcome {
    let context = jetstream::new(client.clone());
    let stream = context.get_stream_no_info(streams::results_stream(model)).await.unwrap();
    // Asked again and again: it is stored at some time.
    let stored = async {
        loop {
            match stream.direct_get_last_for_subject(subjects::result(model, id)).await {
                Ok(message) => break message.payload,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let payload = tokio::time::timeout(PATIENCE, stored).await.expect("an outcome in time");
    decode_outcome(&payload).unwrap()
}

/// What a worker says of its variants.
pub(crate) type Statuses = BTreeMap<(Slug, Slug), VariantStatus>;

/// A server, its streams, a worker that is ready, and a client.
pub(crate) struct Stack {
    pub(crate) client: Client,
    pub(crate) worker: Daemon,
    pub(crate) ready: Value,
    pub(crate) nats: NatsServer,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::start_with("", &[]).await
    }

    pub(crate) async fn start_with(server: &str, more: &[&str]) -> Self {
        Self::start_within(2_000, server, more).await
    }

    /// With jobs that are given to another after so many milliseconds.
    pub(crate) async fn start_within(ack_wait_ms: u64, server: &str, more: &[&str]) -> Self {
        let nats = NatsServer::start_with(server);
        let client = async_nats::connect(nats.url()).await.unwrap();
        provision(&client, &StreamSettings { ack_wait_ms, ..StreamSettings::default() }).await;
        let worker = Daemon::spawn(&mut worker_command(&nats, more));
        let ready = worker.json_line();
        Self { client, worker, ready, nats }
    }

    /// A worker on a registry of the test's own.
    pub(crate) async fn start_on(registry: &Path, more: &[&str]) -> Self {
        Self::start_with_models(registry, &[model()], more).await
    }

    /// A worker on a registry with these models.
    pub(crate) async fn start_with_models(registry: &Path, models: &[Slug], more: &[&str]) -> Self {
        let nats = NatsServer::start();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let settings = StreamSettings { ack_wait_ms: 2_000, ..StreamSettings::default() };
        for slug in models {
            provision_model(&client, slug, &settings).await;
        }
        let worker = Daemon::spawn(worker_command(&nats, more).env("EMBED_REGISTRY", registry));
        let ready = worker.json_line();
        Self { client, worker, ready, nats }
    }

    /// The same server with a worker in place of the one before.
    pub(crate) fn with_another_worker(self, registry: &Path, more: &[&str]) -> Self {
        let worker = Daemon::spawn(worker_command(&self.nats, more).env("EMBED_REGISTRY", registry));
        let ready = worker.json_line();
        Self { worker, ready, ..self }
    }

    /// Asks all workers to look at the registry.
    pub(crate) async fn refresh(&self) {
        self.client.publish(REFRESH_SUBJECT, Bytes::new()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Moves the model's pointer, and waits until that version is live.
    pub(crate) async fn promote_to(&self, registry: &registry::TestRegistry, version: &str) {
        registry.promote(model().as_str(), version);
        self.status_when(|status| status.live.as_ref().is_some_and(|live| live.version == version)).await;
    }

    /// What the worker says of all its variants.
    pub(crate) async fn statuses(&self) -> Statuses {
        let worker = self.ready["worker_id"].as_str().unwrap();
        let answer = self.client.request(format!("$SRV.INFO.embed-worker.{worker}"), Bytes::new()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        let metadata: BTreeMap<String, String> = serde_json::from_value(info["metadata"].clone()).unwrap();
        statuses(&metadata)
    }

    /// What the worker says of the default variant.
    pub(crate) async fn status(&self) -> VariantStatus {
        self.statuses().await.remove(&(model(), variant())).unwrap()
    }

    /// What it says, once that is as wanted. Asks for a look at the registry meanwhile.
    pub(crate) async fn statuses_when(&self, wanted: impl Fn(&Statuses) -> bool) -> Statuses {
        let wait = async {
            loop {
                let statuses = self.statuses().await;
                if wanted(&statuses) {
                    return statuses;
                }
                self.refresh().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(statuses) => statuses,
            Err(_) => panic!("waited in vain; it says {:?}", self.statuses().await),
        }
    }

    /// What it says of the default variant, once that is as wanted.
    pub(crate) async fn status_when(&self, wanted: impl Fn(&VariantStatus) -> bool) -> VariantStatus {
        let of_default = |all: &Statuses| wanted(&all[&(model(), variant())]);
        self.statuses_when(of_default).await.remove(&(model(), variant())).unwrap()
    }

    /// Puts a variant of the model into the bucket of what is to be served, or takes it out.
    pub(crate) async fn desire(&self, variant: &str, desired: Option<&Value>) {
        let context = jetstream::new(self.client.clone());
        let config = jetstream::kv::Config { bucket: MODELS_BUCKET.to_owned(), ..Default::default() };
        let store = context.create_or_update_key_value(config).await.unwrap();
        let key = models_key(&model(), &variant.parse().unwrap());
        match desired {
            Some(desired) => {
                store.put(key, desired.to_string().into()).await.unwrap();
            }
            None => store.delete(key).await.unwrap(),
        }
        self.refresh().await;
    }

    /// Waits for a condition.
    pub(crate) async fn wait_until(&self, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("waited in vain");
    }

    /// An online call with a raw payload.
    pub(crate) async fn call_raw(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: impl Into<Bytes>,
    ) -> async_nats::Message {
        let request = async_nats::Request::new()
            .payload(payload.into())
            .headers(headers)
            .inbox(self.client.new_inbox())
            .timeout(Some(PATIENCE));
        self.client.send_request(subject, request).await.unwrap()
    }

    /// An online call. As clients do, it comes again when the worker says that it has too much to do.
    pub(crate) async fn call(&self, request: &EmbedRequest, format: Format) -> Result<EmbedResult, WireError> {
        loop {
            match self.call_once(request, format).await {
                Err(WireError { code: ErrorCode::Overloaded, retry_after_ms, .. }) => {
                    tokio::time::sleep(Duration::from_millis(retry_after_ms.expect("a hint"))).await;
                }
                answer => return answer,
            }
        }
    }

    /// An online call, whatever the answer.
    pub(crate) async fn call_once(&self, request: &EmbedRequest, format: Format) -> Result<EmbedResult, WireError> {
        let answer = self.call_raw(subjects::bare(Lane::Rpc, &model()), HeaderMap::new(), format.encode(request)).await;
        assert_eq!(Format::sniff(&answer.payload), Some(format), "the answer has the encoding of the question");
        decode_outcome(&answer.payload).unwrap().into_result()
    }

    /// The refusal of an online call.
    pub(crate) async fn refusal(&self, payload: impl Into<Bytes>) -> WireError {
        let answer = self.call_raw(subjects::bare(Lane::Rpc, &model()), HeaderMap::new(), payload).await;
        let error = decode_outcome(&answer.payload).unwrap().into_result().unwrap_err();
        let headers = answer.headers.unwrap();
        let header = |name| headers.get(name).unwrap().as_str().to_owned();
        assert_eq!(header(headers::SERVICE_ERROR_CODE), error.code.status().to_string());
        assert_eq!(header(headers::SERVICE_ERROR), error.to_string());
        error
    }

    /// Publishes a raw job and waits for the server's acknowledgement.
    pub(crate) async fn publish_raw(&self, lane: Lane, headers: HeaderMap, payload: impl Into<Bytes>) {
        let subject = subjects::bare(lane, &model());
        let context = jetstream::new(self.client.clone());
        context.publish_with_headers(subject, headers, payload.into()).await.unwrap().await.unwrap();
    }

    /// The stored outcome of a job, once there is one.
    pub(crate) async fn stored(&self, id: &JobId) -> Outcome {
        self.stored_of(&model(), id).await
    }

    /// The stored outcome of a job of another model.
    pub(crate) async fn stored_of(&self, model: &Slug, id: &JobId) -> Outcome {
        outcome(&self.client, model, id).await
    }

    /// Publishes a job and waits for its outcome.
    pub(crate) async fn job(&self, lane: Lane, mut request: EmbedRequest, format: Format, id: &str) -> Outcome {
        let id: JobId = id.parse().unwrap();
        request.id = Some(id.clone());
        self.publish_raw(lane, HeaderMap::new(), format.encode(&request)).await;
        self.stored(&id).await
    }

    /// The state of a stream: messages, from the server.
    pub(crate) async fn messages_in(&self, stream: &str) -> u64 {
        let context = jetstream::new(self.client.clone());
        context.get_stream(stream).await.unwrap().cached_info().state.messages
    }

    /// Waits until a stream holds this many messages.
    pub(crate) async fn wait_for_messages(&self, stream: &str, count: u64) {
        let wait = async {
            while self.messages_in(stream).await != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{stream} holds {} messages, not {count}", self.messages_in(stream).await);
        }
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn worker_metric(&self, name: &str) -> f64 {
        let (_, metrics) = self.get("/metrics").await;
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        };
        metrics.lines().filter_map(of).sum()
    }

    /// `GET` on the worker's HTTP endpoint: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let address = self.ready["metrics_url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        http_get(&address, path).await
    }
}

/// A minimal HTTP client: one request, one answer.
pub(crate) async fn http_get(address: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Makes the streams and consumers as `embed init` does, through the server's API: the definitions are its JSON.
pub(crate) async fn provision(client: &Client, settings: &StreamSettings) {
    provision_model(client, &model(), settings).await;
}

/// The same for another model with the same variant.
pub(crate) async fn provision_model(client: &Client, model: &Slug, settings: &StreamSettings) {
    for stream in streams::streams(model, settings) {
        api(client, format!("STREAM.CREATE.{}", stream.name), &stream).await;
    }
    provision_consumers(client, model, &variant(), true, settings).await;
}

/// Makes the consumers of another variant of the model.
pub(crate) async fn provision_variant(client: &Client, variant: &Slug, settings: &StreamSettings) {
    provision_consumers(client, &model(), variant, false, settings).await;
}

async fn provision_consumers(client: &Client, model: &Slug, variant: &Slug, default: bool, settings: &StreamSettings) {
    let jobs = streams::jobs_stream(model);
    for consumer in streams::consumers(model, variant, default, settings) {
        let config = serde_json::json!({"stream_name": jobs, "config": consumer});
        api(client, format!("CONSUMER.DURABLE.CREATE.{jobs}.{}", consumer.durable_name), &config).await;
    }
}

async fn api(client: &Client, call: String, request: &impl serde::Serialize) {
    let payload = serde_json::to_vec(request).unwrap();
    // A server that has just started may not answer at once.
    let answer = loop {
        match client.request(format!("$JS.API.{call}"), payload.clone().into()).await {
            Ok(answer) => break answer,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{call}: {answer}");
}

/// What sentence-transformers says of a text.
#[derive(Deserialize)]
pub(crate) struct Reference {
    pub(crate) text: String,
    pub(crate) tokens: u32,
    pub(crate) truncated: bool,
    embedding_b64: String,
}

impl Reference {
    pub(crate) fn vector(&self) -> Vec<f32> {
        Storage::F32.decode_row(&BASE64_STANDARD.decode(&self.embedding_b64).unwrap(), 384)
    }
}

/// All reference texts.
pub(crate) fn references() -> Vec<Reference> {
    #[derive(Deserialize)]
    struct File {
        items: Vec<Reference>,
    }
    let file: File = serde_json::from_str(include_str!("../golden/minilm-l6-reference.json")).unwrap();
    file.items
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
}

/// Largest difference of a component.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
