//! Results that are written are removed from their stream, so that a stream with a bound never fills under a backfill.
//! Only what is durable in the output is removed. What cannot be removed expires with the stream's age.

use std::time::Duration;

use embed_schemas::{JobId, Slug};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use embed_client::Client;

/// Removals at once.
const AT_ONCE: usize = 8;
/// For what is left at the end of a run.
const LAST_TIMEOUT: Duration = Duration::from_secs(15);

/// Removes results behind the driver's back.
#[derive(Debug)]
pub(super) struct Purger {
    ids: mpsc::UnboundedSender<Vec<JobId>>,
    task: AbortOnDropHandle<()>,
}

impl Purger {
    pub(super) fn start(client: &Client, model: &Slug) -> Self {
        let (client, model) = (client.clone(), model.clone());
        // Unbounded, but no faster than rows are written: an id is far smaller than the rows that it stands for.
        let (ids, mut received) = mpsc::unbounded_channel::<Vec<JobId>>();
        let task = tokio::spawn(async move {
            while let Some(ids) = received.recv().await {
                let purge = async |id: JobId| match client.remove_result(&model, &id).await {
                    Ok(true) => {}
                    Ok(false) => tracing::debug!(%id, "a result that is written is not in its stream"),
                    Err(error) => tracing::debug!(%error, "a result that is written stays"),
                };
                futures::stream::iter(ids).map(purge).buffer_unordered(AT_ONCE).collect::<()>().await;
            }
        });
        Self { ids, task: AbortOnDropHandle::new(task) }
    }

    /// Removes the results of these jobs, sometime.
    pub(super) fn remove(&self, ids: Vec<JobId>) {
        // It fails only if the task has panicked; results expire anyway.
        let _ = self.ids.send(ids);
    }

    /// Waits for the removals, a bounded time.
    pub(super) async fn finish(self) {
        drop(self.ids);
        if tokio::time::timeout(LAST_TIMEOUT, self.task).await.is_err() {
            tracing::warn!("not all results that are written could be removed from their stream; they will expire");
        }
    }
}
