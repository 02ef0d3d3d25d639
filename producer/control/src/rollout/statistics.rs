//! The windows that workers publish, read from the stream that keeps them.

use async_nats::Client;
use embed_rollout::evidence::{Collector, Rejected};
use embed_schemas::{Slug, VariantStats, streams::STATS_STREAM, wire};
use serde_json::json;

use crate::{Error, bucket};

/// Reads the windows of a model, in the order in which they were published.
#[derive(Debug)]
pub(super) struct Reader {
    client: Client,
    filter: String,
    next: u64,
}

impl Reader {
    /// What was published after message number `after` of the stream.
    pub(super) fn new(client: Client, model: &Slug, after: u64) -> Self {
        Self { client, filter: format!("embed.stats.{model}.>"), next: after + 1 }
    }

    /// The number of the stream's last message.
    pub(super) async fn last(client: &Client) -> Result<u64, Error> {
        let info = bucket::call(client, "STREAM.INFO", STATS_STREAM, &json!({})).await.map_err(missing)?;
        Ok(info.unwrap_or_default()["state"]["last_seq"].as_u64().unwrap_or_default())
    }

    /// The next report, if there is one by now.
    pub(super) async fn next(&mut self) -> Result<Option<VariantStats>, Error> {
        loop {
            let query = json!({"seq": self.next, "next_by_subj": self.filter});
            let Some(found) = bucket::message(&self.client, STATS_STREAM, &query).await.map_err(missing)? else {
                return Ok(None);
            };
            self.next = found.sequence + 1;
            match wire::decode_stats(&found.payload) {
                Ok(report) => return Ok(Some(report)),
                // From another release, or from somebody who may publish what he likes: nothing to wait for.
                Err(error) => {
                    tracing::warn!(%error, sequence = found.sequence, "a report that cannot be read is left out");
                }
            }
        }
    }

    /// Adds all reports that are there by now.
    pub(super) async fn read_into(&mut self, collector: &mut Collector) -> Result<(), Error> {
        while let Some(report) = self.next().await? {
            match collector.add(report) {
                // Other variants of the model, and lanes that are not judged.
                Ok(()) | Err(Rejected::Foreign { .. }) => (),
                Err(error) => tracing::warn!(%error, "a report is left out"),
            }
        }
        Ok(())
    }
}

/// The stream is made by `embed init`, as a bucket is.
fn missing(error: Error) -> Error {
    match error {
        Error::NoBucket { .. } => Error::rejected(
            "cannot read statistics",
            format!("there is no stream {STATS_STREAM}: run `embed init` against this server"),
        ),
        other => other,
    }
}
