//! The cache, between a worker and a real S3 server whose line can be cut.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use crate::support::{Steps, Version, at, bucket, content, made, raw, slug};
use embed_registry::{Cache, Progress, Registry, RegistryError, Step, VersionSpec};
use embed_schemas::model::FileRef;
use embed_testkit::{Relay, S3Server, wait_for};
use object_store::ObjectStoreExt;
use tempfile::TempDir;

const MODEL: &str = "m";
const PLENTY: u64 = 1 << 30;

/// A bucket with one version, a line to it, and a cache.
struct Setup {
    server: S3Server,
    relay: Relay,
    registry: Registry,
    version: Version,
    folder: TempDir,
    cache: Cache,
}

impl Setup {
    async fn new(graph_bytes: usize) -> Self {
        let server = S3Server::start();
        let version = Version::new(MODEL, "v1", &[&content(1, graph_bytes)]);
        let direct = made(&server, "bucket");
        direct.publish(version.path(), &()).await.unwrap();
        direct.promote(&slug(MODEL), "v1", "ann", crate::support::WHEN).await.unwrap();
        let relay = Relay::start(server.address());
        let registry = bucket(relay.address(), "bucket");
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path().to_owned(), PLENTY).unwrap();
        Self { server, relay, registry, version, folder, cache }
    }

    async fn fetch(
        &self,
        files: &[FileRef],
        progress: &dyn Progress,
    ) -> Result<embed_registry::LocalVersion, RegistryError> {
        self.cache.fetch(&self.registry, &slug(MODEL), "v1", files, progress).await
    }

    fn partial(&self) -> PathBuf {
        let graph = self.version.graph();
        self.folder.path().join(format!("blobs/sha256/{}.{}.partial", graph.sha256, graph.bytes))
    }
}

/// Names in the cache.
fn blobs(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Cut once, cut for good and mended, down from the start with a warm cache and a cold one.
#[tokio::test]
async fn a_line_that_breaks() {
    let setup = Setup::new(8 << 20).await;
    let (files, graph) = (setup.version.files(), setup.version.graph());
    let half = 4 << 20;

    // Once: nobody notices, and nothing is fetched twice.
    setup.relay.cut_once_after(half);
    let local = setup.fetch(&files, &()).await.unwrap();
    assert_eq!(local.read(graph).await.unwrap(), content(1, 8 << 20));
    assert!(setup.relay.answered() < 9 << 20, "{}", setup.relay.answered());
    drop(local);

    // For good: an error after a bounded time, and what has come stays.
    fs::remove_file(setup.folder.path().join("blobs/sha256").join(&graph.sha256)).unwrap();
    setup.relay.go_down_after(half);
    let error = setup.fetch(&files, &()).await.unwrap_err();
    assert!(error.retryable() && matches!(error, RegistryError::Store { .. }), "{error}");
    assert!(error.to_string().contains("models/m/v1/fp32.onnx"), "{error}");
    let have = fs::metadata(setup.partial()).unwrap().len();
    assert!((1 << 20..8 << 20).contains(&have), "{have}");
    // Mended: only the rest is fetched.
    setup.relay.mend();
    let before = setup.relay.answered();
    let steps = Steps::default();
    let local = setup.fetch(&files, &steps).await.unwrap();
    assert_eq!(steps.of(Step::Download), ["fp32.onnx"]);
    assert_eq!(local.read(graph).await.unwrap(), content(1, 8 << 20));
    let fetched = setup.relay.answered() - before;
    assert!(fetched < (8 << 20) - have + (1 << 16), "{fetched} bytes, {have} were there");
    assert!(!setup.partial().exists());
    drop(local);

    // What is left of a download that went wrong does no harm.
    fs::remove_file(setup.folder.path().join("blobs/sha256").join(&graph.sha256)).unwrap();
    fs::write(setup.partial(), content(7, 3 << 20)).unwrap();
    assert_eq!(setup.fetch(&files, &()).await.unwrap().read(graph).await.unwrap(), content(1, 8 << 20));

    // Down from the start, with everything known.
    let model = slug(MODEL);
    let current = VersionSpec::Current;
    let resolved = setup.cache.resolve(&setup.registry, &model, &current).await.unwrap();
    assert!(!resolved.from_cache());
    assert_eq!(setup.cache.models(&setup.registry).await.unwrap().0, std::slice::from_ref(&model));
    setup.relay.go_down();
    let again = Cache::open(setup.folder.path().to_owned(), PLENTY).unwrap();
    let registry = bucket(setup.relay.address(), "bucket");
    let (models, why) = again.models(&registry).await.unwrap();
    assert!(models == std::slice::from_ref(&model) && why.is_some());
    let resolved = again.resolve(&registry, &model, &current).await.unwrap();
    assert_eq!(resolved.metadata, setup.version.metadata);
    let why = resolved.stale.unwrap();
    assert!(why.retryable() && why.to_string().contains("s3://bucket"), "{why}");
    let local = again.fetch(&registry, &model, "v1", &files, &()).await.unwrap();
    assert_eq!(local.read(graph).await.unwrap(), content(1, 8 << 20));

    // And with nothing known.
    let empty = tempfile::tempdir().unwrap();
    let empty = Cache::open(empty.path().to_owned(), PLENTY).unwrap();
    let error = empty.resolve(&registry, &model, &current).await.unwrap_err();
    assert!(error.is_store() && error.retryable(), "{error}");
}

/// What the registry holds is not what was published; what the cache holds is not what was fetched.
#[tokio::test]
async fn damage_is_found() {
    let setup = Setup::new(100_000).await;
    let (files, graph) = (setup.version.files(), setup.version.graph());
    let store = raw(&setup.server, "bucket");
    let put = async |bytes: Vec<u8>| drop(store.put(&at("models/m/v1/fp32.onnx"), bytes.into()).await.unwrap());

    put(content(2, 100_000)).await;
    let error = setup.fetch(&files, &()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Integrity { .. }) && !error.retryable(), "{error}");
    assert!(error.to_string().contains("m v1: fp32.onnx: its SHA-256 is"), "{error}");
    put(content(1, 100_000)[..500].to_vec()).await;
    let error = setup.fetch(&files, &()).await.unwrap_err().to_string();
    assert!(error.contains("fp32.onnx: 500 bytes, the metadata says 100000"), "{error}");
    store.delete(&at("models/m/v1/fp32.onnx")).await.unwrap();
    let error = setup.fetch(&files, &()).await.unwrap_err().to_string();
    assert!(error.contains("there is no models/m/v1/fp32.onnx"), "{error}");
    assert_eq!(blobs(setup.folder.path()).len(), 2, "nothing of it stays: only the tokenizer and the golden vectors");

    put(content(1, 100_000)).await;
    let local = setup.fetch(&files, &()).await.unwrap();
    fs::write(local.path(graph), content(2, 100_000)).unwrap();
    let error = local.read(graph).await.unwrap_err();
    assert!(matches!(error, RegistryError::DamagedCopy { .. }) && error.retryable(), "{error}");
    let healed = setup.fetch(&files, &()).await.unwrap();
    assert_eq!(healed.read(graph).await.unwrap(), content(1, 100_000));
}

