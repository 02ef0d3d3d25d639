//! Engines that were compiled from graphs for one kind of device: shared, so that a second machine need not build again.
//!
//! ```text
//! engines/<slug>/<SHA-256 of the graph>/<kind>/index.json      written last: names the files, with size and SHA-256
//! engines/<slug>/<SHA-256 of the graph>/<kind>/<SHA-256>       a file
//! ```
//!
//! What makes a kind is for the callers to know: the device's architecture, the compiler's version, its options.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use embed_schemas::{
    Slug,
    model::{FileRef, METADATA_FILE, version_path},
};
use futures::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path as ObjectPath};
use serde::{Deserialize, Serialize};

use crate::{
    Garbage, Registry, RegistryError,
    integrity::{Sum, sum_file},
    layout::{is_name, is_sha256},
    local,
    upload::Upload,
};

const ENGINES_DIR: &str = "engines";
const INDEX_FILE: &str = "index.json";
/// An engine is a file or two, with timings beside it.
const MAX_ENGINE_FILES: usize = 64;
/// An engine holds the weights of a graph, which has less than 2 GiB, and may hold them more than once.
const MAX_ENGINE_BYTES: u64 = 16 << 30;

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineKey<'a> {
    /// The model.
    pub model: &'a Slug,
    /// SHA-256 of the graph that it is compiled from.
    pub graph: &'a str,
    /// For which kind of device, by which compiler, with which options: letters, digits, `.`, `_` and `-`.
    pub kind: &'a str,
}

impl EngineKey<'_> {
    fn path(&self, name: &str) -> String {
        format!("{ENGINES_DIR}/{}/{}/{}/{name}", self.model, self.graph, self.kind)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    files: Vec<FileRef>,
}

impl Registry {
    /// Fetches an engine's files into a folder, if the registry has them. What is there already stays. Every file is verified, and
    /// is there when it is whole. Returns how many files came.
    ///
    /// # Errors
    /// If the store fails, a file is not what the index says, or the folder cannot be written.
    pub async fn fetch_engine(&self, key: &EngineKey<'_>, folder: &Path) -> Result<usize, RegistryError> {
        let path = key.path(INDEX_FILE);
        let index: Index = match self.read_json(&path).await {
            Err(RegistryError::Missing { .. }) => return Ok(0),
            other => other?,
        };
        if index.files.len() > MAX_ENGINE_FILES || index.files.iter().any(|file| file.bytes > MAX_ENGINE_BYTES) {
            let reason =
                format!("`files` may name {MAX_ENGINE_FILES} files of {MAX_ENGINE_BYTES} bytes each, and no more");
            return Err(self.invalid(&path, reason));
        }
        std::fs::create_dir_all(folder).map_err(RegistryError::io(folder))?;
        let mut fetched = 0;
        for file in &index.files {
            if !is_name(&file.file, 255) || !is_sha256(&file.sha256) {
                return Err(self.invalid(&path, format!("{:?} cannot be a file of an engine", file.file)));
            }
            let target = folder.join(&file.file);
            if !target.exists() {
                self.fetch_file(key, file, &target).await?;
                fetched += 1;
            }
        }
        Ok(fetched)
    }

    async fn fetch_file(&self, key: &EngineKey<'_>, file: &FileRef, target: &Path) -> Result<(), RegistryError> {
        let path = key.path(&file.sha256);
        // Nobody takes a part for the whole, and nobody who fetches at the same time writes into it.
        let partial = PathBuf::from(format!("{}.{}.partial", target.display(), std::process::id()));
        let fetch = async {
            let mut content = self.get(&path).await?.into_stream();
            let mut local = std::fs::File::create(&partial).map_err(RegistryError::io(&partial))?;
            let mut sum = Sum::default();
            while let Some(piece) = content.try_next().await.map_err(|error| self.store_error(&path, error))? {
                sum.update(&piece);
                if sum.bytes() > file.bytes {
                    break;
                }
                local.write_all(&piece).map_err(RegistryError::io(&partial))?;
            }
            sum.check(file).map_err(|error| self.invalid(&path, error.to_string()))?;
            local.sync_all().and_then(|()| std::fs::rename(&partial, target)).map_err(RegistryError::io(target))
        };
        let result = fetch.await;
        if result.is_err() {
            // What is left of it is of no use; the reason is what is told.
            let _ = std::fs::remove_file(&partial);
        }
        result
    }

