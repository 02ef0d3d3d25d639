//! The bucket of routes: what is wanted, and its history.

use std::collections::BTreeMap;

use async_nats::Client;
use embed_schemas::{
    RouteRecord, Slug,
    routes::{ROUTES_BUCKET, SERVERS_KEY},
};
use serde::Serialize;

use super::RouteError;
use crate::bucket::Bucket;

/// A record and its place in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The revision.
    pub revision: u64,
    /// The record.
    #[serde(flatten)]
    pub record: RouteRecord,
}

/// All routes.
pub(super) type Routes = BTreeMap<Slug, Entry>;

/// The bucket.
#[derive(Debug, Clone)]
pub(crate) struct Store(Bucket);

impl Store {
    pub(crate) const fn new(client: Client) -> Self {
        Self(Bucket::new(client, ROUTES_BUCKET))
    }

    /// All routes.
    pub(super) async fn all(&self) -> Result<Routes, RouteError> {
        let mut routes = Routes::new();
        for key in self.0.keys(">").await? {
            if let Ok(model) = key.parse::<Slug>()
                && let (revision, Some(record)) = self.get(&model).await?
            {
                routes.insert(model, Entry { revision, record });
            }
        }
        Ok(routes)
    }

    /// The route of a model, if there is one, and the key's last revision; 0 if there never was one.
    pub(crate) async fn get(&self, model: &Slug) -> Result<(u64, Option<RouteRecord>), RouteError> {
        Ok(self.0.get(model.as_str()).await?)
    }

    /// How the route of a model came to be, oldest first.
    pub(super) async fn history(&self, model: &Slug) -> Result<Vec<Entry>, RouteError> {
        let mut entries = Vec::new();
        let mut next = 1;
        while let Some((revision, record)) = self.0.next::<RouteRecord>(model.as_str(), next).await? {
            entries.extend(record.map(|record| Entry { revision, record }));
            next = revision + 1;
        }
        Ok(entries)
    }

    /// Writes a record if `after` is still the last revision (0: there is none), and returns the new one. `None` if
    /// somebody else was faster.
    pub(super) async fn put(&self, model: &Slug, record: &RouteRecord, after: u64) -> Result<Option<u64>, RouteError> {
        Ok(self.0.put(model.as_str(), record, Some(after)).await?)
    }

    /// The servers that routes have been applied to, and the revision of that list.
    pub(super) async fn servers(&self) -> Result<(u64, Vec<String>), RouteError> {
        let (revision, names) = self.0.get(SERVERS_KEY).await?;
        Ok((revision, names.unwrap_or_default()))
    }

    /// Writes the list of servers if `after` is still its last revision. `false` if somebody else was faster.
    pub(super) async fn put_servers(&self, names: &[String], after: u64) -> Result<bool, RouteError> {
        Ok(self.0.put(SERVERS_KEY, &names, Some(after)).await?.is_some())
    }
}