/// Buckets of one name may be behind different endpoints: what one said is not what another would say.
#[tokio::test]
async fn what_one_endpoint_said_is_not_told_of_another() {
    let setup = Setup::new(1000).await;
    let model = slug(MODEL);
    setup.cache.resolve(&setup.registry, &model, &VersionSpec::Current).await.unwrap();
    setup.cache.models(&setup.registry).await.unwrap();
    // Nothing listens on port 1: all that could be answered is what is remembered.
    let other = bucket("127.0.0.1:1", "bucket");
    assert_eq!(other.location(), setup.registry.location());
    for spec in [VersionSpec::Current, VersionSpec::Exact("v1".to_owned())] {
        let error = setup.cache.resolve(&other, &model, &spec).await.unwrap_err();
        assert!(error.is_store(), "{error}");
    }
    assert!(setup.cache.models(&other).await.unwrap_err().is_store());
    // Files are the same whoever has them.
    setup.fetch(&setup.version.files(), &()).await.unwrap();
    assert_eq!(blobs(setup.folder.path()).len(), 3);
    setup.relay.go_down();
    let resolved = setup.cache.resolve(&setup.registry, &model, &VersionSpec::Current).await.unwrap();
    assert!(resolved.from_cache(), "its own is still known");
}

/// What somebody has put in the place of a file of the cache is neither opened nor waited for.
#[tokio::test]
async fn a_link_in_the_cache_is_not_followed() {
    let setup = Setup::new(1000).await;
    let (files, graph) = (setup.version.files(), setup.version.graph());
    let local = setup.fetch(&files, &()).await.unwrap();
    let blob = local.path(graph);
    fs::rename(&blob, setup.folder.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(setup.folder.path().join("moved"), &blob).unwrap();
    let error = local.read(graph).await.unwrap_err();
    assert!(matches!(error, RegistryError::Irregular { what: "a symbolic link", .. }), "{error}");
    let error = setup.fetch(&files, &()).await.unwrap_err().to_string();
    assert!(error.contains("a symbolic link"), "{error}");
}

/// The least recently used go first, nothing goes that is in use, and what cannot fit is refused.
#[tokio::test]
async fn the_cache_is_bounded() {
    let server = S3Server::start();
    let registry = made(&server, "bucket");
    let model = slug(MODEL);
    let graph = |n: u8| content(n, 100_000);
    let versions: Vec<Version> = (0..5).map(|n| Version::new(MODEL, &format!("v{n}"), &[&graph(n)])).collect();
    for version in &versions {
        registry.publish(version.path(), &()).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let open = || Cache::open(folder.path().to_owned(), 250_000).unwrap();
    let cache = open();
    let fetch = async |n: usize| {
        let files = [versions[n].graph().clone()];
        cache.fetch(&registry, &model, &versions[n].metadata.version, &files, &()).await
    };
    let is_there = |n: usize| blobs(folder.path()).contains(&versions[n].graph().sha256);

    let held = fetch(0).await.unwrap();
    drop(fetch(1).await.unwrap());
    drop(fetch(2).await.unwrap());
    assert!(is_there(0) && !is_there(1) && is_there(2), "v0 is older than v1, but in use");
    // v2 was used before v0 was given back.
    drop(held);
    drop(fetch(3).await.unwrap());
    assert!(is_there(0) && !is_there(2) && is_there(3));

    // Another cache on the folder is as bound by what is in use here.
    let (three, zero) = (fetch(3).await.unwrap(), fetch(0).await.unwrap());
    let files = [versions[4].graph().clone()];
    let error = open().fetch(&registry, &model, "v4", &files, &()).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::CacheFull { max: 250_000, in_use: 200_000, needed: 100_000, .. }),
        "{error}"
    );
    assert_eq!(three.read(versions[3].graph()).await.unwrap(), graph(3));
    assert_eq!(zero.read(versions[0].graph()).await.unwrap(), graph(0));
    assert_eq!(blobs(folder.path()).len(), 2);
    drop((three, zero));
    assert_eq!(fetch(4).await.unwrap().read(versions[4].graph()).await.unwrap(), graph(4));
}

