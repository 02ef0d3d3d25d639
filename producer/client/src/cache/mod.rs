//! Vectors that were made before, kept in memory (feature `cache`): [`CachedClient`] is a [`Client`] whose calls ask workers only for texts that it
//! has no vector of.
//!
//! ```no_run
//! use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest, Slug, cache::{CacheSettings, CachedClient}};
//!
//! # async fn example() -> Result<(), embed_client::Error> {
//! let client = Client::connect(&ConnectSettings::default()).await?;
//! let client = CachedClient::new(client, CacheSettings::default().max_bytes(64 << 20));
//! let model: Slug = "all-minilm-l6-v2".parse().expect("lower case, digits and dashes");
//! let result = client.embed(&model, EmbedRequest::new(["hello"]), &CallOptions::default()).await?;
//! assert_eq!(client.stats().hits + client.stats().misses, 1);
//! # Ok(())
//! # }
//! ```
//!
//! **What an entry is known by**: the space, the model, prompt, truncation, encoding, dimensions, and the text, as one SHA-256; for calls that name a
//! variant, that variant and its version as well. It stands under the space that the answer itself names.
//!
//! **Never another space.** A call that names its space ([`CallOptions::space`]) gets vectors of that space alone. For others, all workers are asked
//! what they serve, several times within [`CacheSettings::max_staleness`]:
//!
//! - Without a variant, entries are served while all live variants of the model are of one space. A rollout between variants of one space
//!   changes nothing; while two spaces of a model are served, every such call goes to the workers.
//! - With a variant, entries are served that its live version has made, while all workers serve the same one.
//! - After a swap to another space (with a variant: to another version), what was kept is not served any more `max_staleness` later, and at
//!   once when any answer shows the change. It stays until it is pushed out: after a rollback it is good again.
//! - Vectors of two spaces are never in one result: if the texts that were missing come from another space, all are asked for anew.
//!
//! Where workers cannot be asked, nothing is served from the cache to calls that do not name their space.
//!
//! **Equal texts that are asked for at the same time are computed once**, also in lists of which only parts are equal. The call goes on as long as
//! anybody waits for it, whoever began it. Errors are neither kept nor shared: who waited for a call that failed asks for itself.
//!
//! **A level below**: a [`SecondLevel`] is asked for what memory does not have.

mod call;
mod current;
mod flights;
mod key;
mod rows;
mod watch;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use embed_schemas::{EmbedRequest, EmbedResult, Slug};
use futures::future::BoxFuture;
use moka::sync::Cache;
use tokio::time::Instant;

use self::{call::Call, flights::Flights, key::Key, rows::Row, watch::Watch};
use crate::{CallOptions, Client, Error, split::check};

/// How much is kept, and how long after a change it may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheSettings {
    /// Bytes of all entries together, about 430 of each beside its vector. 64 MiB: about 34,000 vectors of 384 dimensions.
    pub max_bytes: u64,
    /// How long after workers have changed to another space vectors of the one before may be served, unless the call names its space. Workers are
    /// asked three times in it while the cache is in use, which takes 300 ms, so less than a second leaves gaps. 5 s.
    pub max_staleness: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { max_bytes: 64 << 20, max_staleness: Duration::from_secs(5) }
    }
}

impl CacheSettings {
    /// Keeps no more than this.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// Notices a change within this.
    #[must_use]
    pub fn max_staleness(self, max_staleness: Duration) -> Self {
        Self { max_staleness, ..self }
    }
}

/// What became of the texts that were asked for, since the beginning, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Texts whose vectors were there.
    pub hits: u64,
    /// Texts whose vectors were in the level below.
    pub stored: u64,
    /// Texts that workers were asked for.
    pub misses: u64,
    /// Texts whose vectors came with another's call, or for the same text in the same list.
    pub joined: u64,
    /// Vectors that are kept.
    pub entries: u64,
    /// Bytes that they take, about.
    pub bytes: u64,
}

/// Vectors that outlive the process, and are shared by several: asked for what memory does not have, before workers are.
///
/// Calls that name a variant do not come here: what is there was made by any. Nothing is looked for before it is known of which space a new vector would be.
pub trait SecondLevel: fmt::Debug + Send + Sync {
    /// The vectors of a request's texts that are of this space, in the order of the texts: each a result of one row, or `None`. A call waits for it, so it
    /// must give up early on what does not come; after half of the call's time, it is given up.
    fn find<'a>(
        &'a self,
        model: &'a Slug,
        space: &'a str,
        request: &'a EmbedRequest,
    ) -> BoxFuture<'a, Vec<Option<EmbedResult>>>;

    /// Takes what workers have made of a request. It must not wait.
    fn keep(&self, model: &Slug, request: &EmbedRequest, result: &EmbedResult);
}

/// A client that keeps vectors. Clones share what is kept.
#[derive(Debug, Clone)]
pub struct CachedClient {
    inner: Arc<Inner>,
    scope: Arc<str>,
    below: Option<Arc<dyn SecondLevel>>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    vectors: Cache<Key, Arc<Row>>,
    flights: Arc<Flights>,
    watch: Watch,
    hits: AtomicU64,
    stored: AtomicU64,
    misses: AtomicU64,
    joined: AtomicU64,
}

impl CachedClient {
    /// Keeps what this client is answered.
    #[must_use]
    pub fn new(client: Client, settings: CacheSettings) -> Self {
        let vectors =
            Cache::builder().max_capacity(settings.max_bytes).weigher(|_: &Key, row: &Arc<Row>| row.weight()).build();
        let watch = Watch::new(&client, settings.max_staleness);
        let (hits, stored, misses, joined) = Default::default();
        let inner = Inner { client, vectors, flights: Arc::default(), watch, hits, stored, misses, joined };
        Self { inner: Arc::new(inner), scope: "".into(), below: None }
    }

    /// The same cache, in which only entries of this scope are found. An answer that comes at once tells that somebody has asked for that text
    /// before: whoever serves callers that do not trust each other gives each a scope.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        Self { scope: scope.into(), ..self.clone() }
    }

    /// The same cache with a level below it, for what is asked through this client and its clones. What is found there is found by every scope that has it.
    #[must_use]
    pub fn above(&self, below: Arc<dyn SecondLevel>) -> Self {
        Self { below: Some(below), ..self.clone() }
    }

    /// The client, whose calls all go to workers.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// What became of all texts so far, of all scopes.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let Inner { vectors, hits, stored, misses, joined, .. } = &*self.inner;
        // What is to go has gone.
        vectors.run_pending_tasks();
        CacheStats {
            hits: hits.load(Ordering::Relaxed),
            stored: stored.load(Ordering::Relaxed),
            misses: misses.load(Ordering::Relaxed),
            joined: joined.load(Ordering::Relaxed),
            entries: vectors.entry_count(),
            bytes: vectors.weighted_size(),
        }
    }

    /// As [`Client::embed`], but for texts whose vectors are there. Of a result that was made by several, variant, version and timing are those
    /// of what was computed now, if anything was.
    ///
    /// # Errors
    /// As [`Client::embed`].
    pub async fn embed(
        &self,
        model: &Slug,
        request: EmbedRequest,
        options: &CallOptions,
    ) -> Result<EmbedResult, Error> {
        check(&request)?;
        Call { cached: self, model, request: &request, options, deadline: Instant::now() + options.timeout }
            .embed()
            .await
    }
}

fn count(counter: &AtomicU64, texts: usize) {
    counter.fetch_add(texts as u64, Ordering::Relaxed);
}
