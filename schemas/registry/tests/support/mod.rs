//! Versions to publish, and the operations that hold for every kind of store.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use embed_registry::{Keep, Progress, Registry, RegistryError, RegistryOptions, Step};
use embed_schemas::{ModelMetadata, Slug, model::FileRef};
use embed_testkit::S3Server;
use object_store::{ObjectStore, aws::AmazonS3Builder};
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const WHEN: &str = "2026-01-01T00:00:00Z";

pub(crate) fn slug(text: &str) -> Slug {
    text.parse().unwrap()
}

/// The registry in a bucket of its own, as seen through this address.
pub(crate) fn bucket(address: &str, name: &str) -> Registry {
    let options = RegistryOptions { retry_for: Duration::from_secs(5), settings: S3Server::settings(address) };
    Registry::open_with(&format!("s3://{name}/some/prefix"), &options).unwrap()
}

/// The bucket without the registry: what somebody else does to it.
pub(crate) fn raw(server: &S3Server, name: &str) -> impl ObjectStore {
    // Opening a registry has chosen how TLS is done, which a client wants to know whether it needs it or not.
    drop(bucket(&server.address(), name));
    let settings = S3Server::settings(&server.address());
    let builder = settings.into_iter().fold(AmazonS3Builder::new().with_bucket_name(name), |builder, (key, value)| {
        builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value)
    });
    builder.build().unwrap()
}

/// Where the registry of such a bucket keeps something.
pub(crate) fn at(path: &str) -> object_store::path::Path {
    object_store::path::Path::from(format!("some/prefix/{path}"))
}

/// A registry in a new bucket.
pub(crate) fn made(server: &S3Server, name: &str) -> Registry {
    server.make_bucket(name);
    bucket(&server.address(), name)
}

/// Bytes that differ by seed, and do not repeat.
pub(crate) fn content(seed: u8, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
    .take(bytes)
    .collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A version in a folder, with graphs of these contents.
pub(crate) struct Version {
    folder: TempDir,
    pub(crate) metadata: ModelMetadata,
}

impl Version {
    pub(crate) fn new(name: &str, version: &str, graphs: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).unwrap();
            json!({"file": name, "bytes": bytes.len(), "sha256": sha256(bytes)})
        };
        let precisions = ["fp32", "fp16", "int8", "fp8"];
        let artefacts: Vec<_> = graphs
            .iter()
            .zip(precisions)
            .map(|(bytes, precision)| {
                let mut artefact = file(&format!("{precision}.onnx"), bytes);
                artefact["precision"] = precision.into();
                artefact
            })
            .collect();
        let json = json!({
            "model_name": name, "slug": Slug::from_name(name).unwrap(), "model_id": "a/b", "version": version,
            "dimension": 4, "max_seq_length": 8, "pooling": "mean", "normalized": true, "space": "s",
            "tokenizer": file("tokenizer.json", b"tokenizer"), "golden": file("golden.json", b"golden"),
            "artefacts": artefacts, "created_at": WHEN,
        });
        fs::write(folder.path().join("metadata.json"), json.to_string()).unwrap();
        Self { metadata: serde_json::from_value(json).unwrap(), folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn graph(&self) -> &FileRef {
        &self.metadata.artefacts[0].file
    }

    pub(crate) fn files(&self) -> Vec<FileRef> {
        let own = [self.metadata.tokenizer.clone(), self.metadata.golden.clone()];
        own.into_iter().chain(self.metadata.artefacts.iter().map(|artefact| artefact.file.clone())).collect()
    }
}

/// Remembers which steps were taken.
#[derive(Default)]
pub(crate) struct Steps(Mutex<Vec<(Step, String)>>);

impl Steps {
    pub(crate) fn of(&self, step: Step) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|(s, _)| *s == step).map(|(_, file)| file.clone()).collect()
    }
}

impl Progress for Steps {
    fn begin(&self, step: Step, file: &str, _bytes: u64) {
        self.0.lock().unwrap().push((step, file.to_owned()));
    }
}

