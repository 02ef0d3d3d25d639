//! What nobody needs any more: old versions, and uploads that nobody finished.
//!
//! Parts of interrupted uploads that a bucket holds are not objects, and cannot be seen from here; a bucket's lifecycle rule
//! (`AbortIncompleteMultipartUpload` on S3) removes them.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use embed_schemas::{
    CurrentPointer, Slug,
    model::{METADATA_FILE, MODELS_DIR, current_path, version_path},
};
use object_store::ObjectMeta;

use crate::{Registry, RegistryError, check_version, layout::UPLOAD_FILE};

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The versions published last, whether they were ever current or not.
    pub newest: usize,
    /// The versions that the pointer's last moves came from or led to, so that there is something to go back to. At least one move.
    pub moves: usize,
    /// Uploads that were written to in the last while: somebody may be at it.
    pub uploads: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        Self { newest: 3, moves: 3, uploads: Duration::from_secs(24 * 3600) }
    }
}

/// Something that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The model.
    pub model: Slug,
    /// The version, or the name of what is left of an upload.
    pub name: String,
    /// Why nobody needs it.
    pub reason: &'static str,
    /// Bytes that it takes.
    pub bytes: u64,
}

impl Registry {
    /// Removes versions that are neither current nor among those that `keep` names, and what is left of uploads. A model without a
    /// current version keeps all of its versions. With `dry_run` nothing is removed.
    ///
    /// # Errors
    /// If the store fails, or a pointer cannot be read; what was removed until then is gone.
    pub async fn gc(&self, keep: &Keep, dry_run: bool, now: SystemTime) -> Result<Vec<Garbage>, RegistryError> {
        let mut garbage = Vec::new();
        for model in self.all_models().await? {
            self.gc_versions(&model, keep, dry_run, &mut garbage).await?;
            self.gc_uploads(&model, keep, dry_run, now, &mut garbage).await?;
            self.gc_engines(&model, dry_run, &mut garbage).await?;
            if let Some(folder) = self.folder() {
                gc_partials(&folder.join(MODELS_DIR).join(model.as_str()), &model, keep, dry_run, now, &mut garbage)?;
            }
        }
        Ok(garbage)
    }

    async fn gc_versions(
        &self,
        model: &Slug,
        keep: &Keep,
        dry_run: bool,
        garbage: &mut Vec<Garbage>,
    ) -> Result<(), RegistryError> {
        let versions = self.versions(model).await?;
        for version in &versions {
            // Asked anew for each: the pointer may have moved meanwhile.
            let Some(pointer) = self.pointer(model).await? else { return Ok(()) };
            if needed(&pointer, &versions, keep).contains(version.as_str()) {
                continue;
            }
            let reason = "neither current, nor recently so, nor new";
            garbage.push(self.remove(model, version, reason, dry_run).await?);
        }
        Ok(())
    }

    async fn gc_uploads(
        &self,
        model: &Slug,
        keep: &Keep,
        dry_run: bool,
        now: SystemTime,
        garbage: &mut Vec<Garbage>,
    ) -> Result<(), RegistryError> {
        for name in self.folders(&format!("{MODELS_DIR}/{model}")).await? {
            if check_version(&name).is_err() || self.head(&version_path(model, &name, METADATA_FILE)).await?.is_some() {
                continue;
            }
            let objects = self.objects(&format!("{MODELS_DIR}/{model}/{name}")).await?;
            // A folder that holds nothing is nothing in a bucket, and takes no room in a folder.
            if !objects.is_empty() && objects.iter().all(|object| is_old(object.last_modified.into(), keep, now)) {
                garbage.push(self.remove(model, &name, "an upload that nobody finished", dry_run).await?);
            }
        }
        Ok(())
    }

