//! The NATS micro service protocol: `nats micro ls`, `info` and `stats` know the worker, and clients find out what is served.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use async_nats::{
    Client, SubscribeError,
    service::{Info, PingResponse, Stats},
};
use bytes::Bytes;
use embed_schemas::subjects::SERVICE_NAME;
use futures::{StreamExt, stream::select_all};
use serde::Serialize;

use crate::{telemetry::EndpointStats, variant::Variant};

const PREFIX: &str = "$SRV";

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
