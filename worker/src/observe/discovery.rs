//! The NATS micro service protocol: `nats micro ls`, `info` and `stats` know the worker, and clients find out what is served.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use async_nats::{
    Client, SubscribeError,
    service::{Info, PingResponse, Stats, endpoint},
};
use bytes::Bytes;
use embed_schemas::{
    Lane,
    held::Held,
    serving::{STATUS_PREFIX, models_key},
    streams,
    subjects::{self, SERVICE_NAME, Target},
};
use futures::{StreamExt, stream::select_all};
use serde::Serialize;

use crate::{
    lease::{Delivery, Keeper},
    metrics::EndpointStats,
    replies::{Refused, Replies},
    serving::{ServedVariant, ServedVariants},
    variant::Variant,
};

const PREFIX: &str = "$SRV";

/// Answers `PING`, `INFO` and `STATS` until dropped.
#[derive(Debug)]
pub struct Discovery {
    client: Client,
    worker: String,
    served: ServedVariants,
    keeper: Keeper,
    replies: Replies,
    started: SystemTime,
    /// What operators ask, beside the calls of variants.
    operation: Vec<Arc<EndpointStats>>,
}

impl Discovery {
    /// A responder for this worker.
    pub fn new(
        client: Client,
        worker: String,
        served: ServedVariants,
        keeper: Keeper,
        replies: Replies,
        operation: Vec<Arc<EndpointStats>>,
    ) -> Self {
        Self { client, worker, served, keeper, replies, started: SystemTime::now(), operation }
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
            if self.replies.allow(Refused::Discovery, &reply).is_err() {
                continue;
            }
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

    /// What is served, as [`embed_schemas::serving::statuses`] reads it.
    fn metadata(&self) -> HashMap<String, String> {
        let describe = |one: Arc<ServedVariant>| {
            let Variant { model, name, .. } = &*one.deployment.variant;
            let status = serde_json::to_string(&one.deployment.status()).expect("a status has string keys");
            (format!("{STATUS_PREFIX}{}", models_key(model, name)), status)
        };
        self.served.all().into_iter().map(describe).collect()
    }

    fn endpoints<T>(&self, describe: impl Fn(&EndpointStats) -> T) -> Vec<T> {
        let calls = self.served.all().into_iter().flat_map(|one| one.endpoints());
        calls.chain(self.operation.iter().cloned()).map(|endpoint| describe(&endpoint)).collect()
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
            endpoints: self.endpoints(EndpointStats::info),
        }
    }

    fn stats(&self) -> Stats {
        let mut held: HashMap<_, Vec<u64>> = HashMap::new();
        for Delivery { stream, consumer, sequence, .. } in self.keeper.deliveries() {
            held.entry((stream, consumer)).or_default().push(sequence);
        }
        let endpoints = self.endpoints(EndpointStats::stats);
        let endpoints = endpoints.into_iter().map(|stats| with_held(stats, &mut held)).collect();
        Stats {
            kind: "io.nats.micro.v1.stats_response".to_owned(),
            name: SERVICE_NAME.to_owned(),
            id: self.worker.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.into(),
            endpoints,
        }
    }
}

/// Says which jobs of its variant are held, at the endpoint that is pinned to it.
fn with_held(mut stats: endpoint::Stats, held: &mut HashMap<(String, String), Vec<u64>>) -> endpoint::Stats {
    if let Some(Target { model, variant: Some(variant), .. }) = subjects::parse(&stats.subject) {
        let mut of_variant = Held::default();
        for lane in Lane::STORED {
            let key = (streams::jobs_stream(&model), streams::consumer(&variant, lane));
            of_variant.set(lane, held.remove(&key).unwrap_or_default());
        }
        stats.data = serde_json::to_value(of_variant).ok();
    }
    stats
}

fn json(answer: &impl Serialize) -> Bytes {
    serde_json::to_vec(answer).expect("the protocol's types have string keys").into()
}
