//! A registry in a folder.

use std::{fs, os::unix::fs::symlink, process::Command};

use crate::support::{Version, content, slug};
use embed_registry::{Cache, Keep, Registry, RegistryError};
use serde_json::json;

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

/// Names of files below the root that lead elsewhere, and what nobody could read to its end.
#[tokio::test]
async fn links_lead_nowhere() {
    let (folder, outside) = (Folder::new(), tempfile::tempdir().unwrap());
    let (model, root) = (slug("m"), folder.root.path().join("models/m"));
    let version = Version::new("m", "v1", &[b"graph"]);
    folder.registry.publish(version.path(), &()).await.unwrap();
    folder.registry.promote(&model, "v1", "ann", crate::support::WHEN).await.unwrap();

    // A version elsewhere is none, for whoever reads and for whoever tidies up.
    let elsewhere = outside.path().join("v2");
    fs::create_dir(&elsewhere).unwrap();
    let json = fs::read_to_string(version.file("metadata.json")).unwrap().replace("\"v1\"", "\"v2\"");
    fs::write(elsewhere.join("metadata.json"), json).unwrap();
    symlink(&elsewhere, root.join("v2")).unwrap();
    assert_eq!(folder.registry.versions(&model).await.unwrap(), ["v1"]);
    let error = folder.registry.metadata(&model, "v2").await.unwrap_err();
    assert!(matches!(error, RegistryError::Irregular { what: "a symbolic link", .. }), "{error}");
    let keep = Keep { newest: 0, moves: 0, uploads: std::time::Duration::ZERO };
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    assert_eq!(folder.registry.gc(&keep, false, later).await.unwrap(), []);
    assert!(elsewhere.join("metadata.json").exists());
    // Nothing is written there either.
    let error = folder.registry.publish(Version::new("m", "v2", &[b"graph"]).path(), &()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Irregular { .. }), "{error}");

    // One model's is no other's concern.
    let other = Version::new("n", "v1", &[b"graph"]);
    folder.registry.publish(other.path(), &()).await.unwrap();
    folder.registry.promote(&slug("n"), "v1", "ann", crate::support::WHEN).await.unwrap();
    fs::rename(root.join("current.json"), outside.path().join("current.json")).unwrap();
    symlink(outside.path().join("current.json"), root.join("current.json")).unwrap();
    assert_eq!(folder.registry.models().await.unwrap(), [slug("n")]);
    assert!(matches!(folder.registry.current(&model).await.unwrap_err(), RegistryError::Irregular { .. }));
    fs::remove_file(root.join("current.json")).unwrap();

    // What whoever moves the pointer writes first, and locks.
    let secret = outside.path().join("secret");
    fs::write(&secret, "unharmed").unwrap();
    for name in [".current.json.partial", ".current.json.lock"] {
        let _ = fs::remove_file(root.join(name));
        symlink(&secret, root.join(name)).unwrap();
        let error = folder.registry.promote(&model, "v1", "ann", crate::support::WHEN).await.unwrap_err();
        assert!(matches!(error, RegistryError::Io { .. }), "{error}");
        fs::remove_file(root.join(name)).unwrap();
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "unharmed");

    let checks = async || folder.registry.verify(&slug("n"), "v1", &()).await.unwrap();
    assert!(checks().await.iter().all(|check| check.problem.is_none()));
    let graph = folder.root.path().join("models/n/v1/fp32.onnx");
    fs::rename(&graph, outside.path().join("graph")).unwrap();
    symlink(outside.path().join("graph"), &graph).unwrap();
    let problems: Vec<_> = checks().await.into_iter().filter_map(|check| check.problem).collect();
    assert!(problems.len() == 1 && problems[0].to_string().contains("a symbolic link"), "{problems:?}");
}

