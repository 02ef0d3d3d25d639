//! `embed-worker models`, as its user meets it, on a folder and on a real S3 server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use embed_testkit::{S3Server, registry};
use serde_json::Value;

struct Cli {
    registry: String,
    settings: Vec<(String, String)>,
}

impl Cli {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
        command.arg("models").args(arguments).env("EMBED_REGISTRY", &self.registry).env("USER", "ann");
        command.envs(self.settings.iter().cloned()).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The last line of standard error of a command that must fail.
    fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        error.lines().last().unwrap_or_default().to_owned()
    }
}

/// The model of `make setup`, and the same under another version.
fn versions(folder: &Path) -> (PathBuf, PathBuf) {
    let first = registry().join("models/all-minilm-l6-v2/v1.0.0");
    let second = folder.join("second");
    fs::create_dir(&second).unwrap();
    for entry in fs::read_dir(&first).unwrap() {
        let entry = entry.unwrap();
        let path = fs::canonicalize(entry.path()).unwrap();
        std::os::unix::fs::symlink(path, second.join(entry.file_name())).unwrap();
    }
    let metadata = fs::read_to_string(first.join("metadata.json")).unwrap().replace("v1.0.0", "v1.1.0");
    fs::remove_file(second.join("metadata.json")).unwrap();
    fs::write(second.join("metadata.json"), metadata).unwrap();
    (first, second)
}

fn walk(cli: &Cli) {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = versions(folder.path());
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    assert!(cli.text(&["publish", first]).contains("all-minilm-l6-v2 v1.0.0 is published"));
    assert_eq!(cli.json(&["publish", first])["already"], true);
    let listed = cli.json(&["list"]);
    assert_eq!((&listed[0]["current"], &listed[0]["versions"][0]), (&Value::Null, &"v1.0.0".into()));
    assert!(cli.error(&["show", "all-minilm-l6-v2"]).contains("models promote"));

    // By its name, as its authors write it.
    assert!(cli.text(&["promote", "all-MiniLM-L6-v2", "v1.0.0"]).contains("none was before"));
    cli.text(&["publish", second]);
    let moved = cli.json(&["promote", "all-minilm-l6-v2", "v1.1.0", "--from", "v1.0.0"]);
    assert_eq!((&moved["moved"]["from"], &moved["current"]), (&"v1.0.0".into(), &"v1.1.0".into()));
    assert!(moved["moved"]["who"].as_str().unwrap().starts_with("ann@"), "{moved}");
    assert!(cli.text(&["promote", "all-minilm-l6-v2", "v1.1.0"]).contains("current already"));
    let error = cli.error(&["promote", "all-minilm-l6-v2", "v1.1.0", "--from", "v1.0.0", "--who", "bob"]);
    assert!(error.contains("moved it from v1.0.0 to v1.1.0"), "{error}");
    assert!(cli.error(&["promote", "all-minilm-l6-v2", "v9"]).contains("it has v1.0.0, v1.1.0"));
    assert_eq!(cli.json(&["rollback", "all-minilm-l6-v2", "--who", "bob"])["current"], "v1.0.0");

    let table = cli.text(&["list"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1], row[3]), ("all-minilm-l6-v2", "v1.0.0", "bob"), "{table}");
    let shown = cli.json(&["show", "all-minilm-l6-v2@v1.1.0"]);
    assert_eq!((&shown["is_current"], &shown["metadata"]["version"]), (&false.into(), &"v1.1.0".into()));
    assert_eq!(shown["pointer"]["history"].as_array().unwrap().len(), 3);
    let text = cli.text(&["show", "all-minilm-l6-v2"]);
    assert!(text.contains("v1.0.0, current") && text.contains("fp32.onnx") && text.contains("bob"), "{text}");
    let verified = cli.json(&["verify", "all-minilm-l6-v2"]);
    assert!(verified.as_array().unwrap().iter().all(|file| file["ok"] == true), "{verified}");
    assert!(cli.text(&["gc", "--keep", "0", "--keep-moves", "1", "--dry-run"]).contains("nothing to remove"));
}

#[test]
fn in_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let cli = Cli { registry: format!("file://{}", root.path().display()), settings: Vec::new() };
    walk(&cli);
    fs::write(root.path().join("models/all-minilm-l6-v2/v1.0.0/tokenizer.json"), "{}").unwrap();
    let error = cli.error(&["verify", "all-minilm-l6-v2"]);
    assert!(error.contains("1 of 3 files"), "{error}");
}

#[test]
fn in_a_bucket() {
    let server = S3Server::start();
    server.make_bucket("models");
    let settings = S3Server::settings(&server.address());
    walk(&Cli { registry: "s3://models/registry".into(), settings });
}

#[test]
fn usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    let output = command.args(["models", "list"]).env_remove("EMBED_REGISTRY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--registry"));
}
