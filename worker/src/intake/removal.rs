//! Results that their owner has no use for any more: removed for whoever has the key of their ids, see [`embed_schemas::removal`].

use std::sync::Arc;

use async_nats::{Message, SubscribeError, Subscriber};
use bytes::Bytes;
use embed_schemas::{
    Format, JobId, Slug, WireError,
    removal::{Removal, Removed},
    streams, subjects,
    wire::decode_removal,
};
use futures::{StreamExt, stream, stream::select};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::IntakeContext;
use crate::{jetstream::api, replies::Refused, variant::Deployment};

/// Results that are removed at the same time.
const AT_ONCE: usize = 16;
/// What a request may have at most, in bytes: all ids at their longest, and what is around them.
const MOST_BYTES: usize = 64 * 1024;

/// Takes requests to remove results of a variant's model. All variants of the model take them, on all workers; each request goes to one.
#[derive(Debug)]
pub struct RemovalIntake {
    model: Slug,
    context: IntakeContext,
    /// Of jobs that are of no tenant, and of those that are.
    subscribers: [Subscriber; 2],
}

impl RemovalIntake {
    /// Subscribes.
    ///
    /// # Errors
    /// If a subscription fails.
    pub async fn subscribe(deployment: &Arc<Deployment>, context: &IntakeContext) -> Result<Self, SubscribeError> {
        let model = deployment.variant.model.clone();
        let client = &context.connections.stored.client;
        let group = || subjects::RPC_QUEUE_GROUP.to_owned();
        let of_none = subjects::remove(&model, None);
        let of_tenants = format!("{of_none}.*");
        let subscribers =
            [client.queue_subscribe(of_none, group()).await?, client.queue_subscribe(of_tenants, group()).await?];
        Ok(Self { model, context: context.clone(), subscribers })
    }

    /// Removes until `stop` is cancelled, one request after the other. Whoever is not answered asks again.
    pub async fn run(self, stop: CancellationToken) {
        let Self { model, context, subscribers: [of_none, of_tenants] } = self;
        let mut requests = select(of_none, of_tenants);
        let client = &context.connections.stored.client;
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return,
                request = requests.next() => match request {
                    Some(request) => request,
                    None => return,
                },
            };
            // Nobody's answer goes anywhere but to an inbox.
            let Some(reply) = request.reply.clone() else { continue };
            if context.publisher.replies().allow(Refused::Call, &reply).is_err() {
                continue;
            }
            let (removed, format) = answer(client, &model, &request).await;
            if let Err(error) = client.publish(reply, format.encode(&removed)).await {
                tracing::debug!(%error, "it could not be told that results are removed");
            }
        }
    }
}

async fn answer(client: &async_nats::Client, model: &Slug, request: &Message) -> (Removed, Format) {
    let refused = |error: WireError| Removed { error: Some(error.message), ..Removed::default() };
    if request.payload.len() > MOST_BYTES {
        let error = WireError::invalid(format!("the request has more than {MOST_BYTES} bytes"));
        return (refused(error), Format::Json);
    }
    // What is not proved, is not removed.
    let removal = match decode_removal(&request.payload) {
        Ok(removal) => removal,
        Err(refusal) => return (refused(refusal.error), refusal.format),
    };
    let format = Format::sniff(&request.payload).unwrap_or(Format::Json);
    let before = subjects::remove(model, None);
    let tenant = match request.subject.strip_prefix(&before).and_then(|rest| rest.strip_prefix('.')) {
        None => None,
        Some(tenant) => match tenant.parse::<Slug>() {
            Ok(tenant) => Some(tenant),
            Err(error) => return (refused(WireError::invalid(format!("tenant: {error}"))), format),
        },
    };
    (remove(client, model, tenant.as_ref(), removal).await, format)
}

async fn remove(client: &async_nats::Client, model: &Slug, tenant: Option<&Slug>, removal: Removal) -> Removed {
    let one = async |id: JobId| {
        let purged = purge(client, model, tenant, &id).await;
        (id, purged)
    };
    let all: Vec<_> = stream::iter(removal.ids).map(one).buffer_unordered(AT_ONCE).collect().await;
    let mut removed = Removed::default();
    for (id, purged) in all {
        match purged {
            Ok(purged) => removed.removed += purged,
            Err(error) => {
                removed.left.push(id);
                removed.error = Some(error.to_string());
            }
        }
    }
    removed
}

/// By its subject: there is one outcome of each job.
async fn purge(
    client: &async_nats::Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
) -> Result<u64, api::ApiError> {
    #[derive(Deserialize)]
    struct Purged {
        #[serde(default)]
        purged: u64,
    }
    let filter = serde_json::json!({ "filter": subjects::result_for(model, tenant, id) }).to_string();
    let call = format!("STREAM.PURGE.{}", streams::results_stream(model));
    let purged: Purged = api::call(client, &call, Bytes::from(filter)).await?;
    Ok(purged.purged)
}
