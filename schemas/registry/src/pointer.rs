//! Which version is current: a pointer that moves in one step, only from where its mover saw it, and keeps its history.
//!
//! In a bucket that is a conditional put. A folder has none, so there the step is made under a lock between processes; a
//! reader sees the old pointer or the new one in both.

use std::{io::Write, path::Path, time::Duration};

use embed_schemas::{
    CurrentPointer, Slug,
    model::{PointerMove, current_path},
};
use object_store::{Error as StoreError, GetResult, PutMode, PutOptions, UpdateVersion, path::Path as ObjectPath};

use crate::{Registry, RegistryError, layout::MAX_JSON_BYTES, local, lock};

/// Moves that the history keeps, the last ones: what is read at every look at a model must not grow for ever.
const MOVES_KEPT: usize = 1000;

/// The lock is held for as long as it takes to write one small file.
const LONGEST_LOCK: Duration = Duration::from_secs(10);

/// The pointer as it was read, with what is needed to move it from there only.
struct Seen {
    pointer: Option<CurrentPointer>,
    at: Option<UpdateVersion>,
}

impl Seen {
    fn version(&self) -> Option<&str> {
        self.pointer.as_ref().map(|pointer| pointer.version.as_str())
    }
}

impl Registry {
    /// Makes a version current. `None`: it was already. `who` and `when` (RFC 3339) go into the history.
    ///
    /// # Errors
    /// If the version is not there, or its metadata is not in order; [`RegistryError::Conflict`] if somebody else moved the pointer
    /// in the meantime.
    pub async fn promote(
        &self,
        model: &Slug,
        version: &str,
        who: &str,
        when: &str,
    ) -> Result<Option<PointerMove>, RegistryError> {
        self.metadata(model, version).await?;
        let seen = self.seen(model).await?;
        self.move_pointer(model, seen, version, who, when).await
    }

    /// As [`Registry::promote`], but only if `from` is current: what was decided on an older view of things is not done.
    ///
    /// # Errors
    /// As [`Registry::promote`]; [`RegistryError::Conflict`] also if another version than `from` is current.
    pub async fn promote_from(
        &self,
        model: &Slug,
        from: &str,
        version: &str,
        who: &str,
        when: &str,
    ) -> Result<Option<PointerMove>, RegistryError> {
        self.metadata(model, version).await?;
        let seen = self.seen(model).await?;
        if seen.version() != Some(from) {
            return Err(self.conflict(model, Some(from), seen.pointer.as_ref()));
        }
        self.move_pointer(model, seen, version, who, when).await
    }

    /// Makes the version current that was before the last move. Doing it twice leads back.
    ///
    /// # Errors
    /// [`RegistryError::NoPrevious`] if there was none or it is gone; else as [`Registry::promote`].
    pub async fn rollback(&self, model: &Slug, who: &str, when: &str) -> Result<PointerMove, RegistryError> {
        self.current(model).await?;
        let seen = self.seen(model).await?;
        let fail = |reason: String| RegistryError::NoPrevious {
            location: self.location().to_owned(),
            model: model.clone(),
            reason,
        };
        let last = seen.pointer.as_ref().and_then(|pointer| pointer.history.last());
        let previous = last.and_then(|last| last.from.clone());
        let previous = previous.ok_or_else(|| fail("no version was current before this one".into()))?;
        match self.metadata(model, &previous).await {
            Err(RegistryError::UnknownVersion { .. }) => {
                return Err(fail(format!("{previous}, which was current before, has been removed")));
            }
            other => other?,
        };
        let moved = self.move_pointer(model, seen, &previous, who, when).await?;
        moved.ok_or_else(|| fail(format!("{previous} is current, and was current before")))
    }

    async fn seen(&self, model: &Slug) -> Result<Seen, RegistryError> {
        let path = current_path(model);
        let found = match self.get(&path).await {
            Err(RegistryError::Missing { .. }) => return Ok(Seen { pointer: None, at: None }),
            other => other?,
        };
        let at = update_version(&found);
        let bytes = self.bytes_of(&path, found, MAX_JSON_BYTES).await?;
        let pointer = serde_json::from_slice(&bytes).map_err(|error| self.invalid(&path, error.to_string()))?;
        Ok(Seen { pointer: Some(pointer), at: Some(at) })
    }

    async fn move_pointer(
        &self,
        model: &Slug,
        seen: Seen,
        to: &str,
        who: &str,
        when: &str,
    ) -> Result<Option<PointerMove>, RegistryError> {
        let from = seen.version().map(str::to_owned);
        if from.as_deref() == Some(to) {
            return Ok(None);
        }
        let step = PointerMove { from: from.clone(), to: to.to_owned(), who: who.to_owned(), when: when.to_owned() };
        let mut history = seen.pointer.as_ref().map(|pointer| pointer.history.clone()).unwrap_or_default();
        history.push(step.clone());
        history.drain(..history.len().saturating_sub(MOVES_KEPT));
        let next = CurrentPointer { version: to.to_owned(), history };
        let mut json = serde_json::to_vec_pretty(&next).expect("a pointer is JSON");
        json.push(b'\n');
        let done = match self.folder() {
            Some(folder) => self.replace_in_folder(folder, model, &seen, &json).await?,
            None => self.replace_in_bucket(model, &seen, json).await?,
        };
        if done {
            return Ok(Some(step));
        }
        let now = self.seen(model).await?.pointer;
        // A put whose answer was lost is repeated, and then meets itself.
        if now.as_ref() == Some(&next) {
            return Ok(Some(step));
        }
        Err(self.conflict(model, from.as_deref(), now.as_ref()))
    }

    async fn replace_in_bucket(&self, model: &Slug, seen: &Seen, json: Vec<u8>) -> Result<bool, RegistryError> {
        let path = current_path(model);
        let mode = seen.at.clone().map_or(PutMode::Create, PutMode::Update);
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store().put_opts(&ObjectPath::from(path.as_str()), json.into(), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotFound { .. }) => {
                Ok(false)
            }
            Err(error) => Err(self.store_error(&path, error)),
        }
    }

    async fn replace_in_folder(
        &self,
        folder: &Path,
        model: &Slug,
        seen: &Seen,
        json: &[u8],
    ) -> Result<bool, RegistryError> {
        let path = folder.join(current_path(model));
        let name = |suffix: &str| path.with_file_name(format!(".current.json.{suffix}"));
        self.check_place(&current_path(model))?;
        let lock = lock::lock_briefly(&name("lock"), LONGEST_LOCK).await?;
        if self.seen(model).await?.pointer != seen.pointer {
            return Ok(false);
        }
        // The lock is ours, so the name is.
        let partial = name("partial");
        let write = || {
            let mut file = local::open_to_write(&partial, true)?;
            file.write_all(json)?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)?;
            path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
        };
        write().map_err(RegistryError::io(&path))?;
        drop(lock);
        Ok(true)
    }

    fn conflict(&self, model: &Slug, expected: Option<&str>, now: Option<&CurrentPointer>) -> RegistryError {
        RegistryError::Conflict {
            location: self.location().to_owned(),
            model: model.clone(),
            expected: expected.map(str::to_owned),
            by: now.and_then(|pointer| pointer.history.last().cloned()).map(Box::new),
        }
    }
}

fn update_version(found: &GetResult) -> UpdateVersion {
    UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() }
}
