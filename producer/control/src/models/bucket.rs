//! The bucket `embed_models`: what is wanted. An entry is changed only by whoever has seen the last of it.

use std::collections::BTreeMap;

use async_nats::Client;
use embed_schemas::{
    Slug,
    serving::{DesiredVariant, MODELS_BUCKET, models_key, parse_models_key},
};

use crate::{Error, bucket::Bucket};

/// A model and a variant of it.
pub(super) type Target = (Slug, Slug);

/// What is wanted of a variant, and its place in the bucket.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) desired: DesiredVariant,
}

/// The bucket.
#[derive(Debug)]
pub(super) struct Wanted(Bucket);

impl Wanted {
    pub(super) const fn new(client: Client) -> Self {
        Self(Bucket::new(client, MODELS_BUCKET))
    }

    /// All entries, by model and variant.
    ///
    /// # Errors
    /// [`Error::NoBucket`]; a bad answer for an entry that is none: workers would leave it out, and nobody would know why.
    pub(super) async fn all(&self) -> Result<BTreeMap<Target, Entry>, Error> {
        let mut all = BTreeMap::new();
        for key in self.0.keys(">").await? {
            // It may have been removed, now or before.
            let (revision, Some(desired)) = self.0.get::<DesiredVariant>(&key).await? else { continue };
            let target = parse_models_key(&key).ok_or_else(|| {
                Error::bad_answer(format!("{MODELS_BUCKET}/{key}"), "the key is not `<model>.<variant>`; delete it")
            })?;
            all.insert(target, Entry { revision, desired });
        }
        Ok(all)
    }

    /// The last revision of an entry, whether it is there or not; 0 if it never was.
    ///
    /// # Errors
    /// [`Error::NoBucket`], or if the bucket does not answer.
    pub(super) async fn revision(&self, (model, variant): &Target) -> Result<u64, Error> {
        Ok(self.0.get::<serde_json::Value>(&models_key(model, variant)).await?.0)
    }

    /// Writes an entry if `after` is its last revision, and returns the new one.
    ///
    /// # Errors
    /// [`Error::Contended`] if somebody else was faster.
    pub(super) async fn put(&self, target: &Target, desired: &DesiredVariant, after: u64) -> Result<u64, Error> {
        let put = self.0.put(&models_key(&target.0, &target.1), desired, Some(after)).await?;
        put.ok_or_else(|| contended(target))
    }

    /// Removes an entry if `after` is its last revision.
    ///
    /// # Errors
    /// [`Error::Contended`] if somebody else was faster.
    pub(super) async fn remove(&self, target: &Target, after: u64) -> Result<(), Error> {
        let removed = self.0.delete(&models_key(&target.0, &target.1), after).await?;
        removed.then_some(()).ok_or_else(|| contended(target))
    }

    /// Makes a variant, whose entry at `revision` says that it is the default of its model, the only one: whoever was it in `before`
    /// gives it up, but for `leaving`, which is on its way out. Of two that become it at the same time, the one that was written first
    /// stays, and the other is told.
    ///
    /// # Errors
    /// [`Error::Contended`] if another is it.
    pub(super) async fn only_default(
        &self,
        target: &Target,
        revision: u64,
        before: &BTreeMap<Target, Entry>,
        leaving: Option<&Target>,
    ) -> Result<(), Error> {
        loop {
            let all = self.all().await?;
            let is_rival = |(key, entry): &(&Target, &Entry)| {
                key.0 == target.0 && key.1 != target.1 && Some(*key) != leaving && entry.desired.default == Some(true)
            };
            let mut rivals = all.iter().filter(is_rival);
            // Written since, and before ours.
            let faster =
                |(key, entry): &(&Target, &Entry)| before.get(*key) != Some(*entry) && entry.revision < revision;
            if let Some(winner) = rivals.clone().find(faster) {
                return Err(contended(winner.0));
            }
            let Some((key, entry)) = rivals.find(|(key, entry)| before.get(*key) == Some(*entry)) else {
                return Ok(());
            };
            match self.put(key, &DesiredVariant { default: None, ..entry.desired.clone() }, entry.revision).await {
                // Somebody else has taken it from them.
                Ok(_) | Err(Error::Contended { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn contended((model, variant): &Target) -> Error {
    Error::Contended { what: format!("variant {variant} of model {model}") }
}
