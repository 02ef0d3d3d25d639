//! The second level of the cache: vectors in an object store, each under its space and the digest of what it is of. They never change, so whoever has one
//! may keep it: other gateways, and caches between them and their clients.
//!
//! | module | does |
//! |---|---|
//! | `digest` | prompt, dimensions and text -> the name of a vector |
//! | `object` | a vector -> an object, and back, unless it is damaged |
//! | `store` | objects are read in time, and written behind the answers |

mod digest;
mod object;
mod store;

use std::{sync::Arc, time::Duration};

use embed_client::{EmbedRequest, EmbedResult, Slug, cache::SecondLevel};
use embed_registry::{masked, open_store};
use futures::{FutureExt, future::BoxFuture};

use self::{digest::Digests, store::VectorObjects};
pub(crate) use self::{
    digest::{Digest, Prompt},
    object::Kept,
    store::ReadError,
};
use crate::{open_error::OpenError, settings::VectorSettings};

/// For one vector that is asked for by its name.
const READ_TIME: Duration = Duration::from_secs(5);
/// For what waits to be written when the gateway ends.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Vectors that are kept. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Vectors {
    objects: Arc<VectorObjects>,
    /// How long a call waits for them.
    wait: Duration,
}

impl Vectors {
    /// Opens what the settings name, if they name something.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(settings: &VectorSettings) -> Result<Option<Self>, OpenError> {
        let Some(location) = &settings.location else { return Ok(None) };
        let failed = |reason: String| OpenError::Vectors { location: masked(location), reason };
        let folder = location.strip_prefix("file://").or_else(|| (!location.contains("://")).then_some(location));
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        }
        let store = open_store(location).map_err(failed)?;
        let objects = Arc::new(VectorObjects::new(store, settings.waiting));
        Ok(Some(Self { objects, wait: settings.wait }))
    }

    /// One vector, by its name. `is_guest`: for somebody who shows no key where others do.
    pub(crate) async fn get(&self, space: &str, digest: Digest, is_guest: bool) -> Result<Option<Kept>, ReadError> {
        self.objects.read(space, digest, READ_TIME, is_guest).await
    }

    /// What a call looks into before it asks workers, with what stands before its texts.
    pub(crate) fn level(&self, prompt: Prompt) -> Arc<dyn SecondLevel> {
        Arc::new(Level { vectors: self.clone(), prompt })
    }

    /// Gives what waits to be written a last while.
    pub(crate) async fn finish(&self) {
        if tokio::time::timeout(LAST_WRITES, self.objects.written()).await.is_err() {
            tracing::warn!("not all vectors were written that were to be kept");
        }
    }
}

/// Whether a space can be part of a path as it is. What others call theirs is not kept.
pub(crate) fn is_space(space: &str) -> bool {
    let is_of_it = |byte: u8| byte.is_ascii_alphanumeric() || b":._-".contains(&byte);
    (1..=128).contains(&space.len()) && !space.starts_with('.') && space.bytes().all(is_of_it)
}

/// The vectors of one call.
#[derive(Debug)]
struct Level {
    vectors: Vectors,
    prompt: Prompt,
}

impl SecondLevel for Level {
    fn find<'a>(
        &'a self,
        model: &'a Slug,
        space: &'a str,
        request: &'a EmbedRequest,
    ) -> BoxFuture<'a, Vec<Option<EmbedResult>>> {
        async move {
            if !is_space(space) {
                return Vec::new();
            }
            let digests = Digests::new(self.prompt, request.dimensions);
            let digests: Vec<Digest> = request.texts.iter().map(|text| digests.of(text)).collect();
            let found = self.vectors.objects.find(space, &digests, self.vectors.wait).await;
            // A caller may name any space, also one of a model that it may not ask: it gets what the model that it has asked has made.
            let of_model = |kept: Kept| (kept.result.model == *model).then_some(kept.result);
            found.into_iter().map(|kept| kept.and_then(of_model)).collect()
        }
        .boxed()
    }

    fn keep(&self, _: &Slug, request: &EmbedRequest, result: &EmbedResult) {
        if !is_space(&result.space) {
            return;
        }
        let digests = Digests::new(self.prompt, request.dimensions);
        for (row, text) in request.texts.iter().enumerate() {
            let digest = digests.of(text);
            if let Some(object) = object::written(result, row, digest) {
                self.vectors.objects.keep(&result.space, digest, object);
            }
        }
    }
}
