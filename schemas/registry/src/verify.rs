//! Whether what is in the registry is what was published: every byte is read.

use std::{fs::File, path::Path};

use embed_schemas::{
    ModelMetadata, Slug,
    model::{FileRef, version_path},
};
use futures::StreamExt;
use tokio::{sync::mpsc, task};

use crate::{
    IntegrityError, Progress, Registry, RegistryError, Step,
    integrity::{Sum, check_size, sum_file},
    layout, local,
};

/// What was found out about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCheck {
    /// The file, as the metadata lists it.
    pub file: FileRef,
    /// What is wrong with it, if anything is.
    pub problem: Option<FileProblem>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// It is not there.
    #[error("{0}: the file is missing; publish the version again")]
    Missing(String),
    /// It is something else than a file.
    #[error("{0}: this is {1}, and is not opened; publish the version again")]
    Irregular(String, &'static str),
    /// It is not what the metadata says.
    #[error(transparent)]
    Differs(#[from] IntegrityError),
}

impl Registry {
    /// Reads every file of a version and compares size and SHA-256 with the metadata. Problems of files are results, not errors.
    ///
    /// # Errors
    /// If the metadata is missing or broken, or the store fails.
    pub async fn verify(
        &self,
        model: &Slug,
        version: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<FileCheck>, RegistryError> {
        let metadata = self.metadata(model, version).await?;
        let mut checks = Vec::new();
        for file in self.files(&metadata)? {
            progress.begin(Step::Verify, &file.file, file.bytes);
            let path = version_path(model, version, &file.file);
            let found = match self.head(&path).await {
                Err(RegistryError::Irregular { what, .. }) => {
                    checks.push(FileCheck { problem: Some(FileProblem::Irregular(file.file.clone(), what)), file });
                    continue;
                }
                other => other?,
            };
            let problem = match found {
                None => Some(FileProblem::Missing(file.file.clone())),
                // A file of the wrong size need not be read.
                Some(meta) => match check_size(&file, meta.size) {
                    Ok(()) => self.sum(&path, progress).await?.check(&file).err().map(FileProblem::Differs),
                    Err(error) => Some(FileProblem::Differs(error)),
                },
            };
            checks.push(FileCheck { file, problem });
        }
        Ok(checks)
    }

    pub(crate) fn files(&self, metadata: &ModelMetadata) -> Result<Vec<FileRef>, RegistryError> {
        let path = version_path(&metadata.slug, &metadata.version, embed_schemas::model::METADATA_FILE);
        layout::files(metadata).map_err(|reason| self.invalid(&path, reason))
    }

    /// Size and SHA-256 of an object.
    pub(crate) async fn sum(&self, path: &str, progress: &dyn Progress) -> Result<Sum, RegistryError> {
        if let Some(root) = self.root() {
            let file = local::open_beneath(root, path).map_err(|error| self.open_error(path, error))?;
            return sum_local(file, &root.join(path), progress).await;
        }
        let mut content = self.get(path).await?.into_stream();
        let mut sum = Sum::default();
        while let Some(piece) = content.next().await {
            let piece = piece.map_err(|error| self.store_error(path, error))?;
            sum.update(&piece);
            progress.advance(piece.len() as u64);
        }
        Ok(sum)
    }
}

/// Size and SHA-256 of a local file.
pub(crate) async fn sum_local(file: File, path: &Path, progress: &dyn Progress) -> Result<Sum, RegistryError> {
    let (done, mut heard) = mpsc::unbounded_channel();
    // Nobody may be listening any more; then nobody waits for the sum either.
    let sum = task::spawn_blocking(move || {
        sum_file(file, |bytes| {
            let _ = done.send(bytes);
        })
    });
    while let Some(bytes) = heard.recv().await {
        progress.advance(bytes);
    }
    sum.await.map_err(std::io::Error::other).flatten().map_err(RegistryError::io(path))
}