#[tokio::test]
async fn what_is_too_large_is_not_read() {
    let folder = Folder::new();
    let version = Version::new("m", "v1", &[b"graph"]);
    folder.registry.publish(version.path(), &()).await.unwrap();
    folder.put("models/m/v1/metadata.json", vec![b' '; 5 << 20]).await;
    let error = folder.registry.metadata(&slug("m"), "v1").await.unwrap_err().to_string();
    assert!(error.contains("metadata.json") && error.contains("more than 4194304 bytes"), "{error}");
    folder.put("models/m/current.json", vec![b' '; 5 << 20]).await;
    let error = folder.registry.current(&slug("m")).await.unwrap_err().to_string();
    assert!(error.contains("current.json") && error.contains("more than 4194304 bytes"), "{error}");
    fs::write(version.file("metadata.json"), vec![b' '; 5 << 20]).unwrap();
    let error = folder.registry.publish(version.path(), &()).await.unwrap_err().to_string();
    assert!(error.contains("more than 4194304 bytes"), "{error}");
}

/// The importer in Python moves the pointer as well, under the same lock: every move is kept, and begins where the one before it ended.
#[tokio::test(flavor = "multi_thread")]
async fn no_move_is_lost_between_the_importer_and_this_crate() {
    const MOVES: usize = 40;
    let folder = Folder::new();
    let model = slug("m");
    for version in ["v1", "v2"] {
        folder.registry.publish(Version::new("m", version, &[b"graph"]).path(), &()).await.unwrap();
    }
    let repository = embed_testkit::repository();
    let program = format!(
        "import sys; from pathlib import Path; from embed_models.registry import Registry\n\
         registry = Registry(Path(sys.argv[1]))\n\
         for n in range({MOVES}): assert registry.set_current('m', f'p{{n}}', who='python', when='t')"
    );
    let mut importer = Command::new(repository.join(".venv/bin/python"))
        .env("PYTHONPATH", repository.join("deploy/models"))
        .args(["-c", program.as_str()])
        .arg(folder.root.path())
        .spawn()
        .unwrap();
    // From its first move on, and never so often that the history leaves any behind.
    while folder.registry.current(&model).await.is_err() {
        assert!(importer.try_wait().unwrap().is_none_or(|status| status.success()));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let (mut moved, mut refused) = (0, 0);
    for n in 0..300 {
        match folder.registry.promote(&model, ["v1", "v2"][n % 2], "rust", crate::support::WHEN).await {
            Ok(step) => moved += usize::from(step.is_some()),
            // The importer was faster, and keeps its move.
            Err(RegistryError::Conflict { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(importer.wait().unwrap().success());
    let pointer = folder.registry.current(&model).await.unwrap();
    let by = |who: &str| pointer.history.iter().filter(|step| step.who == who).count();
    assert_eq!((by("python"), by("rust")), (MOVES, moved), "{refused} moves refused");
    let follows = |pair: &[embed_schemas::model::PointerMove]| pair[1].from.as_deref() == Some(pair[0].to.as_str());
    assert!(pointer.history.windows(2).all(follows), "{:?}", pointer.history);
    assert_eq!(pointer.history.last().map(|step| step.to.as_str()), Some(pointer.version.as_str()));
}

/// A pointer's history does not grow beyond what can be read.
#[tokio::test]
async fn a_pointer_keeps_its_last_moves() {
    let folder = Folder::new();
    let model = slug("m");
    folder.registry.publish(Version::new("m", "v1", &[b"graph"]).path(), &()).await.unwrap();
    let moves: Vec<_> =
        (0..1500).map(|n| json!({"from": null, "to": "v0", "who": format!("w{n}"), "when": "x"})).collect();
    let pointer = json!({"version": "v0", "history": moves});
    folder.put("models/m/current.json", pointer.to_string().into_bytes()).await;
    folder.registry.promote(&model, "v1", "ann", crate::support::WHEN).await.unwrap();
    let history = folder.registry.current(&model).await.unwrap().history;
    assert_eq!((history.len(), history[0].who.as_str(), history[999].who.as_str()), (1000, "w501", "ann"));
}
