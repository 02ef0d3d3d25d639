//! A registry in a folder.

use std::fs;

use crate::support::{Version, content, slug};
use embed_registry::{Cache, Keep, Registry, RegistryError};

struct Folder {
    root: tempfile::TempDir,
    registry: Registry,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let registry = Registry::open(&format!("file://{}", root.path().display())).unwrap();
        Self { root, registry }
    }

    async fn delete(&self, path: &str) {
        fs::remove_file(self.root.path().join(path)).unwrap();
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[tokio::test]
async fn versions_are_published_once() {
    crate::support::publishing(&Folder::new().registry).await;
}

#[tokio::test]
async fn uploads_resume() {
    let folder = Folder::new();
    crate::support::resuming(
        &folder.registry,
        async |path| folder.delete(path).await,
        async |p, b| folder.put(p, b).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_moves_the_pointer() {
    crate::support::promoting(&Folder::new().registry).await;
}

#[tokio::test]
async fn garbage_goes() {
    let folder = Folder::new();
    crate::support::collecting(&folder.registry, async |path, bytes| folder.put(path, bytes).await).await;
    // What an importer leaves that dies.
    folder.put("models/g/.v8.0a1b2c3d.partial/fp32.onnx", vec![0; 10]).await;
    let keep = Keep { uploads: std::time::Duration::ZERO, ..Keep::default() };
    let now = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let garbage = folder.registry.gc(&keep, false, now).await.unwrap();
    assert_eq!((garbage.len(), garbage[0].name.as_str(), garbage[0].bytes), (1, ".v8.0a1b2c3d.partial", 10));
    assert!(!folder.root.path().join("models/g/.v8.0a1b2c3d.partial").exists());
}

#[tokio::test]
async fn what_is_not_published_is_not_seen() {
    let folder = Folder::new();
    folder.put("models/.partial/v1/metadata.json", b"{}".to_vec()).await;
    folder.put("models/Not A Slug/current.json", b"{}".to_vec()).await;
    folder.put("models/m/.v1.partial/metadata.json", b"{}".to_vec()).await;
    assert_eq!(folder.registry.all_models().await.unwrap(), [slug("m")]);
    assert!(folder.registry.versions(&slug("m")).await.unwrap().is_empty());
}

#[tokio::test]
async fn metadata_must_agree_with_its_place() {
    let folder = Folder::new();
    let version = Version::new("B 1.5", "v1", &[b"graph"]);
    folder.put("models/b-again/v1/metadata.json", fs::read(version.file("metadata.json")).unwrap()).await;
    let error = folder.registry.metadata(&slug("b-again"), "v1").await.unwrap_err().to_string();
    assert!(error.contains("b-again") && error.contains("must agree"), "{error}");
    folder.put("models/b-1-5/v2/metadata.json", fs::read(version.file("metadata.json")).unwrap()).await;
    let error = folder.registry.metadata(&slug("b-1-5"), "v2").await.unwrap_err().to_string();
    assert!(error.contains("`version` is `v1`"), "{error}");
    let error = folder.registry.metadata(&slug("b-1-5"), "../b-again/v1").await.unwrap_err().to_string();
    assert!(error.contains("cannot be a version"), "{error}");
}

#[tokio::test]
async fn what_is_not_a_version_is_not_published() {
    let folder = Folder::new();
    let refusal = async |path: &std::path::Path| folder.registry.publish(path, &()).await.unwrap_err().to_string();
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).await.contains("metadata.json: there is no such file"));

    let version = Version::new("m", "v1", &[b"graph"]);
    fs::write(version.file("fp32.onnx"), b"grave").unwrap();
    assert!(refusal(version.path()).await.contains("fp32.onnx: its SHA-256 is"));
    fs::remove_file(version.file("fp32.onnx")).unwrap();
    let error = refusal(version.path()).await;
    assert!(error.contains("fp32.onnx: there is no such file, but metadata.json lists it"), "{error}");
    let json = fs::read_to_string(version.file("metadata.json")).unwrap();
    fs::write(version.file("metadata.json"), json.replace("fp32.onnx", "../fp32.onnx")).unwrap();
    assert!(refusal(version.path()).await.contains("cannot be a file of a version"));
    fs::write(version.file("metadata.json"), json.replace("\"v1\"", "\"current\"")).unwrap();
    assert!(refusal(version.path()).await.contains("cannot be a version"));
    assert!(folder.registry.all_models().await.unwrap().is_empty(), "nothing was written");
}

/// Files of a folder are read where they are, and verified all the same.
#[tokio::test]
async fn a_folder_is_not_copied() {
    let folder = Folder::new();
    let (model, bytes) = (slug("m"), content(1, 5000));
    let version = Version::new("m", "v1", &[&bytes]);
    folder.registry.publish(version.path(), &()).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let cache = Cache::open(cache.path().to_owned(), 1).unwrap();
    let local = cache.fetch(&folder.registry, &model, "v1", &version.files(), &()).await.unwrap();
    assert_eq!(local.path(version.graph()), folder.root.path().join("models/m/v1/fp32.onnx"));
    assert_eq!(local.read(version.graph()).await.unwrap(), bytes);

    folder.put("models/m/v1/fp32.onnx", content(2, 5000)).await;
    let error = local.read(version.graph()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Integrity { .. }) && error.to_string().contains("SHA-256"), "{error}");
    folder.put("models/m/v1/fp32.onnx", content(2, 50)).await;
    let error = cache.fetch(&folder.registry, &model, "v1", &version.files(), &()).await.unwrap_err().to_string();
    assert!(error.contains("50 bytes") && error.contains("damaged or incomplete"), "{error}");
    folder.delete("models/m/v1/fp32.onnx").await;
    let error = cache.fetch(&folder.registry, &model, "v1", &version.files(), &()).await.unwrap_err().to_string();
    assert!(error.contains("there is no models/m/v1/fp32.onnx"), "{error}");
}
