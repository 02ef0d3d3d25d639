//! A worker that cannot start says why, in one line, and ends with status 1.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use embed_testkit::{NatsServer, registry};
use serde_json::Value;

fn run(arguments: &[&str], registry: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.args(arguments).env("EMBED_REGISTRY", registry).env_remove("RUST_LOG");
    command.output().unwrap()
}

fn assert_fails(output: &Output, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{:?} {error}", output.status);
    let last = error.lines().last().unwrap_or_default();
    assert!(last.starts_with("embed-worker: error: "), "{error}");
    for word in words {
        assert!(last.contains(word), "{last:?} lacks {word:?}");
    }
}

const ANY_PORT: [&str; 3] = ["run", "--metrics-addr", "127.0.0.1:0"];

fn run_on(nats: &NatsServer, registry: &Path, more: &[&str]) -> Output {
    run(&[&ANY_PORT[..], &["--server", &nats.url()], more].concat(), registry)
}

/// The registry, so that one of its files can be replaced.
fn copy_of_registry() -> (tempfile::TempDir, PathBuf) {
    let copy = tempfile::tempdir().unwrap();
    let model = Path::new("models/all-minilm-l6-v2");
    let version = model.join("v1.0.0");
    fs::create_dir_all(copy.path().join(&version)).unwrap();
    fs::copy(registry().join(model).join("current.json"), copy.path().join(model).join("current.json")).unwrap();
    for entry in fs::read_dir(registry().join(&version)).unwrap() {
        let entry = entry.unwrap();
        let target = copy.path().join(&version).join(entry.file_name());
        if entry.file_name() == "fp32.onnx" {
            embed_testkit::share(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    let version = copy.path().join(version);
    (copy, version)
}

fn edit_metadata(version: &Path, edit: impl FnOnce(&mut Value)) {
    let path = version.join("metadata.json");
    let mut metadata: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut metadata);
    fs::write(path, serde_json::to_vec(&metadata).unwrap()).unwrap();
}

#[test]
fn without_a_server() {
    // Nothing listens on port 1.
    let output = run(&[&ANY_PORT[..], &["--server", "nats://127.0.0.1:1"]].concat(), &registry());
    assert_fails(&output, &["nats://127.0.0.1:1", "embed dev", "--server"]);
}

#[test]
fn nothing_is_kept_to_be_reported_to_others() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.arg("check").env("EMBED_REGISTRY", registry()).env("HOME", home.path());
    for variable in ["ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"] {
        command.env_remove(variable);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The cache of models is ours; ONNX Runtime's is the makers'.
    let cache = home.path().join(".cache");
    let others = fs::read_dir(cache).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let others: Vec<_> = others.filter(|name| !name.to_string_lossy().starts_with("embed")).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn on_a_port_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["run", "--metrics-addr", &address], &registry());
    assert_fails(&output, &[&address, "in use", "--metrics-addr"]);
}

#[test]
fn health_of_a_worker_that_does_not_run() {
    let output = run(&["health", "--metrics-addr", "127.0.0.1:1"], &registry());
    assert_fails(&output, &["no worker answers at 127.0.0.1:1", "http.addr"]);
}

#[test]
fn without_its_model() {
    let nats = NatsServer::start();
    let output = run_on(&nats, &registry(), &["--variant", "bge-small-en-v1.5"]);
    assert_fails(&output, &["no model `bge-small-en-v1-5`", "all-minilm-l6-v2", "embed-models import"]);
    let empty = tempfile::tempdir().unwrap();
    assert_fails(&run_on(&nats, empty.path(), &[]), &["no model", "embed-models import"]);
    assert_fails(&run_on(&nats, &empty.path().join("missing"), &[]), &["missing", "no such folder"]);
}

#[test]
fn with_a_damaged_file() {
    let nats = NatsServer::start();
    let (copy, version) = copy_of_registry();
    edit_metadata(&version, |metadata| metadata["artefacts"][0]["sha256"] = "0".repeat(64).into());
    assert_fails(&run_on(&nats, copy.path(), &[]), &["fp32.onnx", "SHA-256", "damaged"]);

    let (copy, version) = copy_of_registry();
    fs::write(version.join("tokenizer.json"), "{}").unwrap();
    assert_fails(&run_on(&nats, copy.path(), &[]), &["tokenizer.json", "2 bytes", "damaged or incomplete"]);

    let (copy, version) = copy_of_registry();
    fs::remove_file(version.join("golden.json")).unwrap();
    assert_fails(&run_on(&nats, copy.path(), &[]), &["there is no models/all-minilm-l6-v2/v1.0.0/golden.json"]);
}

#[test]
fn with_a_version_that_is_not_what_was_validated() {
    let nats = NatsServer::start();
    let (copy, version) = copy_of_registry();
    let path = version.join("golden.json");
    let mut golden: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let other = golden["items"][1]["vector_f32_base64"].clone();
    golden["items"][0]["vector_f32_base64"] = other;
    let golden = serde_json::to_vec(&golden).unwrap();
    fs::write(&path, &golden).unwrap();
    let digest = sha256(&golden);
    edit_metadata(&version, |metadata| {
        metadata["golden"]["bytes"] = golden.len().into();
        metadata["golden"]["sha256"] = digest.into();
    });
    assert_fails(&run_on(&nats, copy.path(), &[]), &["golden text 0", "not served"]);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn with_a_configuration_that_has_a_typing_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    fs::write(&file, "[batch]\nmax_text = 3\n").unwrap();
    let output = run(&["run", "--config", file.to_str().unwrap()], &registry());
    assert_fails(&output, &["batch.max_text", "did you mean `batch.max_texts`"]);
}

#[test]
fn without_the_library() {
    let nats = NatsServer::start();
    let mut command = crate::support::worker_command(&nats, &[]);
    let output = command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap();
    assert_fails(&output, &["/nowhere/libonnxruntime.so"]);
}

#[test]
fn check_says_what_would_be_served() {
    let output = run(&["check"], &registry());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("all-minilm-l6-v2 fp32 (default): version v1.0.0, 384 dimensions"), "{text}");
}
