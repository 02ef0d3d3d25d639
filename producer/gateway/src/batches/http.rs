//! `/v1/batches`, and what it has in common with `/v1/files`.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, Query, Request, State, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
};
use embed_client::{RemovalKey, id_with_key, new_id};
use futures::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Shared, keeper, now,
    objects::{Batch, BatchKind, ENDPOINT, ListKind, Page, Purpose, RequestCounts, Status, WINDOW},
    state::State as Kept,
    store::{Failure, Owner, StoredFile},
};
use crate::{
    access::Caller,
    body,
    error::{ApiError, cut},
};

/// On one page, if nothing else is asked for, and at most.
const PAGE: usize = 20;
const LONGEST_PAGE: usize = 1_000;
/// Entries of `metadata`, and characters of their names and values, as OpenAI has them.
const METADATA: (usize, usize, usize) = (16, 64, 512);
/// Bytes of a request for a batch.
const BODY: usize = 64 << 10;
/// Objects of the store that are read at the same time.
const READS: usize = 16;

/// Whose files and batches a request may see, and who sent it.
pub(super) struct Whose(pub(super) Owner, pub(super) Caller);

impl<S: Sync> FromRequestParts<S> for Whose {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_else(|| Caller::new(None));
        Ok(Self(Owner::of(caller.key()), caller))
    }
}

/// There is no such thing, or it is somebody else's: nobody is told which.
pub(super) fn missing(what: &str, id: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {id:.80?}")).about("id")
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        tracing::error!(%failure, "a request for files or batches cannot be done");
        let message = "the store of files and batches does not answer as it should; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).after(Duration::from_secs(5))
    }
}

/// Which of many.
#[derive(Deserialize)]
pub(super) struct Listing {
    after: Option<String>,
    limit: Option<String>,
    order: Option<String>,
}

/// What is asked for behind the path.
pub(super) fn query<T>(read: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    read.map(|Query(query)| query).map_err(|error| {
        let message = format!("the query: {}", cut(&error.body_text(), 300));
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    })
}

/// Whether it can be an id of ours: what is none is not looked for.
fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A file that is there, and not too old.
pub(super) async fn found(shared: &Shared, owner: &Owner, id: &str) -> Result<Option<StoredFile>, ApiError> {
    if !is_id(id) {
        return Ok(None);
    }
    let stored = shared.store.file(owner, id).await?;
    Ok(stored.filter(|stored| stored.file.expires_at.is_none_or(|at| now() < at)))
}

/// Reads as many as are wanted, of ids that are sorted, newest first.
pub(super) async fn page<T, F: Future<Output = Result<Option<T>, ApiError>>>(
    mut ids: Vec<String>,
    listing: &Listing,
    read: impl Fn(String) -> F,
    id_of: impl Fn(&T) -> String,
) -> Result<Page<T>, ApiError> {
    let limit = match &listing.limit {
        None => PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=10_000).contains(limit))
            .ok_or_else(|| ApiError::invalid("limit", "limit: must be a whole number, 1 to 10000"))?,
    };
    let limit = limit.min(LONGEST_PAGE);
    match listing.order.as_deref() {
        None | Some("desc") => {}
        Some("asc") => ids.reverse(),
        Some(_) => return Err(ApiError::invalid("order", "order: must be \"asc\" or \"desc\"")),
    }
    if let Some(after) = &listing.after {
        let position = ids.iter().position(|id| id == after);
        let position = position.ok_or_else(|| ApiError::invalid("after", "after: there is nothing of this id"))?;
        ids.drain(..=position);
    }
    let all = stream::iter(ids).map(read).buffered(READS).try_filter_map(futures::future::ok);
    let mut data: Vec<T> = all.take(limit + 1).try_collect().await?;
    let has_more = data.len() > limit;
    data.truncate(limit);
    let (first_id, last_id) = (data.first().map(&id_of), data.last().map(&id_of));
    Ok(Page { object: ListKind::List, data, first_id, last_id, has_more })
}

