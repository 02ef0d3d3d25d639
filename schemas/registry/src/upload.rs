//! One file on its way into the registry: in parts, summed again while it is read, and seen only when whole.

use std::path::Path;

use bytes::Bytes;
use embed_schemas::{Slug, model::FileRef};
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, PutMultipartOptions, PutOptions, WriteMultipart,
    path::Path as ObjectPath,
};
use tokio::io::AsyncReadExt;

use crate::{Progress, Registry, RegistryError, Step, integrity::Sum, local};

/// Bytes of a part. S3 wants at least 5 MiB and at most 10,000 parts.
const PART: usize = 16 << 20;
/// Parts that are under way at once.
const PARTS_AT_ONCE: usize = 4;
/// Where a bucket keeps, beside an object, what its SHA-256 is.
const SHA256: Attribute = Attribute::Metadata(std::borrow::Cow::Borrowed("sha256"));

/// A file that is to be uploaded.
pub(crate) struct Upload<'a> {
    pub(crate) model: &'a Slug,
    pub(crate) version: &'a str,
    pub(crate) file: &'a FileRef,
    /// Where it is.
    pub(crate) local: &'a Path,
    /// Where it goes.
    pub(crate) path: &'a str,
}

impl Registry {
    /// Whether the file is there already, whole, with the right content: then an upload that was interrupted goes on after it.
    pub(crate) async fn is_uploaded(&self, path: &str, file: &FileRef) -> Result<bool, RegistryError> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.store().get_opts(&ObjectPath::from(path), head).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.store_error(path, error)),
        };
        if found.meta.size != file.bytes {
            return Ok(false);
        }
        match found.attributes.get(&SHA256) {
            // It was written by the same request as the content.
            Some(sha256) => Ok(sha256.as_ref() == file.sha256),
            None => Ok(self.sum(path, &()).await?.check(file).is_ok()),
        }
    }

    /// Uploads a file. Nothing is seen of it if it fails, or if the file is no longer what the metadata says.
    pub(crate) async fn upload(&self, upload: &Upload<'_>, progress: &dyn Progress) -> Result<(), RegistryError> {
        progress.begin(Step::Upload, &upload.file.file, upload.file.bytes);
        self.check_place(upload.path)?;
        let local = local::open_named(upload.local).map_err(RegistryError::io(upload.local))?;
        let mut local = tokio::fs::File::from_std(local);
        let mut sum = Sum::default();
        let first = read_part(&mut local, upload.local, &mut sum).await?;
        let (path, failed) = (ObjectPath::from(upload.path), |error| self.store_error(upload.path, error));
        if first.len() < PART {
            let length = first.len() as u64;
            check(sum, upload)?;
            let options = PutOptions { attributes: self.attributes(upload.file), ..PutOptions::default() };
            self.store().put_opts(&path, first.into(), options).await.map_err(failed)?;
            progress.advance(length);
            return Ok(());
        }
        let options =
            PutMultipartOptions { attributes: self.attributes(upload.file), ..PutMultipartOptions::default() };
        let parts = self.store().put_multipart_opts(&path, options).await.map_err(failed)?;
        let mut parts = WriteMultipart::new_with_chunk_size(parts, PART);
        match self.send_parts(first, &mut local, upload, sum, &mut parts, progress).await {
            Ok(()) => parts.finish().await.map(|_| ()).map_err(failed),
            Err(error) => {
                // The reason is what is told; parts that stay behind are not seen, and the bucket's own rules remove them.
                let _ = parts.abort().await;
                Err(error)
            }
        }
    }

    async fn send_parts(
        &self,
        first: Bytes,
        local: &mut tokio::fs::File,
        upload: &Upload<'_>,
        mut sum: Sum,
        parts: &mut WriteMultipart,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let mut part = first;
        while !part.is_empty() {
            parts.wait_for_capacity(PARTS_AT_ONCE).await.map_err(|error| self.store_error(upload.path, error))?;
            let length = part.len() as u64;
            parts.put(part);
            progress.advance(length);
            part = read_part(local, upload.local, &mut sum).await?;
        }
        check(sum, upload)
    }

    /// Folders keep no attributes.
    fn attributes(&self, file: &FileRef) -> Attributes {
        match self.folder() {
            Some(_) => Attributes::new(),
            None => Attributes::from_iter([(SHA256, file.sha256.clone())]),
        }
    }
}

async fn read_part(local: &mut tokio::fs::File, path: &Path, sum: &mut Sum) -> Result<Bytes, RegistryError> {
    let mut part = Vec::with_capacity(PART);
    local.take(PART as u64).read_to_end(&mut part).await.map_err(RegistryError::io(path))?;
    sum.update(&part);
    Ok(part.into())
}

fn check(sum: Sum, upload: &Upload<'_>) -> Result<(), RegistryError> {
    sum.check(upload.file).map_err(RegistryError::integrity(upload.model, upload.version))
}
