//! The bucket. An entry is changed only by whoever has seen the last of it.

use async_nats::Client;
use embed_control::{Error as ControlError, bucket::Bucket};
use embed_schemas::{JobId, streams::BACKFILLS_BUCKET};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    entry::{Entry, PlanPieces, Stored},
    pieces,
};
use crate::{Error, Mark, Plan, State};

/// Of a message, what a piece of a plan may take: in JSON, its quotes are two bytes each.
const PIECE: usize = 3;
/// Of a message, what parts that are in no piece may take, and a piece of parts.
const PARTS: usize = 8;
/// They take no more, however large a message may be: an entry is written every second.
const MOST_PARTS_BYTES: usize = 128 << 10;
/// Of a message, what is left for its subject and headers.
const HEADERS: usize = 1 << 10;

/// The bucket.
#[derive(Debug, Clone)]
pub(super) struct Store {
    bucket: Bucket,
    /// Bytes that a message may have.
    max_payload: usize,
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
        let max_payload = client.server_info().max_payload;
        Self { bucket: Bucket::new(client.clone(), BACKFILLS_BUCKET), max_payload }
    }

    /// An entry without what is kept in pieces. `None` if there is none.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        let Some(found) = self.bucket.find::<Stored>(id).await? else { return Ok(None) };
        let Some(stored) = found.value else { return Ok(None) };
        let broken = |reason| Error::Backfill(format!("the entry {id} of the bucket {BACKFILLS_BUCKET}: {reason}"));
        let entry = stored.read().map_err(broken)?;
        Ok(Some(Found { entry, revision: found.revision, at_ms: found.at_ms }))
    }

    /// The state of an entry as a whole.
    pub(super) async fn whole(&self, entry: &Entry) -> Result<State, Error> {
        let (plan, inputs) = self.plan(entry).await?;
        let mut state = State { plan, mark: self.mark(entry).await?, ..entry.state.clone() };
        if let Some(inputs) = inputs {
            state.parameters.inputs = inputs;
        }
        Ok(state)
    }

    /// The plan of an entry, and all that is read; `None` if the entry has that itself, as those of before have.
    async fn plan(&self, entry: &Entry) -> Result<(Plan, Option<Vec<String>>), Error> {
        let id = &entry.state.id;
        let broken = |reason: String| broken(id, "plan", &reason);
        let mut text = String::new();
        for n in 0..entry.plan.count {
            let piece = self.bucket.get::<String>(&plan_key(id, entry.plan.digest.as_deref(), n)).await?.1;
            text += &piece.ok_or_else(|| broken(format!("piece {n} is missing")))?;
        }
        let read = || -> serde_json::Result<_> {
            let mut plan: Value = serde_json::from_str(&text)?;
            let inputs = plan.as_object_mut().and_then(|plan| plan.remove(INPUTS));
            Ok((serde_json::from_value(plan)?, inputs.map(serde_json::from_value).transpose()?))
        };
        read().map_err(|error| broken(error.to_string()))
    }

    /// What is durable of the output of an entry, with all its parts.
    pub(super) async fn mark(&self, entry: &Entry) -> Result<Mark, Error> {
        let id = &entry.state.id;
        let mut mark = entry.state.mark.clone();
        for piece in entry.parts.iter().rev() {
            let broken = |reason: String| broken(id, "list of parts", &reason);
            let text = self.bucket.get::<String>(&parts_key(id, &piece.digest)).await?.1;
            let text = text.ok_or_else(|| broken(format!("piece {} is missing", piece.digest)))?;
            pieces::put_before(&mut mark, piece, &text).map_err(broken)?;
        }
        Ok(mark)
    }

    /// Has an entry that is about to be written take a state: writes what is kept in pieces, as far as it is not there.
    pub(super) async fn keep(&self, entry: &mut Entry, state: &State) -> Result<(), Error> {
        for (piece, text) in pieces::cut(&state.mark, &entry.parts, self.parts_bytes()) {
            self.put_piece(&parts_key(&state.id, &piece.digest), &text).await?;
            entry.parts.push(piece);
        }
        entry.take(state);
        Ok(())
    }

    /// The same, where it is not known whether the entry's pieces hold what the state says: of one that is taken over.
    pub(super) async fn keep_all(&self, entry: &mut Entry, state: &State) -> Result<(), Error> {
        let mut plan = serde_json::to_value(&state.plan).map_err(|error| Error::Backfill(error.to_string()))?;
        plan[INPUTS] = state.parameters.inputs.clone().into();
        let text = plan.to_string();
        let digest = Some(pieces::digest(&text));
        if entry.plan.digest != digest {
            let pieces = split(&text, (self.max_payload / PIECE).max(1 << 10));
            for (n, piece) in pieces.iter().enumerate() {
                self.put_piece(&plan_key(&state.id, digest.as_deref(), n), piece).await?;
            }
            entry.plan = PlanPieces { digest, count: pieces.len() };
        }
        entry.parts = pieces::of_mark(&state.mark, std::mem::take(&mut entry.parts));
        self.keep(entry, state).await
    }

    fn parts_bytes(&self) -> usize {
        // Quotes in a piece are two bytes each, and every part has about thirty.
        (self.max_payload / PARTS).clamp(1 << 9, MOST_PARTS_BYTES)
    }

    /// Writes a piece that is called after what it holds: once more changes nothing.
    async fn put_piece(&self, key: &str, piece: &str) -> Result<(), Error> {
        self.bucket.put(key, &piece, None).await?;
        Ok(())
    }

    /// Writes an entry if `after` is still its last revision, and returns the new one. `None` if somebody else was faster.
    ///
    /// # Errors
    /// [`Error::Unrecordable`] if it can never be written.
    pub(super) async fn put(&self, entry: &Entry, after: u64) -> Result<Option<u64>, Error> {
        let id = &entry.state.id;
        let stored = Stored::of(entry).map_err(|error| Error::Backfill(error.to_string()))?;
        let bytes = serde_json::to_vec(&stored).map_or(0, |stored| stored.len());
        if bytes + HEADERS > self.max_payload {
            return Err(Error::Unrecordable(format!(
                "the entry {id} of the bucket {BACKFILLS_BUCKET} would have {bytes} bytes, and the server takes {} in a message: raise its \
                 `max_payload`, then go on with `embed backfill resume`",
                self.max_payload
            )));
        }
        Ok(self.bucket.put(id.as_str(), &stored, Some(after)).await?)
    }

    /// The last revision of a key, whether there is an entry or not; 0 if there never was one.
    pub(super) async fn revision(&self, id: &str) -> Result<u64, Error> {
        Ok(self.bucket.get::<Value>(id).await?.0)
    }

    /// All entries without what is kept in pieces, the oldest first. One that cannot be read is told of, and left out.
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

    /// Removes an entry if `after` is its last revision, with its pieces and its claim. `false` if somebody else was faster.
    pub(super) async fn remove(&self, entry: &Entry, after: u64) -> Result<bool, Error> {
        let id = &entry.state.id;
        if !self.bucket.delete(id.as_str(), after).await? {
            return Ok(false);
        }
        // Those too that an entry named before, or would have named.
        for key in self.bucket.keys(&format!("{id}.>")).await? {
            let (revision, piece) = self.bucket.get::<Value>(&key).await?;
            if piece.is_some() {
                self.bucket.delete(&key, revision).await?;
            }
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

/// Beside the fields of a plan: what the user has named.
const INPUTS: &str = "inputs";

fn broken(id: &JobId, what: &str, reason: &str) -> Error {
    Error::Backfill(format!("the {what} of backfill {id} in the bucket {BACKFILLS_BUCKET}: {reason}"))
}

fn plan_key(id: &JobId, digest: Option<&str>, n: usize) -> String {
    match digest {
        Some(digest) => format!("{id}.plan.{digest}.{n:05}"),
        None => format!("{id}.plan.{n:05}"),
    }
}

fn parts_key(id: &JobId, digest: &str) -> String {
    format!("{id}.parts.{digest}")
}

fn claim_key(output: &str) -> String {
    let digest = Sha256::digest(output.as_bytes());
    format!("output.{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A text in pieces of so many bytes, at least one.
fn split(mut text: &str, bytes: usize) -> Vec<&str> {
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
            let pieces = split(&text, bytes);
            prop_assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.len() <= bytes));
            prop_assert_eq!(pieces.concat(), text);
        }
    }
}
