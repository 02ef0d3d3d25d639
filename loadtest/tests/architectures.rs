//! Checkpoints of every architecture that can be imported, served by one worker: their vectors are those of the library that they come from.

use std::{fs, path::Path, process::Command};

use embed_testkit::{Daemon, NatsServer, repository, sibling_binary};
use serde_json::Value;

/// The folders of `deploy/models/tests/checkpoints`. For a new one, `make_references.py` makes checkpoint and vectors, and a line here is all.
const ARCHITECTURES: [&str; 8] =
    ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "modernbert", "nomic-bert", "gte"];
/// Of components. Vectors that keep their length have components of up to about 2.
const CLOSE: f64 = 1e-5;

fn checkpoints() -> std::path::PathBuf {
    repository().join("deploy/models/tests/checkpoints")
}

/// Publishes all of them under their folders' names: one interpreter, since starting takes longer than importing.
fn import_all(registry: &Path) {
    let script = "import sys\nfrom embed_models.cli import main\n\
                  sys.exit(max(main(['import', source, '--registry', sys.argv[1]]) for source in sys.argv[2:]))";
    let mut command = Command::new(repository().join(".venv/bin/python"));
    command.args(["-c", script]).arg(registry).args(ARCHITECTURES.map(|name| checkpoints().join(name)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the worker answers for each text, in order.
fn ask(nats: &NatsServer, model: &str, prompt: Option<&str>, texts: &[&str]) -> Vec<Vec<f64>> {
    let mut command = Command::new(sibling_binary("embed"));
    command.env("NATS_URL", nats.url()).args(["ask", "--json", "--timeout", "60s", "--model", model]);
    command.args(prompt.map(|prompt| format!("--prompt={prompt}"))).arg("--").args(texts);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{model}: {error}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    numbers(&answer["vectors"])
}

fn numbers(rows: &Value) -> Vec<Vec<f64>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    rows.as_array().unwrap_or_else(|| panic!("no vectors: {rows}")).iter().map(row).collect()
}

fn assert_close(found: &[Vec<f64>], wanted: &Value, what: &str) {
    let wanted = numbers(wanted);
    assert_eq!((found.len(), found[0].len()), (wanted.len(), wanted[0].len()), "{what}");
    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let apart = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart <= CLOSE, "{what}, text {index}: {apart}");
    }
}

#[test]
fn vectors_through_nats_are_those_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    import_all(folder.path());
    let nats = NatsServer::start();
    let mut init = Command::new(sibling_binary("embed"));
    let init = init.env("EMBED_REGISTRY", folder.path()).env("NATS_URL", nats.url()).arg("init").output().unwrap();
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    // Without a configuration it serves every model of the registry.
    let mut worker = Command::new(sibling_binary("embed-worker"));
    worker.args(["run", "--server", &nats.url(), "--metrics-addr", "127.0.0.1:0", "--json"]);
    worker.env("EMBED_REGISTRY", folder.path()).env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    let worker = Daemon::spawn(&mut worker);
    worker.json_line();

    let references = fs::read(checkpoints().join("references.json")).unwrap();
    let references: Value = serde_json::from_slice(&references).unwrap();
    let texts: Vec<&str> = references["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for architecture in ARCHITECTURES {
        let wanted = &references["models"][architecture];
        assert_close(&ask(&nats, architecture, None, &texts), &wanted["vectors"], architecture);
        for (prompt, vectors) in wanted["prompts"].as_object().unwrap() {
            let what = format!("{architecture}, prompt {prompt}");
            assert_close(&ask(&nats, architecture, Some(prompt), &texts), vectors, &what);
        }
    }
}