/// What a batch is made of.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CreateBatch")]
pub(crate) struct Create {
    /// A file of requests.
    input_file_id: String,
    /// `/v1/embeddings`
    endpoint: String,
    /// `24h`
    completion_window: String,
    /// The caller's own: up to 16 entries.
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    request: Request,
) -> Result<Json<Batch>, ApiError> {
    let body = body::read_up_to(&shared.gateway, &whose.1, BODY, request).await?;
    let create: Create = body::json(&body.bytes)?;
    if create.endpoint != ENDPOINT {
        return Err(ApiError::invalid("endpoint", format!("endpoint: must be \"{ENDPOINT}\"")));
    }
    if create.completion_window != WINDOW {
        return Err(ApiError::invalid("completion_window", format!("completion_window: must be \"{WINDOW}\"")));
    }
    let metadata = create.metadata.unwrap_or_default();
    let (entries, name, value) = METADATA;
    let is_long = |(n, v): (&String, &String)| n.chars().count() > name || v.chars().count() > value;
    if metadata.len() > entries || metadata.iter().any(is_long) {
        let message =
            format!("metadata: at most {entries} entries, with names of {name} and values of {value} characters");
        return Err(ApiError::invalid("metadata", message));
    }
    let file = found(&shared, &whose.0, &create.input_file_id).await?;
    let file = file.filter(|file| file.file.purpose == Purpose::Batch);
    let Some(file) = file else {
        let message = format!("input_file_id: there is no file {:.80?} for batches", create.input_file_id);
        return Err(ApiError::invalid("input_file_id", message));
    };
    if shared.store.batches(&whose.0).await?.len() >= shared.settings.max_objects {
        let message =
            format!("there are {} batches already; the old ones go by themselves", shared.settings.max_objects);
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many_batches", message));
    }
    let key = RemovalKey::from_random(rand::random());
    let batch = Batch {
        id: format!("batch_{}", new_id()),
        object: BatchKind::Batch,
        endpoint: create.endpoint,
        errors: None,
        input_file_id: file.file.id,
        completion_window: create.completion_window,
        status: Status::Validating,
        output_file_id: None,
        error_file_id: None,
        created_at: now(),
        in_progress_at: None,
        expires_at: now() + shared.settings.window.as_secs(),
        finalizing_at: None,
        completed_at: None,
        failed_at: None,
        expired_at: None,
        cancelling_at: None,
        cancelled_at: None,
        request_counts: RequestCounts::default(),
        metadata: (!metadata.is_empty()).then_some(metadata),
    };
    let job = id_with_key(&key);
    let (spaces, lines, output, errors) = Default::default();
    let key_name = whose.1.key().map(str::to_owned);
    let run = shared.run.clone();
    let state = Kept { batch, key_name, run, job, key, spaces, lines, output, errors };
    shared.store.put_batch(&whose.0, &state).await?;
    shared.store.open(&whose.0, &state.batch.id).await?;
    keeper::begin(&shared, whose.0, state.batch.id.clone());
    Ok(Json(state.batch))
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Page<Batch>>, ApiError> {
    let listing = query(listing)?;
    let ids = shared.store.batches(&whose.0).await?;
    let read = |id: String| {
        let (shared, owner) = (Arc::clone(&shared), whose.0.clone());
        async move { look(&shared, &owner, &id).await }
    };
    Ok(Json(page(ids, &listing, read, |batch: &Batch| batch.id.clone()).await?))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    Path(id): Path<String>,
) -> Result<Json<Batch>, ApiError> {
    look(&shared, &whose.0, &id).await?.map(Json).ok_or_else(|| missing("batch", &id))
}

pub(super) async fn cancel(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    Path(id): Path<String>,
) -> Result<Json<Batch>, ApiError> {
    let batch = look(&shared, &whose.0, &id).await?.ok_or_else(|| missing("batch", &id))?;
    if batch.status.is_over() {
        let status = serde_json::to_string(&batch.status).unwrap_or_default();
        let message = format!("the batch is over ({status}), and cannot be cancelled");
        return Err(ApiError::new(StatusCode::CONFLICT, "batch_is_over", message));
    }
    shared.store.cancel(&whose.0, &id).await?;
    keeper::cancel(&shared, &whose.0, &id);
    look(&shared, &whose.0, &id).await?.map(Json).ok_or_else(|| missing("batch", &id))
}

/// A batch as it stands. That somebody wants it cancelled is known before whoever runs it has written it down.
async fn look(shared: &Shared, owner: &Owner, id: &str) -> Result<Option<Batch>, ApiError> {
    if !is_id(id) {
        return Ok(None);
    }
    let Some(mut state) = shared.store.batch(owner, id).await? else { return Ok(None) };
    if !state.batch.status.is_over()
        && let Some(at) = shared.store.cancelled_at(owner, id).await?
    {
        state.cancel(at);
    }
    Ok(Some(state.batch))
}
