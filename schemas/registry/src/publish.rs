//! From a folder to a version of the registry: verified, resumable, seen when whole, never changed afterwards.
//!
//! `.upload.json` is made first and names the content, so that two people who publish different content under one version do not
//! overwrite each other's files; `metadata.json` is written last, and with it the version is there.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use embed_schemas::{
    ModelMetadata, Slug, Storage,
    model::{FileRef, GoldenSet, METADATA_FILE, MODELS_DIR, version_path},
    model_limits::MAX_GOLDEN_BYTES,
};
use object_store::{Error as StoreError, PutMode, PutOptions, path::Path as ObjectPath};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Progress, Registry, RegistryError, Step, check_version,
    integrity::Sum,
    layout::{self, MAX_JSON_BYTES, UPLOAD_FILE, check_metadata, too_large},
    local,
    upload::Upload,
    verify::sum_local,
};

/// What two imports of the same content need not share: the time, and golden vectors, whose last bits depend on the processor.
const IMPORT_SPECIFIC: [&str; 2] = ["created_at", "golden"];

/// A version that is in the registry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The model.
    pub model: Slug,
    /// The version.
    pub version: String,
    /// Whether it was there before, with the same content.
    pub already: bool,
    /// Files that were sent.
    pub uploaded: Vec<FileRef>,
    /// Files that were there, from an upload that was interrupted.
    pub resumed: Vec<FileRef>,
}

/// `.upload.json`: somebody is publishing this version.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    /// SHA-256 of the `metadata.json` that will be written.
    content: String,
}

/// A version in a folder.
struct Local {
    dir: PathBuf,
    metadata: ModelMetadata,
    /// `metadata.json` as it is.
    json: Vec<u8>,
    files: Vec<FileRef>,
}

impl Registry {
    /// Publishes the version in a folder: `metadata.json`, and the files that it lists. Does not make it current.
    ///
    /// Interrupted, it can be repeated: files that are there are not sent again.
    ///
    /// # Errors
    /// If the folder is not a version or a file not what the metadata says; [`RegistryError::Published`] if the version is there
    /// with other content; [`RegistryError::NameTaken`] if another model has the slug.
    pub async fn publish(&self, dir: &Path, progress: &dyn Progress) -> Result<Published, RegistryError> {
        let local = Local::read(dir).await?;
        local.verify(progress).await?;
        let metadata = &local.metadata;
        let mut published = Published {
            model: metadata.slug.clone(),
            version: metadata.version.clone(),
            already: true,
            uploaded: Vec::new(),
            resumed: Vec::new(),
        };
        self.check_name(metadata).await?;
        if self.is_published(&local).await? {
            return Ok(published);
        }
        let claim = version_path(&metadata.slug, &metadata.version, UPLOAD_FILE);
        self.claim(&local, &claim).await?;
        // Whoever had the claim before may have finished in between.
        if !self.is_published(&local).await? {
            for file in &local.files {
                let path = version_path(&metadata.slug, &metadata.version, &file.file);
                if self.is_uploaded(&path, file).await? {
                    progress.begin(Step::Skip, &file.file, file.bytes);
                    published.resumed.push(file.clone());
                    continue;
                }
                let (model, version, from) = (&metadata.slug, metadata.version.as_str(), local.dir.join(&file.file));
                self.upload(&Upload { model, version, file, local: &from, path: &path }, progress).await?;
                published.uploaded.push(file.clone());
            }
            published.already = !self.write_metadata(&local).await?;
        }
        self.delete(&claim).await?;
        Ok(published)
    }

    /// Two models that share a slug would share subjects.
    async fn check_name(&self, metadata: &ModelMetadata) -> Result<(), RegistryError> {
        for version in self.versions(&metadata.slug).await? {
            // A version that is broken says nothing of the name; `verify` is there to find it.
            let Ok(other) = self.metadata(&metadata.slug, &version).await else { continue };
            if other.model_name != metadata.model_name {
                return Err(RegistryError::NameTaken {
                    location: self.location().to_owned(),
                    model: metadata.slug.clone(),
                    new: metadata.model_name.clone(),
                    existing: other.model_name,
                });
            }
        }
        Ok(())
    }