/// From nothing to versions that are read, verified, and never change.
pub(crate) async fn publishing(registry: &Registry) {
    let (model, graph) = (slug("m-1"), content(1, 100_000));
    let error = registry.current(&model).await.unwrap_err().to_string();
    assert!(error.contains("no model `m-1`; there are none") && error.contains("import"), "{error}");
    assert!(registry.models().await.unwrap().is_empty());

    let v1 = Version::new("M 1", "v1", &[&graph]);
    let published = registry.publish(v1.path(), &()).await.unwrap();
    assert!(!published.already);
    assert_eq!((published.uploaded.len(), published.resumed.len()), (3, 0));
    assert_eq!(registry.all_models().await.unwrap(), std::slice::from_ref(&model));
    assert!(registry.models().await.unwrap().is_empty(), "it is not current yet");
    let error = registry.current(&model).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoCurrent { .. }), "{error}");
    assert_eq!(registry.metadata(&model, "v1").await.unwrap(), v1.metadata);
    assert_eq!(registry.read("models/m-1/v1/fp32.onnx").await.unwrap(), graph);
    let checks = registry.verify(&model, "v1", &()).await.unwrap();
    assert_eq!((checks.len(), checks.iter().filter(|check| check.problem.is_some()).count()), (3, 0));
    assert_eq!(registry.find("M 1").await.unwrap(), model);

    // The same again, made at another time.
    let again = Version::new("M 1", "v1", &[&graph]);
    let later = fs::read_to_string(again.file("metadata.json")).unwrap().replace(WHEN, "2027-01-01T00:00:00Z");
    fs::write(again.file("metadata.json"), later).unwrap();
    assert!(registry.publish(again.path(), &()).await.unwrap().already);
    // Other content under that version.
    let other = Version::new("M 1", "v1", &[&content(2, 100_000)]);
    let error = registry.publish(other.path(), &()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Published { differs, .. } if differs.contains("artefacts")), "{error}");
    assert_eq!(registry.read("models/m-1/v1/fp32.onnx").await.unwrap(), graph, "nothing was overwritten");
    // Another model with that slug.
    let error = registry.publish(Version::new("m_1", "v2", &[&graph]).path(), &()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::NameTaken { existing, .. } if existing == "M 1"), "{error}");

    let v10 = Version::new("M 1", "v10", &[&graph]);
    registry.publish(v10.path(), &()).await.unwrap();
    assert_eq!(registry.versions(&model).await.unwrap(), ["v1", "v10"]);
    let error = registry.metadata(&model, "v3").await.unwrap_err().to_string();
    assert!(error.contains("no version v3") && error.contains("v1, v10"), "{error}");
}

/// An upload that was interrupted goes on where it stopped, and is not seen before it is whole.
pub(crate) async fn resuming(registry: &Registry, delete: impl AsyncFn(&str), put: impl AsyncFn(&str, Vec<u8>)) {
    let (first, second) = (content(3, 40_000), content(4, 40_000));
    let version = Version::new("r", "v1", &[&first, &second]);
    registry.publish(version.path(), &()).await.unwrap();
    // As it is when it stops after two files and within the third: the graph is half there, or wrong.
    delete("models/r/v1/metadata.json").await;
    delete("models/r/v1/fp16.onnx").await;
    put("models/r/v1/fp32.onnx", first[..20_000].to_vec()).await;
    put("models/r/v1/tokenizer.json", b"t0kenizer".to_vec()).await;
    assert!(registry.versions(&slug("r")).await.unwrap().is_empty());

    let steps = Steps::default();
    let published = registry.publish(version.path(), &steps).await.unwrap();
    assert!(!published.already);
    let names = |files: &[FileRef]| files.iter().map(|file| file.file.clone()).collect::<Vec<_>>();
    assert_eq!(names(&published.resumed), ["golden.json"]);
    assert_eq!(names(&published.uploaded), ["fp16.onnx", "fp32.onnx", "tokenizer.json"]);
    assert_eq!(steps.of(Step::Skip), ["golden.json"]);
    let checks = registry.verify(&slug("r"), "v1", &()).await.unwrap();
    assert!(checks.iter().all(|check| check.problem.is_none()), "{checks:?}");

    // Somebody else is publishing other content under that version.
    put("models/r/v2/.upload.json", br#"{"content":"other"}"#.to_vec()).await;
    let error = registry.publish(Version::new("r", "v2", &[&first]).path(), &()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Uploading { version, .. } if version == "v2"), "{error}");

    // Damage is found, file by file.
    put("models/r/v1/fp32.onnx", second.clone()).await;
    put("models/r/v1/fp16.onnx", second[..9].to_vec()).await;
    delete("models/r/v1/golden.json").await;
    let checks = registry.verify(&slug("r"), "v1", &()).await.unwrap();
    let problems: Vec<String> = checks.iter().filter_map(|check| Some(check.problem.as_ref()?.to_string())).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("9 bytes, the metadata says 40000"), "{problems:?}");
    assert!(problems[1].contains("SHA-256"), "{problems:?}");
    assert!(problems[2].contains("golden.json: the file is missing"), "{problems:?}");
}

