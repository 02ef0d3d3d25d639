//! What may change what is to be served: the bucket `embed_models`, and requests to look at the registry.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{
    Client, SubscribeError, Subscriber,
    jetstream::{self, kv},
};
use embed_schemas::serving::{DesiredVariant, MODELS_BUCKET, REFRESH_SUBJECT, parse_models_key};
use futures::StreamExt;
use tokio::sync::{Notify, mpsc, watch};

use super::desired::Bucket;
use crate::supervise::{Supervisor, Task};

/// The bucket may be made later; so often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// Both sources.
#[derive(Debug)]
pub(super) struct Watch {
    /// What the bucket holds.
    pub(super) bucket: watch::Receiver<Bucket>,
    /// Somebody asks to look at the registry.
    pub(super) refresh: mpsc::Receiver<()>,
    _tasks: [Task; 2],
}

impl Watch {
    /// Starts to watch; ends when dropped. `reload` asks as a message does.
    ///
    /// # Errors
    /// If the subscription fails.
    pub(super) async fn start(
        client: &Client,
        reload: Arc<Notify>,
        supervisor: &Supervisor,
    ) -> Result<Self, SubscribeError> {
        let requests = client.subscribe(REFRESH_SUBJECT).await?;
        // One request that waits is as good as many.
        let (ask, refresh) = mpsc::channel(1);
        let (send, bucket) = watch::channel(Bucket::new());
        let (look, looks) = mpsc::channel(1);
        let tasks = [
            supervisor.spawn("the listener for requests to refresh", forward(requests, reload, ask, look)),
            supervisor.spawn("the watch of embed_models", watch_bucket(client.clone(), send, looks)),
        ];
        Ok(Self { bucket, refresh, _tasks: tasks })
    }
}

async fn forward(mut requests: Subscriber, reload: Arc<Notify>, ask: mpsc::Sender<()>, look: mpsc::Sender<()>) {
    loop {
        tokio::select! {
            request = requests.next() => {
                if request.is_none() {
                    return;
                }
            }
            () = reload.notified() => {}
            () = ask.closed() => return,
        }
        let _ = (ask.try_send(()), look.try_send(()));
    }
}

/// Follows the bucket for as long as anybody listens.
async fn watch_bucket(client: Client, send: watch::Sender<Bucket>, mut looks: mpsc::Receiver<()>) {
    let context = embed_connect::jetstream(&client);
    while !send.is_closed() {
        if let Ok(store) = context.get_key_value(MODELS_BUCKET).await {
            tokio::select! {
                ended = follow(&store, &send) => match ended {
                    Ok(()) => tracing::debug!("the watch of {MODELS_BUCKET} ended; watching again"),
                    Err(error) => tracing::warn!(%error, "{MODELS_BUCKET} cannot be watched; trying again"),
                },
                () = made_anew(&context, &store, &mut looks) => {
                    tracing::warn!("{MODELS_BUCKET} was made anew: what it holds now is what counts");
                    continue;
                }
                () = send.closed() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            Some(()) = looks.recv() => {}
            () = send.closed() => return,
        }
    }
}

/// Waits until the bucket is another one than this. A watch does not notice: it goes on at the sequence at which the old one ended. While
/// there is none, or nobody answers, what was known holds.
async fn made_anew(context: &jetstream::Context, store: &kv::Store, looks: &mut mpsc::Receiver<()>) {
    let made = store.stream.cached_info().created;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            Some(()) = looks.recv() => {}
        }
        if let Ok(now) = context.get_stream(&store.stream_name).await
            && now.cached_info().created != made
        {
            return;
        }
    }
}

async fn follow(
    store: &kv::Store,
    send: &watch::Sender<Bucket>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut entries = store.watch_with_history(">").await?;
    let mut bucket: Bucket = BTreeMap::new();
    if store.stream.cached_info().state.messages == 0 {
        // Nothing comes that would say so.
        know(send, &bucket);
    }
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        apply(&mut bucket, &entry);
        // What was there before the watch began comes at once, and is one change.
        if entry.delta == 0 {
            know(send, &bucket);
        }
    }
    Ok(())
}

fn know(send: &watch::Sender<Bucket>, bucket: &Bucket) {
    send.send_if_modified(|known| {
        let changes = known != bucket;
        known.clone_from(bucket);
        changes
    });
}

/// One entry of the bucket. What cannot be read is named and skipped; the others hold.
fn apply(bucket: &mut Bucket, entry: &kv::Entry) {
    let Some(variant) = parse_models_key(&entry.key) else {
        tracing::warn!(key = entry.key, "{MODELS_BUCKET}: the key is not `<model>.<variant>`; it is left out");
        return;
    };
    match entry.operation {
        kv::Operation::Put => match serde_json::from_slice::<DesiredVariant>(&entry.value) {
            Ok(desired) => {
                bucket.insert(variant, desired);
            }
            // What it said before still holds.
            Err(error) => tracing::error!(key = entry.key, %error, "{MODELS_BUCKET}: the value cannot be read"),
        },
        kv::Operation::Delete | kv::Operation::Purge => {
            bucket.remove(&variant);
        }
    }
}
