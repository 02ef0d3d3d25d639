//! Results that their owner has no use for any more: removed for whoever has the key of their ids, see [`embed_schemas::removal`]. And how much
//! room there is for others, for those who may not look at the stream.
//!
//! A few requests are served at the same time, and some wait for that. What does not fit is answered at once, with nothing removed: whoever
//! asks for much neither takes memory nor has others wait for all of it.

use std::{collections::VecDeque, sync::Arc};

use async_nats::{Client, Message, Subject, SubscribeError, Subscriber};
use bytes::Bytes;
use embed_schemas::{
    Format, JobId, Slug, WireError,
    removal::{Removal, Removed, StreamFill},
    streams, subjects,
    wire::decode_removal,
};
use futures::{
    StreamExt,
    stream::{self, FuturesUnordered, select},
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::IntakeContext;
use crate::{jetstream::api, replies::Refused, variant::Deployment};

/// Requests that are served at the same time.
const SERVED: usize = 4;
/// Requests that may wait: no longer than whoever asks waits for the answer.
const MOST_WAITING: usize = 16;
/// Results of a request that are removed at the same time.
const AT_ONCE: usize = 8;
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

    /// Removes until `stop` is cancelled. Whoever is not answered asks again.
    pub async fn run(self, stop: CancellationToken) {
        let Self { model, context, subscribers: [of_none, of_tenants] } = self;
        let mut requests = select(of_none, of_tenants);
        let client = &context.connections.stored.client;
        let (mut waiting, mut served) = (VecDeque::new(), FuturesUnordered::new());
        loop {
            while served.len() < SERVED
                && let Some(asked) = waiting.pop_front()
            {
                served.push(serve(client, &model, asked));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(()) = served.next() => {}
                request = requests.next() => match request.map(|request| Asked::read(&context, &model, request)) {
                    Some(Ok(asked)) if waiting.len() < MOST_WAITING => waiting.push_back(asked),
                    Some(Ok(asked)) => {
                        let removed =
                            Removed { left: asked.removal.ids, error: Some(BUSY.to_owned()), ..Removed::default() };
                        answer(client, asked.reply, asked.format, &removed).await;
                    }
                    Some(Err(Some(Refusal { reply, format, error }))) => {
                        answer(client, reply, format, &Removed { error: Some(error), ..Removed::default() }).await;
                    }
                    Some(Err(None)) => {}
                    None => return,
                },
            }
        }
    }
}

/// What is said to a request that does not fit.
const BUSY: &str = "this worker has many results to remove: nothing of this was; try again later";

/// A request that is to be served.
struct Asked {
    reply: Subject,
    format: Format,
    tenant: Option<Slug>,
    removal: Removal,
}

/// A request that is not.
struct Refusal {
    reply: Subject,
    format: Format,
    error: String,
}

impl Asked {
    /// Reads a request. What is not proved, is not removed. `None` if nobody is to be answered.
    fn read(context: &IntakeContext, model: &Slug, request: Message) -> Result<Self, Option<Refusal>> {
        // Nobody's answer goes anywhere but to an inbox.
        let reply = request.reply.filter(|reply| context.publisher.replies().allow(Refused::Call, reply).is_ok());
        let reply = reply.ok_or(None)?;
        let refused = |format, error: WireError| Some(Refusal { reply: reply.clone(), format, error: error.message });
        if request.payload.len() > MOST_BYTES {
            let error = WireError::invalid(format!("the request has more than {MOST_BYTES} bytes"));
            return Err(refused(Format::Json, error));
        }
        let removal = decode_removal(&request.payload).map_err(|refusal| refused(refusal.format, refusal.error))?;
        let format = Format::sniff(&request.payload).unwrap_or(Format::Json);
        let before = subjects::remove(model, None);
        let tenant = request.subject.strip_prefix(&before).and_then(|rest| rest.strip_prefix('.'));
        let tenant = tenant.map(str::parse::<Slug>).transpose();
        let tenant = tenant.map_err(|error| refused(format, WireError::invalid(format!("tenant: {error}"))))?;
        Ok(Self { reply, format, tenant, removal })
    }
}

async fn serve(client: &Client, model: &Slug, asked: Asked) {
    let Asked { reply, format, tenant, removal } = asked;
    let removed = match removal.ids.is_empty() {
        true => fill(client, model).await,
        false => remove(client, model, tenant.as_ref(), removal).await,
    };
    answer(client, reply, format, &removed).await;
}

async fn answer(client: &Client, reply: Subject, format: Format, removed: &Removed) {
    if let Err(error) = client.publish(reply, format.encode(removed)).await {
        tracing::debug!(%error, "it could not be told what became of results to remove");
    }
}

async fn remove(client: &Client, model: &Slug, tenant: Option<&Slug>, removal: Removal) -> Removed {
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

/// Says how full the stream is.
async fn fill(client: &Client, model: &Slug) -> Removed {
    #[derive(Deserialize)]
    struct Info {
        config: Config,
        state: State,
    }
    /// -1, or 0: no limit.
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        max_bytes: i64,
        /// Nanoseconds.
        #[serde(default)]
        max_age: i64,
    }
    #[derive(Deserialize)]
    struct State {
        messages: u64,
        bytes: u64,
    }
    let limit = |most: i64| u64::try_from(most).ok().filter(|most| *most > 0);
    let call = format!("STREAM.INFO.{}", streams::results_stream(model));
    match api::call(client, &call, Bytes::new()).await {
        Ok(Info { config, state: State { messages, bytes } }) => {
            let max_age_ms = limit(config.max_age).map(|nanoseconds| nanoseconds.div_ceil(1_000_000));
            let results = StreamFill { messages, bytes, max_bytes: limit(config.max_bytes), max_age_ms };
            Removed { results: Some(results), ..Removed::default() }
        }
        Err(error) => Removed { error: Some(error.to_string()), ..Removed::default() },
    }
}

/// By its subject: there is one outcome of each job.
async fn purge(client: &Client, model: &Slug, tenant: Option<&Slug>, id: &JobId) -> Result<u64, api::ApiError> {
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