    async fn pointer(&self, model: &Slug) -> Result<Option<CurrentPointer>, RegistryError> {
        match self.read_json(&current_path(model)).await {
            Err(RegistryError::Missing { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    async fn remove(
        &self,
        model: &Slug,
        version: &str,
        reason: &'static str,
        dry_run: bool,
    ) -> Result<Garbage, RegistryError> {
        let mut objects = self.objects(&format!("{MODELS_DIR}/{model}/{version}")).await?;
        let bytes = objects.iter().map(|object| object.size).sum();
        // The metadata first, so that nobody sees half a version; the claim last, so that nobody publishes into one that goes.
        objects.sort_by_key(|object| match object.location.filename() {
            Some(METADATA_FILE) => 0,
            Some(UPLOAD_FILE) => 2,
            _ => 1,
        });
        if !dry_run {
            for ObjectMeta { location, .. } in &objects {
                self.delete(location.as_ref()).await?;
            }
        }
        Ok(Garbage { model: model.clone(), name: version.to_owned(), reason, bytes })
    }
}

/// Versions that must stay. `versions` in the order in which they were published.
fn needed<'a>(pointer: &'a CurrentPointer, versions: &'a [String], keep: &Keep) -> BTreeSet<&'a str> {
    let moves = pointer.history.iter().rev().take(keep.moves.max(1));
    let recent = moves.flat_map(|step| step.from.as_deref().into_iter().chain([step.to.as_str()]));
    let newest = versions.iter().rev().take(keep.newest).map(String::as_str);
    recent.chain(newest).chain([pointer.version.as_str()]).collect()
}

fn is_old(modified: SystemTime, keep: &Keep, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age > keep.uploads)
}

/// Folders that an importer died in: it writes a version beside its place, under a name that begins with a dot.
fn gc_partials(
    folder: &Path,
    model: &Slug,
    keep: &Keep,
    dry_run: bool,
    now: SystemTime,
    garbage: &mut Vec<Garbage>,
) -> Result<(), RegistryError> {
    for entry in fs::read_dir(folder).map_err(RegistryError::io(folder))? {
        let entry = entry.map_err(RegistryError::io(folder))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if !(name.starts_with('.') && name.ends_with(".partial") && path.is_dir()) {
            continue;
        }
        let files = || Ok(fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?.into_iter().map(|file| file.metadata()));
        let files: std::io::Result<Vec<fs::Metadata>> = files().and_then(Iterator::collect);
        let files = files.map_err(RegistryError::io(&path))?;
        let own = entry.metadata().and_then(|meta| meta.modified()).map_err(RegistryError::io(&path))?;
        let last = files.iter().filter_map(|file| file.modified().ok()).fold(own, SystemTime::max);
        if !is_old(last, keep, now) {
            continue;
        }
        if !dry_run {
            fs::remove_dir_all(&path).map_err(RegistryError::io(&path))?;
        }
        let bytes = files.iter().map(fs::Metadata::len).sum();
        garbage.push(Garbage { model: model.clone(), name, reason: "an import that nobody finished", bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use embed_schemas::model::PointerMove;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever moved, the current version and the one before it stay.
        #[test]
        fn what_a_rollback_needs_stays(moves in prop::collection::vec(0_u8..6, 1..12), newest in 0_usize..4, kept in 0_usize..4) {
            let versions: Vec<String> = (0..6).map(|n| format!("v{n}")).collect();
            let mut pointer = CurrentPointer { version: String::new(), history: Vec::new() };
            for n in moves {
                let from = pointer.history.last().map(|step: &PointerMove| step.to.clone());
                pointer.version = format!("v{n}");
                pointer.history.push(PointerMove { from, to: pointer.version.clone(), who: "x".into(), when: "y".into() });
            }
            let keep = Keep { newest, moves: kept, ..Keep::default() };
            let needed = needed(&pointer, &versions, &keep);
            prop_assert!(needed.contains(pointer.version.as_str()));
            if let Some(before) = pointer.history.last().and_then(|step| step.from.as_deref()) {
                prop_assert!(needed.contains(before));
            }
            for newest in versions.iter().rev().take(newest) {
                prop_assert!(needed.contains(newest.as_str()));
            }
        }
    }
}
