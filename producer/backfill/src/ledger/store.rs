//! The bucket. An entry is changed only by whoever has seen the last of it.

use async_nats::Client;
use embed_control::{Error as ControlError, bucket::Bucket};
use embed_schemas::{JobId, streams::BACKFILLS_BUCKET};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::entry::{Entry, Stored};
use crate::{Error, Plan, State};

/// Of a message, what a piece of a plan may take: in JSON, its quotes are two bytes each.
const PIECE: usize = 3;

/// The bucket.
#[derive(Debug, Clone)]
pub(super) struct Store {
    bucket: Bucket,
    piece_bytes: usize,
}

/// An entry as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) revision: u64,
    /// When it was written, by the server's clock.
    pub(super) at_ms: u64,
}

impl Store {
    pub(super) fn new(client: &Client) -> Self {
        let piece_bytes = (client.server_info().max_payload / PIECE).max(1 << 10);
        Self { bucket: Bucket::new(client.clone(), BACKFILLS_BUCKET), piece_bytes }
    }

    /// An entry without its plan. `None` if there is none.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        let Some(found) = self.bucket.find::<Stored>(id).await? else { return Ok(None) };
        let Some(stored) = found.value else { return Ok(None) };
        let broken = |reason| Error::Backfill(format!("the entry {id} of the bucket {BACKFILLS_BUCKET}: {reason}"));
        let entry = stored.read().map_err(broken)?;
        Ok(Some(Found { entry, revision: found.revision, at_ms: found.at_ms }))
    }

    /// The plan of an entry.
    pub(super) async fn plan(&self, entry: &Entry) -> Result<Plan, Error> {
        let id = &entry.state.id;
        let broken = |reason: &dyn std::fmt::Display| {
            Error::Backfill(format!("the plan of backfill {id} in the bucket {BACKFILLS_BUCKET}: {reason}"))
        };
        let mut text = String::new();
        for n in 0..entry.pieces {
            let piece = self.bucket.get::<String>(&piece_key(id, n)).await?.1;
            text += &piece.ok_or_else(|| broken(&format_args!("piece {n} is missing")))?;
        }
        serde_json::from_str(&text).map_err(|error| broken(&error))
    }

    /// Writes the plan of an entry that is about to be written, and says in how many pieces.
    pub(super) async fn put_plan(&self, state: &State) -> Result<usize, Error> {
        let text = serde_json::to_string(&state.plan).map_err(|error| Error::Backfill(error.to_string()))?;
        let pieces = pieces(&text, self.piece_bytes);
        for (n, piece) in pieces.iter().enumerate() {
            self.bucket.put(&piece_key(&state.id, n), piece, None).await?;
        }
        Ok(pieces.len())
    }

    /// Writes an entry if `after` is still its last revision, and returns the new one. `None` if somebody else was faster.
    pub(super) async fn put(&self, entry: &Entry, after: u64) -> Result<Option<u64>, Error> {
        let stored = Stored::of(entry).map_err(|error| Error::Backfill(error.to_string()))?;
        Ok(self.bucket.put(entry.state.id.as_str(), &stored, Some(after)).await?)
    }

    /// The last revision of a key, whether there is an entry or not; 0 if there never was one.
    pub(super) async fn revision(&self, id: &str) -> Result<u64, Error> {
        Ok(self.bucket.get::<Value>(id).await?.0)
    }

    /// All entries without their plans, the oldest first. One that cannot be read is told of, and left out.
    pub(super) async fn all(&self) -> Result<Vec<Found>, Error> {
        // No id has a dot.
        let mut ids = self.bucket.keys("*").await?;
        ids.sort();
        let mut all = Vec::new();
        for id in ids {
            match self.get(&id).await {
                Ok(found) => all.extend(found),
                Err(error @ Error::Backfill(_)) => tracing::warn!("{error}"),
                Err(error) if error.code() == "bad_answer" => tracing::warn!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Removes an entry if `after` is its last revision, with its plan and its claim. `false` if somebody else was faster.
    pub(super) async fn remove(&self, entry: &Entry, after: u64) -> Result<bool, Error> {
        let id = &entry.state.id;
        if !self.bucket.delete(id.as_str(), after).await? {
            return Ok(false);
        }
        for n in 0..entry.pieces {
            let key = piece_key(id, n);
            let revision = self.revision(&key).await?;
            self.bucket.delete(&key, revision).await?;
        }
        let (revision, claimed) = self.claimed(&entry.output).await?;
        if claimed.as_ref() == Some(id) {
            self.bucket.delete(&claim_key(&entry.output), revision).await?;
        }
        Ok(true)
    }

    /// Which backfill has claimed an output, with the revision of the claim.
    pub(super) async fn claimed(&self, output: &str) -> Result<(u64, Option<JobId>), Error> {
        Ok(self.bucket.get(&claim_key(output)).await?)
    }

    /// Claims an output if `after` is the last revision of its claim. `false` if somebody else was faster.
    pub(super) async fn claim(&self, output: &str, id: &JobId, after: u64) -> Result<bool, Error> {
        Ok(self.bucket.put(&claim_key(output), id, Some(after)).await?.is_some())
    }

    /// The server's clock.
    pub(super) async fn now_ms(&self) -> Result<u64, Error> {
        Ok(self.bucket.now_ms().await?)
    }
}

fn piece_key(id: &JobId, n: usize) -> String {
    format!("{id}.plan.{n:05}")
}

fn claim_key(output: &str) -> String {
    let digest = Sha256::digest(output.as_bytes());
    format!("output.{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A text in pieces of so many bytes, at least one.
fn pieces(mut text: &str, bytes: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while text.len() > bytes {
        let (piece, rest) = text.split_at(text.floor_char_boundary(bytes));
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

/// Whether the bucket cannot be used, now or by us, whatever is tried again.
pub(super) fn is_denied(error: &Error) -> bool {
    let Error::Control(error) = error else { return false };
    matches!(error, ControlError::NoBucket { .. })
        || matches!(error, ControlError::Client(embed_client::Error::Rejected { .. }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_small_and_make_the_text(text in ".{0,200}", bytes in 4..50_usize) {
            let pieces = pieces(&text, bytes);
            prop_assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.len() <= bytes));
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
