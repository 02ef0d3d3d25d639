//! `/v1/files`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{
        Multipart, Path, Query, State,
        multipart::{Field, MultipartError, MultipartRejection},
        rejection::QueryRejection,
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use embed_client::new_id;
use serde::Deserialize;

use super::{
    Shared,
    http::{Listing, Whose, found, missing, page, query},
    now,
    objects::{DeletedFile, FileKind, FileObject, FileStatus, Page, Purpose},
    store::{Owner, StoredFile},
};
use crate::error::ApiError;

/// Bytes of a part of an upload: what is kept in memory of each.
const PART_BYTES: usize = 4 << 20;
/// Bytes of the other fields of a form.
const FIELD_BYTES: usize = 4096;

/// What the fields of a form say.
#[derive(Default)]
struct Form {
    purpose: Option<String>,
    expires_after: Option<u64>,
    file: Option<(String, u64, u64)>,
}

pub(super) async fn upload(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<FileObject>, ApiError> {
    whose.1.begin()?;
    let _room = shared.uploads.try_acquire().map_err(|_| {
        let message = "as many files are being received as there is room for; try again soon";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message).after(Duration::from_secs(1))
    })?;
    let form =
        form.map_err(|error| ApiError::invalid("file", format!("a form (multipart/form-data) is wanted: {error}")))?;
    if shared.store.files(&whose.0).await?.len() >= shared.settings.max_objects {
        let message = format!("there are {} files already; delete some", shared.settings.max_objects);
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many_files", message));
    }
    let id = format!("file-{}", new_id());
    let mut unfinished = Unfinished { shared: &shared, owner: &whose.0, id: &id, is_done: false };
    let stored = receive(&shared, &whose.0, &id, form).await?;
    shared.store.put_file(&whose.0, &stored).await?;
    unfinished.is_done = true;
    drop(unfinished);
    Ok(Json(stored.file))
}

/// Removes what has come of a file that never became one.
struct Unfinished<'a> {
    shared: &'a Arc<Shared>,
    owner: &'a Owner,
    id: &'a str,
    is_done: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let (shared, owner, id) = (Arc::clone(self.shared), self.owner.clone(), self.id.to_owned());
            tokio::spawn(async move {
                if let Err(error) = shared.store.remove_content(&owner, &id).await {
                    tracing::warn!(%error, file = id, "what came of a file that was broken off is left in the store");
                }
            });
        }
    }
}

async fn receive(shared: &Shared, owner: &Owner, id: &str, mut fields: Multipart) -> Result<StoredFile, ApiError> {
    let mut form = Form::default();
    while let Some(field) = fields.next_field().await.map_err(broken)? {
        match field.name().unwrap_or_default() {
            "purpose" => form.purpose = Some(text(field, "purpose").await?),
            "expires_after[seconds]" => {
                let seconds = text(field, "expires_after").await?;
                let most = shared.settings.file_age.as_secs();
                let seconds = seconds.parse().ok().filter(|seconds| (3600..=most).contains(seconds));
                form.expires_after = Some(seconds.ok_or_else(|| {
                    ApiError::invalid("expires_after", format!("expires_after: seconds must be 3600 to {most}"))
                })?);
            }
            "file" if form.file.is_none() => {
                let name = field.file_name().unwrap_or("file.jsonl").chars().take(255).collect();
                let (parts, bytes) = content_of(shared, owner, id, field).await?;
                form.file = Some((name, parts, bytes));
            }
            _ => {}
        }
    }
    match form.purpose.as_deref() {
        Some("batch") => {}
        Some(other) => {
            let message = format!("purpose: {other:.80?} is not taken; files are for \"batch\" here");
            return Err(ApiError::invalid("purpose", message));
        }
        None => return Err(ApiError::invalid("purpose", "purpose: is missing; write \"batch\"")),
    }
    let Some((filename, parts, bytes)) = form.file else {
        return Err(ApiError::invalid("file", "file: is missing"));
    };
    let age = form.expires_after.unwrap_or(shared.settings.file_age.as_secs());
    let file = FileObject {
        id: id.to_owned(),
        object: FileKind::File,
        bytes,
        created_at: now(),
        expires_at: Some(now() + age),
        filename,
        purpose: Purpose::Batch,
        status: FileStatus::Processed,
    };
    Ok(StoredFile { file, parts })
}

/// Stores a file part by part as it comes. Returns how many parts and bytes it has.
async fn content_of(shared: &Shared, owner: &Owner, id: &str, mut field: Field<'_>) -> Result<(u64, u64), ApiError> {
    let (mut parts, mut bytes, mut part) = (0, 0, BytesMut::new());
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        bytes += chunk.len() as u64;
        if bytes > shared.settings.max_file_bytes {
            let message =
                format!("file: it has more than {} bytes; send several files", shared.settings.max_file_bytes);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "file_too_large", message));
        }
        part.extend_from_slice(&chunk);
        if part.len() >= PART_BYTES {
            shared.store.put_part(owner, id, parts, part.split().freeze()).await?;
            parts += 1;
        }
    }
    if !part.is_empty() {
        shared.store.put_part(owner, id, parts, part.freeze()).await?;
        parts += 1;
    }
    Ok((parts, bytes))
}

async fn text(mut field: Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        text.extend_from_slice(&chunk);
        if text.len() > FIELD_BYTES {
            return Err(ApiError::invalid(name, format!("{name}: is longer than {FIELD_BYTES} bytes")));
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::invalid(name, format!("{name}: is not UTF-8")))
}

fn broken(error: MultipartError) -> ApiError {
    ApiError::invalid("file", format!("the form cannot be read: {}", error.body_text()))
}

#[derive(Deserialize)]
pub(super) struct FilesQuery {
    purpose: Option<Purpose>,
    #[serde(flatten)]
    listing: Listing,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    asked: Result<Query<FilesQuery>, QueryRejection>,
) -> Result<Json<Page<FileObject>>, ApiError> {
    let query = query(asked)?;
    let ids = shared.store.files(&whose.0).await?;
    let wanted = query.purpose;
    let read = |id: String| {
        let (shared, owner) = (Arc::clone(&shared), whose.0.clone());
        async move {
            let file = found(&shared, &owner, &id).await?.map(|file| file.file);
            Ok(file.filter(|file| wanted.is_none_or(|purpose| file.purpose == purpose)))
        }
    };
    Ok(Json(page(ids, &query.listing, read, |file: &FileObject| file.id.clone()).await?))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    Path(id): Path<String>,
) -> Result<Json<FileObject>, ApiError> {
    Ok(Json(file(&shared, &whose.0, &id).await?.file))
}

pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    Path(id): Path<String>,
) -> Result<Json<DeletedFile>, ApiError> {
    let stored = file(&shared, &whose.0, &id).await?;
    shared.store.remove_file(&whose.0, &stored.file.id).await?;
    Ok(Json(DeletedFile { id: stored.file.id, object: FileKind::File, deleted: true }))
}

pub(super) async fn content(
    State(shared): State<Arc<Shared>>,
    whose: Whose,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let stored = file(&shared, &whose.0, &id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_LENGTH, stored.file.bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(shared.store.content(&whose.0, &stored))).into_response())
}

async fn file(shared: &Shared, owner: &Owner, id: &str) -> Result<StoredFile, ApiError> {
    found(shared, owner, id).await?.ok_or_else(|| missing("file", id))
}
