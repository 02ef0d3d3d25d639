//! OpenAI's Batch API: files of requests go in, jobs on the bulk lane run underneath, files of what became of them come out.
//!
//! | module | does |
//! |---|---|
//! | `files`, `http` | the routes: files, batches |
//! | `objects`, `lines`, `output` | what OpenAI's clients send and get |
//! | `store` | what is there after a restart, in an object store |
//! | `input` | a file's content, line by line |
//! | `plan` | lines -> groups that are asked for together |
//! | `asking`, `queue` | a group -> its vectors, through the queue |
//! | `writer`, `state` | vectors -> files, durable part by part, and how far that is |
//! | `runner` | one batch, from its file to its end |
//! | `keeper` | all of them: after a restart, and when they are too old |
//!
//! Whatever ends a gateway, the next goes on where the last durable part ends: jobs have ids that follow from batch and line, so what is under way, or done
//! and not yet written, is found and not asked for again; and what is written again is written under the same names.

mod asking;
mod files;
mod http;
mod input;
mod keeper;
mod lines;
mod objects;
mod output;
mod plan;
mod queue;
mod runner;
mod state;
mod store;
mod writer;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    routing::{any, get, post},
};
use embed_client::new_id;
use embed_registry::{masked, open_store};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

pub(crate) use self::{
    http::Create,
    objects::{Batch, DeletedFile, FileObject, Page, Purpose},
};

use self::store::{Owner, Store};
use crate::{Gateway, OpenError, error::ApiError, settings::BatchSettings};

/// Files and batches, and what runs them. Stops when dropped; what is not done then goes on with the next that has the same store.
#[derive(Debug)]
pub(crate) struct Batches {
    shared: Arc<Shared>,
    _keeper: AbortOnDropHandle<()>,
    _stop: DropGuard,
}

struct Shared {
    gateway: Gateway,
    store: Store,
    settings: BatchSettings,
    /// Whether nobody else has what is kept there: it is a folder. What an earlier run has left goes on at once then.
    is_alone: bool,
    /// Told from all other gateways by this.
    run: String,
    /// What is run here, and how to stop it.
    running: Mutex<HashMap<(Owner, String), CancellationToken>>,
    room: tokio::sync::Semaphore,
    /// For files that are being received.
    uploads: tokio::sync::Semaphore,
    /// Ends all runs where they are.
    stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Batches {
    /// Opens what the settings name, if they name something.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(gateway: &Gateway) -> Result<Option<Self>, OpenError> {
        let Some(location) = &gateway.settings().files else { return Ok(None) };
        let failed = |reason: String| OpenError::Files { location: masked(location), reason };
        let folder = location.strip_prefix("file://").or_else(|| (!location.contains("://")).then_some(location));
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        }
        let store = open_store(location).map_err(failed)?;
        Ok(Some(Self::start(gateway.clone(), store, folder.is_some())))
    }

    /// Goes on with what is not done, and takes more.
    fn start(gateway: Gateway, store: Arc<dyn ObjectStore>, is_alone: bool) -> Self {
        let settings = gateway.settings().batches;
        let shared = Arc::new(Shared {
            gateway,
            store: Store::new(store),
            settings,
            is_alone,
            run: new_id().to_string(),
            running: Mutex::default(),
            room: tokio::sync::Semaphore::new(settings.at_once),
            uploads: tokio::sync::Semaphore::new(settings.uploads),
            stop: CancellationToken::new(),
        });
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper::keep(Arc::clone(&shared))));
        let stop = shared.stop.clone().drop_guard();
        Self { shared, _keeper: keeper, _stop: stop }
    }

    /// The routes `/v1/files` and `/v1/batches`.
    pub(crate) fn routes<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        Router::new()
            .route("/v1/files", post(files::upload).get(files::list))
            // What a file may have is counted as it comes.
            .layer(DefaultBodyLimit::disable())
            .route("/v1/files/{id}", get(files::show).delete(files::remove))
            .route("/v1/files/{id}/content", get(files::content))
            .route("/v1/batches", post(http::create).get(http::list))
            .route("/v1/batches/{id}", get(http::show))
            .route("/v1/batches/{id}/cancel", post(http::cancel))
            .with_state(Arc::clone(&self.shared))
    }
}

/// The same where files and batches are not kept: what is to be done about it.
pub(crate) fn nowhere<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let off = async || {
        let message =
            "files and batches are not kept here: start the gateway with --files FOLDER, or with the URL of a bucket";
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_files", message)
    };
    let paths = ["/v1/files", "/v1/files/{*rest}", "/v1/batches", "/v1/batches/{*rest}"];
    paths.into_iter().fold(Router::new(), |routes, path| routes.route(path, any(off)))
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