    /// Whether the version is there with the same content.
    async fn is_published(&self, local: &Local) -> Result<bool, RegistryError> {
        let metadata = &local.metadata;
        let path = version_path(&metadata.slug, &metadata.version, METADATA_FILE);
        let there = match self.read_at_most(&path, MAX_JSON_BYTES).await {
            Err(RegistryError::Missing { .. }) => return Ok(false),
            other => other?,
        };
        match self.first_difference(local, &there).await? {
            None => Ok(true),
            Some(differs) => Err(RegistryError::Published {
                location: self.location().to_owned(),
                model: metadata.slug.clone(),
                version: metadata.version.clone(),
                differs,
            }),
        }
    }

    async fn first_difference(&self, local: &Local, there: &[u8]) -> Result<Option<String>, RegistryError> {
        let (Ok(Value::Object(new)), Ok(Value::Object(old))) =
            (serde_json::from_slice(&local.json), serde_json::from_slice(there))
        else {
            return Ok(Some(METADATA_FILE.to_owned()));
        };
        let mut keys = new.keys().chain(old.keys()).filter(|key| !IMPORT_SPECIFIC.contains(&key.as_str()));
        if let Some(key) = keys.find(|key| new.get(*key) != old.get(*key)) {
            return Ok(Some(format!("{METADATA_FILE} (`{key}`)")));
        }
        let golden = &local.metadata.golden;
        let old: Option<FileRef> = old.get("golden").and_then(|golden| FileRef::deserialize(golden).ok());
        if old.as_ref().is_some_and(|old| old.sha256 == golden.sha256) {
            return Ok(None);
        }
        let ours = local.dir.join(&golden.file);
        let open = local::open_named(&ours).map_err(RegistryError::io(&ours))?;
        let ours = local::read_file(&open, golden).map_err(RegistryError::io(&ours))?;
        let path = version_path(&local.metadata.slug, &local.metadata.version, &golden.file);
        let same = match self.read_at_most(&path, MAX_GOLDEN_BYTES).await {
            Ok(theirs) => same_golden(&ours, &theirs, local.metadata.dimension as usize),
            Err(RegistryError::Missing { .. }) => false,
            Err(error) => return Err(error),
        };
        Ok((!same).then(|| golden.file.clone()))
    }

    /// Says that this content is being published here. The same content may be resumed.
    async fn claim(&self, local: &Local, path: &str) -> Result<(), RegistryError> {
        let mut content = Sum::default();
        content.update(&local.json);
        let claim = Claim { content: content.hex() };
        let json = serde_json::to_vec(&claim).expect("a claim is JSON");
        if self.create(path, json).await? {
            return Ok(());
        }
        let there = match self.get(path).await {
            // Finished or removed at this moment; the next try will see.
            Err(RegistryError::Missing { .. }) => None,
            other => Some(other?),
        };
        let since = there.as_ref().map_or_else(SystemTime::now, |there| there.meta.last_modified.into());
        let same = match there {
            Some(there) => {
                let bytes = there.bytes().await.map_err(|error| self.store_error(path, error))?;
                serde_json::from_slice::<Claim>(&bytes).is_ok_and(|there| there == claim)
            }
            None => false,
        };
        if same {
            return Ok(());
        }
        Err(RegistryError::Uploading {
            location: self.location().to_owned(),
            model: local.metadata.slug.clone(),
            version: local.metadata.version.clone(),
            since: humantime::format_rfc3339_seconds(since).to_string(),
        })
    }

    /// `false`: another process was first, with the same content.
    async fn write_metadata(&self, local: &Local) -> Result<bool, RegistryError> {
        let path = version_path(&local.metadata.slug, &local.metadata.version, METADATA_FILE);
        let is_ours = self.create(&path, local.json.clone()).await?;
        // A put whose answer was lost is repeated, and then meets itself; else this tells what is there.
        if !is_ours {
            self.is_published(local).await?;
        }
        Ok(is_ours)
    }

    /// `false`: it is there already.
    async fn create(&self, path: &str, content: Vec<u8>) -> Result<bool, RegistryError> {
        self.check_place(path)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store().put_opts(&ObjectPath::from(path), content.into(), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(error) => Err(self.store_error(path, error)),
        }
    }
}

