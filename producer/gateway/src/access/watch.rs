//! The keys as their file has them now.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;

use super::keys::{Keys, KeysError};

/// How often the file is looked at. It is small, and may be a link that is moved, so it is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The keys as their file has them now.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    keys: ArcSwap<Keys>,
    file: Option<PathBuf>,
    /// What the keys were read from: what is in the file when it is looked at first may be another text already.
    opened: Option<String>,
    environment: Option<String>,
}

impl KeyWatch {
    pub(crate) fn open(file: Option<PathBuf>, environment: Option<String>) -> Result<Self, KeysError> {
        let text = file.as_deref().map(read).transpose()?;
        let from = file.as_deref().zip(text.as_deref());
        let keys = Keys::read(from, environment.as_deref(), &Keys::default())?;
        Ok(Self { keys: ArcSwap::from_pointee(keys), file, opened: text, environment })
    }

    pub(crate) fn now(&self) -> arc_swap::Guard<Arc<Keys>> {
        self.keys.load()
    }

    /// Looks at the file for ever. One that cannot be read, or says what cannot be, changes nothing, and is told of once.
    pub(crate) async fn follow(&self) {
        let Some(path) = &self.file else { return };
        let mut last = self.opened.clone();
        let mut complaint = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path_of = path.clone();
            // It may lie on a disk that is far away.
            let Ok(text) = tokio::task::spawn_blocking(move || read(&path_of)).await else { continue };
            let new = match text {
                Ok(text) if last.as_ref() == Some(&text) => continue,
                Ok(text) => {
                    let keys = Keys::read(Some((path, &text)), self.environment.as_deref(), &self.keys.load());
                    last = Some(text);
                    keys
                }
                Err(error) => Err(error),
            };
            match new {
                Ok(keys) => {
                    self.keys.store(Arc::new(keys));
                    complaint = None;
                    tracing::warn!(file = %path.display(), "the keys were read anew");
                }
                Err(error) => {
                    let error = error.to_string();
                    if complaint.as_ref() != Some(&error) {
                        tracing::error!("{error}; the keys of before go on");
                        complaint = Some(error);
                    }
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<String, KeysError> {
    std::fs::read_to_string(path).map_err(|source| KeysError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{super::keys::new_key, *};

    #[tokio::test]
    async fn a_change_before_the_first_look_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        let ((_, first), (key, second)) = (new_key("first", [1; 32]), new_key("second", [2; 32]));
        std::fs::write(&file, first).unwrap();
        let watch = KeyWatch::open(Some(file.clone()), None).unwrap();
        std::fs::write(&file, second).unwrap();
        let known = async {
            while watch.now().find(key.as_bytes()).is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = watch.follow() => unreachable!("it goes on for ever"),
            known = tokio::time::timeout(embed_testkit::PATIENCE, known) => known.expect("the new keys are known"),
        }
    }
}