    /// Puts the files of a folder into the registry as an engine, if they are not what it has. `version` is only for messages.
    /// Returns whether there was anything new.
    ///
    /// # Errors
    /// If the folder cannot be read, or the store fails; the engine that was there before is then still there.
    pub async fn share_engine(&self, key: &EngineKey<'_>, version: &str, folder: &Path) -> Result<bool, RegistryError> {
        let files = list(folder).map_err(RegistryError::io(folder))?;
        let path = key.path(INDEX_FILE);
        let index = Index { files };
        let there: Option<Index> = match self.read_json(&path).await {
            Ok(index) => Some(index),
            Err(RegistryError::Missing { .. } | RegistryError::Invalid { .. }) => None,
            Err(error) => return Err(error),
        };
        if index.files.is_empty() || there.as_ref() == Some(&index) {
            return Ok(false);
        }
        for file in &index.files {
            let path = key.path(&file.sha256);
            if !self.is_uploaded(&path, file).await? {
                let local = folder.join(&file.file);
                let upload = Upload { model: key.model, version, file, local: &local, path: &path };
                self.upload(&upload, &()).await?;
            }
        }
        let content = serde_json::to_vec_pretty(&index).expect("an index has string keys");
        self.store()
            .put(&ObjectPath::from(path.as_str()), content.into())
            .await
            .map_err(|e| self.store_error(&path, e))?;
        // What the index before named, and this one does not.
        let named: BTreeSet<&str> = index.files.iter().map(|file| file.sha256.as_str()).collect();
        for old in there.iter().flat_map(|index| &index.files).filter(|file| !named.contains(file.sha256.as_str())) {
            self.delete(&key.path(&old.sha256)).await?;
        }
        Ok(true)
    }

    /// Removes engines of graphs that no version of the model has any more.
    pub(crate) async fn gc_engines(
        &self,
        model: &Slug,
        dry_run: bool,
        garbage: &mut Vec<Garbage>,
    ) -> Result<(), RegistryError> {
        let graphs = self.folders(&format!("{ENGINES_DIR}/{model}")).await?;
        if graphs.is_empty() {
            return Ok(());
        }
        let mut needed = BTreeSet::new();
        for version in self.versions(model).await? {
            // One that is being removed at this moment needs nothing.
            if self.head(&version_path(model, &version, METADATA_FILE)).await?.is_some() {
                let metadata = self.metadata(model, &version).await?;
                needed.extend(metadata.artefacts.into_iter().map(|artefact| artefact.file.sha256));
            }
        }
        for graph in graphs.into_iter().filter(|graph| !needed.contains(graph)) {
            let objects = self.objects(&format!("{ENGINES_DIR}/{model}/{graph}")).await?;
            if !dry_run {
                for object in &objects {
                    self.delete(object.location.as_ref()).await?;
                }
            }
            let bytes = objects.iter().map(|object| object.size).sum();
            let name = format!("engines of {}", graph.get(..12).unwrap_or(&graph));
            garbage.push(Garbage { model: model.clone(), name, reason: "no version has this graph", bytes });
        }
        Ok(())
    }
}

/// The files of a folder, summed, by name. What is being written is not among them.
fn list(folder: &Path) -> io::Result<Vec<FileRef>> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && is_name(&file, 255) && !file.ends_with(".partial") {
            let Ok(open) = local::open_regular(&entry.path()) else { continue };
            let sum = sum_file(open, |_| ())?;
            files.push(FileRef { file, bytes: sum.bytes(), sha256: sum.hex() });
        }
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(files)
}
