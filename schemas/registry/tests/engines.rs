//! Engines that machines share through a registry.

use std::{fs, path::Path, time::SystemTime};

use crate::support::{Version, content, slug};
use embed_registry::{EngineKey, Keep, Registry, RegistryError};
use serde_json::json;

fn registry(root: &Path) -> Registry {
    Registry::open(&format!("file://{}", root.display())).unwrap()
}

#[tokio::test]
async fn a_second_machine_gets_what_the_first_built() {
    let (root, first, second) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = registry(root.path());
    let (model, graph) = (slug("m"), "ab".repeat(32));
    let key = EngineKey { model: &model, graph: &graph, kind: "sm90-trt10.16.1-1x1-64x32-128x64" };
    let other = EngineKey { kind: "sm89-trt10.16.1-1x1-64x32-128x64", ..key };

    assert_eq!(registry.fetch_engine(&key, second.path()).await.unwrap(), 0, "nobody has built it");
    assert!(!registry.share_engine(&key, "v1", &first.path().join("nowhere")).await.unwrap(), "nothing was built");
    fs::write(first.path().join("a_sm90.engine"), content(1, 1000)).unwrap();
    fs::write(first.path().join("a.timing"), content(2, 10)).unwrap();
    fs::write(first.path().join("b.engine.17.partial"), content(3, 10)).unwrap();
    assert!(registry.share_engine(&key, "v1", first.path()).await.unwrap());
    assert!(!registry.share_engine(&key, "v1", first.path()).await.unwrap(), "the same again is nothing new");

    assert_eq!(registry.fetch_engine(&other, second.path()).await.unwrap(), 0, "it is for another device");
    assert_eq!(registry.fetch_engine(&key, second.path()).await.unwrap(), 2);
    assert_eq!(fs::read(second.path().join("a_sm90.engine")).unwrap(), content(1, 1000));
    assert_eq!(registry.fetch_engine(&key, second.path()).await.unwrap(), 0, "what is there stays");

    // Another timing cache takes the place of the first.
    fs::write(second.path().join("a.timing"), content(4, 20)).unwrap();
    assert!(registry.share_engine(&key, "v1", second.path()).await.unwrap());
    fs::remove_file(first.path().join("a.timing")).unwrap();
    registry.fetch_engine(&key, first.path()).await.unwrap();
    assert_eq!(fs::read(first.path().join("a.timing")).unwrap(), content(4, 20));
}

#[tokio::test]
async fn a_damaged_engine_is_refused() {
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = registry(root.path());
    let (model, graph) = (slug("m"), "cd".repeat(32));
    let key = EngineKey { model: &model, graph: &graph, kind: "k" };
    fs::write(folder.path().join("e.engine"), content(1, 100)).unwrap();
    registry.share_engine(&key, "v1", folder.path()).await.unwrap();
    fs::remove_file(folder.path().join("e.engine")).unwrap();
    let stored = root.path().join("engines/m").join(&graph).join("k");
    for entry in fs::read_dir(&stored).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("index.json") {
            fs::write(path, content(9, 100)).unwrap();
        }
    }
    let error = registry.fetch_engine(&key, folder.path()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Invalid { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing of it stays");
}

/// An index that names more than an engine has, or files that lead elsewhere.
#[tokio::test]
async fn an_index_out_of_proportion_is_refused() {
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = registry(root.path());
    let (model, graph) = (slug("m"), "cd".repeat(32));
    let key = EngineKey { model: &model, graph: &graph, kind: "k" };
    let place = root.path().join("engines/m").join(&graph).join("k");
    fs::create_dir_all(&place).unwrap();
    let file = |name: &str, bytes: u64, sha256: &str| json!({"file": name, "bytes": bytes, "sha256": sha256});
    let sha256 = "ab".repeat(32);
    fs::write(place.join(&sha256), content(1, 1000)).unwrap();
    for (files, named) in [
        (vec![file("e", 1 << 40, &sha256)], "17179869184"),
        (vec![file("e", 1, &sha256); 65], "64"),
        (vec![file("../e", 1000, &sha256)], "cannot be a file of an engine"),
        (vec![file("e", 1000, "../../../secret")], "cannot be a file of an engine"),
        // It is not taken in beyond its size.
        (vec![file("e", 10, &sha256)], "the metadata says 10"),
    ] {
        fs::write(place.join("index.json"), json!({"files": files}).to_string()).unwrap();
        let error = registry.fetch_engine(&key, folder.path()).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing of it stays");
    }
}

#[tokio::test]
async fn engines_go_with_the_last_version_that_has_their_graph() {
    let (root, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let registry = registry(root.path());
    let version = Version::new("m", "v1", &[&content(7, 50)]);
    registry.publish(version.path(), &()).await.unwrap();
    let (model, graph, gone) = (slug("m"), version.graph().sha256.clone(), "ef".repeat(32));
    fs::write(folder.path().join("e.engine"), content(1, 100)).unwrap();
    for graph in [&graph, &gone] {
        let key = EngineKey { model: &model, graph, kind: "k" };
        registry.share_engine(&key, "v1", folder.path()).await.unwrap();
    }
    let garbage = registry.gc(&Keep::default(), false, SystemTime::now()).await.unwrap();
    assert_eq!(garbage.iter().map(|one| one.reason).collect::<Vec<_>>(), ["no version has this graph"]);
    let left: Vec<_> = fs::read_dir(root.path().join("engines/m")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [graph.as_str()]);
}
