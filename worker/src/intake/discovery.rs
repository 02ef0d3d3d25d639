//! The NATS micro service protocol: `nats micro ls`, `info` and `stats` know the worker, and clients find out what is served.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_nats::{
    Client, SubscribeError,
    service::{Info, PingResponse, Stats, endpoint, error},
};
use bytes::Bytes;
use embed_schemas::{WireError, subjects::SERVICE_NAME};
use futures::{StreamExt, stream::select_all};
use serde::Serialize;

use crate::variant::Variant;

const PREFIX: &str = "$SRV";

/// What the micro service says of one endpoint.
#[derive(Debug)]
pub struct EndpointStats {
    name: String,
    subject: String,
    queue_group: String,
    requests: AtomicUsize,
    errors: AtomicUsize,
    nanoseconds: AtomicU64,
    last_error: Mutex<Option<WireError>>,
}

impl EndpointStats {
    pub(super) fn new(name: String, subject: String, queue_group: String) -> Self {
        Self {
            name,
            subject,
            queue_group,
            requests: AtomicUsize::new(0),
            errors: AtomicUsize::new(0),
            nanoseconds: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, took: Duration, error: Option<&WireError>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(error) = error {
            self.errors.fetch_add(1, Ordering::Relaxed);
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }

    fn info(&self) -> endpoint::Info {
        endpoint::Info {
            name: self.name.clone(),
            subject: self.subject.clone(),
            queue_group: self.queue_group.clone(),
            metadata: HashMap::new(),
        }
    }

    fn stats(&self) -> endpoint::Stats {
        let requests = self.requests.load(Ordering::Relaxed);
        let processing_time = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        endpoint::Stats {
            name: self.name.clone(),
            subject: self.subject.clone(),
            requests,
            errors: self.errors.load(Ordering::Relaxed),
            processing_time,
            average_processing_time: processing_time / u32::try_from(requests.max(1)).unwrap_or(u32::MAX),
            last_error: last_error.map(|e| error::Error { status: e.to_string(), code: usize::from(e.code.status()) }),
            data: None,
            queue_group: self.queue_group.clone(),
        }
    }
}

/// Answers `PING`, `INFO` and `STATS` until dropped.
#[derive(Debug)]
pub struct Discovery {
    client: Client,
    worker: String,
    variants: Vec<Arc<Variant>>,
    endpoints: Vec<Arc<EndpointStats>>,
    started: SystemTime,
}

impl Discovery {
    /// A responder for this worker.
    pub fn new(
        client: Client,
        worker: String,
        variants: Vec<Arc<Variant>>,
        endpoints: Vec<Arc<EndpointStats>>,
    ) -> Self {
        Self { client, worker, variants, endpoints, started: SystemTime::now() }
    }

    /// Subscribes, and answers for ever.
    ///
    /// # Errors
    /// If a subscription fails.
    pub async fn serve(self) -> Result<(), SubscribeError> {
        let mut requests = Vec::new();
        for verb in ["PING", "INFO", "STATS"] {
            for subject in [
                format!("{PREFIX}.{verb}"),
                format!("{PREFIX}.{verb}.{SERVICE_NAME}"),
                format!("{PREFIX}.{verb}.{SERVICE_NAME}.{}", self.worker),
            ] {
                requests.push(self.client.subscribe(subject).await?.map(move |message| (verb, message)).boxed());
            }
        }
        let mut requests = select_all(requests);
        while let Some((verb, message)) = requests.next().await {
            let Some(reply) = message.reply else { continue };
            let answer = match verb {
                "PING" => json(&self.ping()),
                "INFO" => json(&self.info()),
                _ => json(&self.stats()),
            };
            if let Err(error) = self.client.publish(reply, answer).await {
                tracing::debug!(%error, "a discovery request could not be answered");
            }
        }
        Ok(())
    }

    fn metadata(&self) -> HashMap<String, String> {
        let describe = |v: &Arc<Variant>| {
            let key = format!("variant.{}.{}", v.model, v.name);
            (key, format!("{} {} {}", v.metadata.version, v.precision, v.metadata.space))
        };
        self.variants.iter().map(describe).collect()
    }

    fn ping(&self) -> PingResponse {
        PingResponse {
            kind: "io.nats.micro.v1.ping_response".to_owned(),
            name: SERVICE_NAME.to_owned(),
            id: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata: self.metadata(),
        }
    }

    fn info(&self) -> Info {
        Info {
            kind: "io.nats.micro.v1.info_response".to_owned(),
            name: SERVICE_NAME.to_owned(),
            id: self.worker.clone(),
            description: "Text embeddings".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metadata: self.metadata(),
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.info()).collect(),
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            kind: "io.nats.micro.v1.stats_response".to_owned(),
            name: SERVICE_NAME.to_owned(),
            id: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.into(),
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.stats()).collect(),
        }
    }
}

fn json(answer: &impl Serialize) -> Bytes {
    serde_json::to_vec(answer).expect("the protocol's types have string keys").into()
}