impl Local {
    async fn read(dir: &Path) -> Result<Self, RegistryError> {
        let path = dir.join(METADATA_FILE);
        let fail = |reason: String| RegistryError::NotAVersion { path: path.clone(), reason };
        let read = || local::read(&local::open_named(&path)?, MAX_JSON_BYTES);
        let json = read().map_err(|error| match error.kind() {
            ErrorKind::NotFound => fail(format!(
                "there is no such file; name the folder of one version, such as REGISTRY/{MODELS_DIR}/SLUG/VERSION as `embed-models import` writes it"
            )),
            _ => RegistryError::Io { path: path.clone(), source: error },
        })?;
        let json = json.ok_or_else(|| fail(too_large(MAX_JSON_BYTES)))?;
        let metadata: ModelMetadata = serde_json::from_slice(&json).map_err(|error| fail(error.to_string()))?;
        check_version(&metadata.version).map_err(|reason| fail(format!("`version`: {reason}")))?;
        check_metadata(&metadata, &metadata.slug, &metadata.version).map_err(fail)?;
        let files = layout::files(&metadata).map_err(fail)?;
        Ok(Self { dir: dir.to_owned(), metadata, json, files })
    }

    async fn verify(&self, progress: &dyn Progress) -> Result<(), RegistryError> {
        for file in &self.files {
            let path = self.dir.join(&file.file);
            let open = match local::open_named(&path) {
                Ok(open) => open,
                Err(error) => {
                    let reason = match error.kind() {
                        ErrorKind::NotFound => format!("there is no such file, but {METADATA_FILE} lists it"),
                        _ => format!("{error}; {METADATA_FILE} lists it"),
                    };
                    return Err(RegistryError::NotAVersion { path, reason });
                }
            };
            progress.begin(Step::Verify, &file.file, file.bytes);
            sum_local(open, &path, progress)
                .await?
                .check(file)
                .map_err(RegistryError::integrity(&self.metadata.slug, &self.metadata.version))?;
        }
        Ok(())
    }
}

/// Whether two golden files demand the same of a version: everything but the vectors is equal, and those agree within the tolerance.
fn same_golden(a: &[u8], b: &[u8], dimension: usize) -> bool {
    let read = |json: &[u8]| serde_json::from_slice::<GoldenSet>(json).ok();
    let (Some(a), Some(b)) = (read(a), read(b)) else { return false };
    let vector = |text: &str| Some(Storage::F32.decode_row(&BASE64_STANDARD.decode(text).ok()?, dimension));
    a.tolerance == b.tolerance
        && a.items.len() == b.items.len()
        && a.items.iter().zip(&b.items).all(|(x, y)| {
            let same = (&x.text, &x.prompt, x.tokens, x.truncated) == (&y.text, &y.prompt, y.tokens, y.truncated);
            let (x, y) = (vector(&x.vector_f32_base64), vector(&y.vector_f32_base64));
            let close = |x: Vec<f32>, y: Vec<f32>| {
                x.len() == y.len() && x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= a.tolerance)
            };
            same && x.zip(y).is_some_and(|(x, y)| close(x, y))
        })
}

#[cfg(test)]
mod tests {
    use embed_schemas::model::GoldenItem;

    use super::*;

    fn golden(text: &str, vector: &[f32]) -> Vec<u8> {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let item = GoldenItem {
            text: text.into(),
            prompt: None,
            tokens: 3,
            truncated: false,
            vector_f32_base64: BASE64_STANDARD.encode(bytes),
        };
        serde_json::to_vec(&GoldenSet { tolerance: 1e-3, items: vec![item] }).unwrap()
    }

    #[test]
    fn golden_files_of_two_processors() {
        let first = golden("a", &[0.1, 0.2]);
        assert!(same_golden(&first, &golden("a", &[0.1005, 0.2]), 2));
        assert!(!same_golden(&first, &golden("a", &[0.11, 0.2]), 2));
        assert!(!same_golden(&first, &golden("b", &[0.1, 0.2]), 2));
        assert!(!same_golden(&first, &golden("a", &[f32::NAN, 0.2]), 2));
        assert!(!same_golden(&first, b"{}", 2));
    }
}
