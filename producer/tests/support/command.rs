//! The `embed` command as a user runs it, with a worker that only says that it is ready.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use embed_producer::dev::binaries::NATS_SERVER;
use embed_schemas::model::MODELS_DIR;
use serde_json::{Value, json};

use super::PATIENCE;

/// Prints the ready line and waits for the end, as a worker does. Says what it was started with on standard error.
const WORKER: &str = r#"#!/bin/sh
echo "worker $*" >&2
trap 'echo "worker stops" >&2; exit 0' TERM
echo '{"worker_id":"w","metrics_url":"http://127.0.0.1:1","variants":[{"model":"m","variant":"int8","version":"v1"}]}'
while true; do sleep 0.05; done
"#;

/// `embed` with these arguments, free of the surroundings' settings.
pub(crate) fn embed(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed"));
    for variable in [
        "NATS_URL",
        "NATS_CONTEXT",
        "NATS_USER",
        "NATS_PASSWORD",
        "NATS_CREDS",
        "NATS_TOKEN",
        "NATS_PASSWORD_FILE",
        "NATS_TOKEN_FILE",
        "NATS_NKEY",
        "NATS_USER_JWT_FILE",
        "NATS_CERT",
        "NATS_KEY",
        "NATS_CA",
        "NATS_INBOX_PREFIX",
        "EMBED_ROUTE_CONFIG",
        "EMBED_MAPPINGS_FILES",
        "EMBED_WHO",
        "EMBED_MODEL",
        "EMBED_TENANT",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    // Nor the context that somebody has selected on this machine.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.args(arguments).env(NATS_SERVER.variable, embed_testkit::nats_server_binary());
    command
}

pub(crate) fn output(arguments: &[&str]) -> Output {
    embed(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command without keeping the runtime.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let run = move || {
        let mut command = embed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.env_remove("EMBED_REGISTRY").stdin(Stdio::null()).output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A registry with one model, `m`, whose first artefact is an INT8 one.
pub(crate) fn registry(root: &Path) {
    let version = root.join(MODELS_DIR).join("m/v1");
    std::fs::create_dir_all(&version).unwrap();
    let file = json!({"file": "x", "bytes": 1, "sha256": "0".repeat(64)});
    let metadata = json!({
        "model_name": "M", "slug": "m", "model_id": "a/m", "version": "v1", "dimension": 2, "max_seq_length": 8,
        "pooling": "mean", "normalized": true, "space": "s", "tokenizer": file, "golden": file,
        "artefacts": [{"precision": "int8", "file": "x", "bytes": 1, "sha256": "0".repeat(64)}],
        "created_at": "2026-01-01T00:00:00Z",
    });
    std::fs::write(version.join("metadata.json"), metadata.to_string()).unwrap();
    std::fs::write(root.join(MODELS_DIR).join("m/current.json"), r#"{"version":"v1"}"#).unwrap();
}

/// Writes the worker. Another process does the writing: a file that a process of ours still has open for writing, or
/// that a fork has inherited so, cannot be executed.
fn worker(folder: &Path) -> PathBuf {
    let path = folder.join("worker.sh");
    let script = r#"cat > "$1" && chmod +x "$1""#;
    let mut shell = Command::new("sh").args(["-c", script, "sh"]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(WORKER.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
    path
}

/// A running `embed dev`. Killed at the end of the test; its children go with it.
pub(crate) struct Dev {
    pub(crate) child: Child,
    /// The ready line.
    pub(crate) ready: Value,
}

impl Dev {
    pub(crate) fn start(folder: &Path) -> Self {
        registry(&folder.join("registry"));
        let mut child = Self::command(folder, "0")
            .args(["--worker-arg", "--threads=3"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no ready line: {line:?}"));
        Self { child, ready }
    }

    pub(crate) fn command(folder: &Path, port: &str) -> Command {
        let mut command = embed(&["dev", "--json", "--port", port, "--data-dir"]);
        command.arg(folder.join("data")).arg("--registry").arg(folder.join("registry"));
        command.env("EMBED_WORKER_BIN", worker(folder)).stdin(Stdio::null());
        command
    }

    pub(crate) fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.ready["pids"][name].as_u64().unwrap()).unwrap()
    }

    /// Waits until it ends by itself: the exit status, and what it wrote to standard error.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "embed dev does not end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let text = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
        (status.code(), text)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: `kill` touches no memory of ours; the processes are this test's own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Whether a process is there. One that has ended and was not waited for is not.
pub(crate) fn is_running(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