/// The pointer moves, keeps its history, and of several who move it from the same place one wins.
pub(crate) async fn promoting(registry: &Registry) {
    let model = slug("p");
    for n in 0..6 {
        registry.publish(Version::new("p", &format!("v{n}"), &[&content(n, 1000)]).path(), &()).await.unwrap();
    }
    let step = registry.promote(&model, "v0", "ann", WHEN).await.unwrap().unwrap();
    assert_eq!((step.from, step.to.as_str()), (None, "v0"));
    assert!(matches!(registry.rollback(&model, "ann", WHEN).await, Err(RegistryError::NoPrevious { .. })));
    assert!(registry.promote(&model, "v0", "ann", WHEN).await.unwrap().is_none(), "it is current already");
    assert!(matches!(registry.promote(&model, "v9", "ann", WHEN).await, Err(RegistryError::UnknownVersion { .. })));
    registry.promote(&model, "v1", "ann", WHEN).await.unwrap();
    let step = registry.rollback(&model, "bob", WHEN).await.unwrap();
    assert_eq!((step.from.as_deref(), step.to.as_str(), step.who.as_str()), (Some("v1"), "v0", "bob"));
    // What was decided when v1 was current.
    let error = registry.promote_from(&model, "v1", "v2", "ann", WHEN).await.unwrap_err();
    assert!(matches!(error, RegistryError::Conflict { .. }));
    assert!(error.to_string().contains("bob moved it from v1 to v0"), "{error}");

    let attempts: Vec<_> = (1..6)
        .map(|n| {
            let (registry, model) = (registry.clone(), model.clone());
            tokio::spawn(async move {
                let (version, who) = (format!("v{n}"), format!("person {n}"));
                registry.promote_from(&model, "v0", &version, &who, WHEN).await
            })
        })
        .collect();
    let mut won = Vec::new();
    let mut told = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(step) => won.push(step.unwrap()),
            Err(error @ RegistryError::Conflict { .. }) => told.push(error.to_string()),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won.len(), told.len()), (1, 4), "{won:?}");
    let pointer = registry.current(&model).await.unwrap();
    assert_eq!(pointer.history.last(), won.first());
    assert_eq!(pointer.history.len(), 4);
    for error in told {
        assert!(error.contains(&format!("{} moved it from v0 to {}", won[0].who, won[0].to)), "{error}");
    }
}

/// Old versions and abandoned uploads go; what is current, was current recently, or is new stays.
pub(crate) async fn collecting(registry: &Registry, put: impl AsyncFn(&str, Vec<u8>)) {
    let model = slug("g");
    for n in 0..6 {
        registry.publish(Version::new("g", &format!("v{n}"), &[&content(n, 1000)]).path(), &()).await.unwrap();
    }
    let keep = Keep { newest: 1, moves: 1, uploads: Duration::from_secs(3600) };
    let now = SystemTime::now();
    assert_eq!(registry.gc(&keep, false, now).await.unwrap(), [], "nothing is current, so all of it may become so");
    for version in ["v0", "v3", "v1"] {
        registry.promote(&model, version, "ann", WHEN).await.unwrap();
    }
    put("models/g/v7/fp32.onnx", vec![0; 500]).await;
    let names = |garbage: Vec<embed_registry::Garbage>| garbage.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(registry.gc(&keep, true, now).await.unwrap()), ["v0", "v2", "v4"], "the upload is fresh");
    assert_eq!(registry.versions(&model).await.unwrap().len(), 6, "a dry run removes nothing");
    let later = now + Duration::from_secs(2 * 3600);
    assert_eq!(names(registry.gc(&keep, false, later).await.unwrap()), ["v0", "v2", "v4", "v7"]);
    assert_eq!(registry.versions(&model).await.unwrap(), ["v1", "v3", "v5"]);
    assert_eq!(registry.gc(&keep, false, later).await.unwrap(), []);
    assert_eq!(registry.rollback(&model, "ann", WHEN).await.unwrap().to, "v3");
}
