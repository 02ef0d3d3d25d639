//! The pointer to the current version in a registry that is a folder.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, ensure};
use embed_schemas::{
    CurrentPointer, Slug,
    model::{METADATA_FILE, MODELS_DIR, PointerMove, current_path},
};

/// A model in a registry that is a folder.
#[derive(Debug, Clone)]
pub struct Pointer {
    folder: PathBuf,
    file: PathBuf,
}

impl Pointer {
    /// Finds a model's pointer.
    ///
    /// # Errors
    /// If the registry is none of files, or has no current version of the model.
    pub fn open(registry: &str, model: &Slug) -> anyhow::Result<Self> {
        let root = embed_producer::registry::folder(registry)?;
        let found = Self { folder: root.join(MODELS_DIR).join(model.as_str()), file: root.join(current_path(model)) };
        found.read()?;
        Ok(found)
    }

    /// The current version.
    ///
    /// # Errors
    /// If the pointer cannot be read.
    pub fn current(&self) -> anyhow::Result<String> {
        Ok(self.read()?.version)
    }

    /// The versions of the model, in the order of their names.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn versions(&self) -> anyhow::Result<Vec<String>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.folder).with_context(|| self.folder.display().to_string())? {
            let entry = entry?;
            if entry.path().join(METADATA_FILE).is_file() {
                versions.extend(entry.file_name().into_string());
            }
        }
        versions.sort();
        Ok(versions)
    }

    /// Points at another version, in one step.
    ///
    /// # Errors
    /// If there is no such version, or the pointer cannot be written.
    pub fn promote(&self, version: &str) -> anyhow::Result<()> {
        let metadata = self.folder.join(version).join(METADATA_FILE);
        ensure!(metadata.is_file(), "{}: there is no version {version}", metadata.display());
        let mut pointer = self.read()?;
        pointer.history.push(PointerMove {
            from: Some(pointer.version),
            to: version.to_owned(),
            who: "embed-loadtest".to_owned(),
            when: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        });
        pointer.version = version.to_owned();
        replace(&self.file, &serde_json::to_vec_pretty(&pointer)?).with_context(|| self.file.display().to_string())
    }

    fn read(&self) -> anyhow::Result<CurrentPointer> {
        let bytes = fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        serde_json::from_slice(&bytes).with_context(|| self.file.display().to_string())
    }
}

/// A reader finds the old content or the new, and nothing between.
fn replace(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let partial = file.with_extension("json.partial");
    let mut written = File::create(&partial)?;
    written.write_all(content)?;
    written.sync_all()?;
    fs::rename(partial, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_moves_and_remembers() {
        let root = tempfile::tempdir().unwrap();
        let model: Slug = "m".parse().unwrap();
        for version in ["v2", "v1"] {
            fs::create_dir_all(root.path().join("models/m").join(version)).unwrap();
            fs::write(root.path().join("models/m").join(version).join(METADATA_FILE), "{}").unwrap();
        }
        let registry = format!("file://{}", root.path().display());
        assert!(Pointer::open(&registry, &model).is_err(), "no version is current");
        fs::write(root.path().join(current_path(&model)), r#"{"version":"v1"}"#).unwrap();
        let pointer = Pointer::open(&registry, &model).unwrap();
        assert_eq!(pointer.versions().unwrap(), ["v1", "v2"]);
        pointer.promote("v2").unwrap();
        assert!(pointer.promote("v3").unwrap_err().to_string().contains("no version v3"));
        let found = pointer.read().unwrap();
        assert_eq!((found.version.as_str(), found.history[0].from.as_deref()), ("v2", Some("v1")));
    }
}