/// Several tasks and several processes at once: one download.
#[tokio::test(flavor = "multi_thread")]
async fn one_download_for_all() {
    let setup = Setup::new(8 << 20).await;
    // The children need not be told of the registry's metadata more than once.
    setup.cache.resolve(&setup.registry, &slug(MODEL), &"v1".into()).await.unwrap();
    let before = setup.relay.answered();
    let children: Vec<Child> = (0..3).map(|_| child(&setup, &[]).spawn().unwrap()).collect();
    let setup = Arc::new(setup);
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let setup = Arc::clone(&setup);
            tokio::spawn(async move {
                let local = setup.fetch(&setup.version.files(), &()).await.unwrap();
                assert_eq!(local.read(setup.version.graph()).await.unwrap(), content(1, 8 << 20));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let fetched = setup.relay.answered() - before;
    assert!(fetched < 9 << 20, "{fetched} bytes for one file of {}", 8 << 20);
    assert_eq!(blobs(setup.folder.path()).len(), 3);
}

/// Killed in the middle of a download: whoever comes next goes on after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies() {
    let setup = Setup::new(8 << 20).await;
    // The line goes down half way; the child is still trying when it is killed.
    setup.relay.go_down_after(4 << 20);
    let mut child = child(&setup, &[("RETRY_S", "600")]).spawn().unwrap();
    wait_for("half of the file", || setup.relay.is_down().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let have = fs::metadata(setup.partial()).unwrap().len();
    setup.relay.mend();
    let before = setup.relay.answered();
    let local = setup.fetch(&setup.version.files(), &()).await.unwrap();
    assert_eq!(local.read(setup.version.graph()).await.unwrap(), content(1, 8 << 20));
    let fetched = setup.relay.answered() - before;
    assert!(fetched < (8 << 20) - have + (1 << 16), "{fetched} bytes, {have} were there");
}

/// No room on the disk: the error names the folder, nothing is left behind, and with room it works.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full() {
    let setup = Setup::new(4 << 20).await;
    // What a process may write to one file stands for what a disk has room for: both fail within a write.
    let output = child(&setup, &[("FILE_LIMIT", "1000000")]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    let folder = setup.folder.path().display().to_string();
    assert!(text.contains(&format!("no room in {folder} for 4194304 bytes more")), "{text}");
    assert!(!setup.partial().exists());
    let output = child(&setup, &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// This test's binary, as a process of its own that fetches the version.
fn child(setup: &Setup, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cache::fetch_in_a_child", "--ignored", "--nocapture"]);
    command.env("RELAY", setup.relay.address()).env("CACHE", setup.folder.path()).envs(more.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[tokio::test]
#[ignore = "the other tests run it, in a process of its own"]
#[expect(clippy::print_stdout)]
async fn fetch_in_a_child() {
    let set = |name: &str| std::env::var(name).ok();
    if let Some(limit) = set("FILE_LIMIT") {
        limit_files(limit.parse().unwrap());
    }
    let registry = match set("RETRY_S") {
        None => bucket(&set("RELAY").unwrap(), "bucket"),
        Some(seconds) => {
            let options = embed_registry::RegistryOptions {
                retry_for: std::time::Duration::from_secs(seconds.parse().unwrap()),
                settings: S3Server::settings(&set("RELAY").unwrap()),
            };
            Registry::open_with("s3://bucket/some/prefix", &options).unwrap()
        }
    };
    let cache = Cache::open(set("CACHE").unwrap().into(), PLENTY).unwrap();
    let model = slug(MODEL);
    let metadata = cache.resolve(&registry, &model, &VersionSpec::Current).await.unwrap().metadata;
    let graph = metadata.artefacts[0].file.clone();
    match cache.fetch(&registry, &model, "v1", &[metadata.tokenizer, metadata.golden, graph.clone()], &()).await {
        Ok(local) => assert_eq!(local.read(&graph).await.unwrap().len() as u64, graph.bytes),
        Err(error) => {
            println!("{error}");
            std::process::exit(1);
        }
    }
}

fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: both only take values; the signal is ignored so that the write fails instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}
