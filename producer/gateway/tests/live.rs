//! A whole stack with real models, as `embed dev --gateway` starts it: what is written in the user's documents and in our README, OpenAI's own
//! package, and a fuzzer that goes by the OpenAPI document.

use std::process::{Command, Stdio};

use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest};
use embed_testkit::{Daemon, TestRegistry, model_registry::FIRST, on_path, repository, sibling_binary};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Http, PATIENCE, command, spawn};

/// The five models of the user's documents. All but the first are the first under other names.
const OTHERS: [(&str, &str); 4] = [
    ("distilled-minilm-l3-v2", "distilled-MiniLM-L3-v2"),
    ("bert-base-uncased", "bert-base-uncased"),
    ("bge-small-en-v1-5", "bge-small-en-v1.5"),
    ("uae-large-v1", "UAE-Large-V1"),
];
/// What the documents call them.
const NAMES: [&str; 5] = ["all-MiniLM-L6-v2", "distilled-MiniLM-L3-v2", "bert-base", "bge-small", "uae-large"];
const MODEL: &str = "all-minilm-l6-v2";
/// Where the documents find the gateway.
const DOCUMENTED: [&str; 2] = ["http://localhost:8080", "http://127.0.0.1:8080"];

struct Dev {
    _daemon: Daemon,
    http: Http,
    nats_url: String,
    folder: TempDir,
    _registry: TestRegistry,
}

fn dev() -> Dev {
    let registry = TestRegistry::new();
    for (slug, name) in OTHERS {
        registry.derive_model(slug, name, FIRST, |_, _| ());
        registry.promote(slug, FIRST);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(sibling_binary("embed"));
    command.args(["dev", "--json", "--port=0", "--gateway=127.0.0.1:0", "--registry"]).arg(registry.path());
    command.arg("--data-dir").arg(folder.path().join("data")).current_dir(folder.path());
    command.env("NATS_SERVER_BIN", embed_testkit::nats_server_binary()).env_remove("EMBED_GATEWAY_KEYS");
    // On a busy machine a call may wait long, and is to be answered all the same.
    command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    let daemon = Daemon::spawn(&mut command);
    let ready = daemon.json_line();
    let url = |field: &str| ready[field].as_str().unwrap_or_else(|| panic!("{field}: {ready}")).to_owned();
    Dev {
        http: Http::new(&url("gateway_url")),
        nats_url: url("nats_url"),
        _daemon: daemon,
        folder,
        _registry: registry,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomers_stack_answers_all_that_is_written_down() {
    let dev = tokio::task::spawn_blocking(dev).await.unwrap();
    dev.http.ready().await;
    the_users_documents(&dev.http).await;
    vectors_are_those_of_nats(&dev).await;
    let (url, nats_url) = (dev.http.url.clone(), dev.nats_url.clone());
    let expected = dev.folder.path().join("expected.json");
    let readme = std::fs::read_to_string(repository().join("producer/gateway/README.md")).unwrap();
    tokio::task::spawn_blocking(move || {
        commands(&url, &readme);
        for script in ["openai_clients.py", "openai_batches.py"] {
            let script = repository().join("producer/gateway/tests").join(script);
            run("python", &[script.to_str().unwrap(), &url, expected.to_str().unwrap()]);
        }
        fuzzed(&nats_url);
    })
    .await
    .unwrap();
    dev.http.ready().await;
}

/// What the documents do with curl and jq.
async fn the_users_documents(http: &Http) {
    for name in NAMES {
        let answer = http.post("/api/v1/embed", &json!({"text": "hello world", "model": name})).await.ok();
        let body = answer.json();
        assert_eq!((&body["model"], &body["dimension"]), (&json!(name), &json!(384)));
        assert_eq!(body["embedding"].as_array().unwrap().len(), 384);
        assert!(body["latency_ms"].is_u64(), "{body}");
    }
    let models = http.get("/api/v1/models").await.ok().json();
    assert_eq!(models["models"].as_array().unwrap().len(), NAMES.len());
    assert_eq!((&models["models"][0]["dimension"], &models["models"][0]["max_seq_length"]), (&json!(384), &json!(256)));
    let validated = http.get("/api/v1/validate").await.ok().json();
    assert!(validated["cosine_similarity"].as_f64().unwrap() > 0.9999, "{validated}");
    let variants = validated["variants"].as_array().unwrap();
    assert!(
        variants.len() == NAMES.len() && variants.iter().all(|variant| variant["reference"] == "golden"),
        "{validated}"
    );
    let info = http.get("/info").await;
    assert_eq!(info.status, 422, "it cannot know which of the five: {info:?}");
    assert!(http.get("/metrics").await.ok().text.contains("akidb_batch"));
}

/// The same texts by HTTP and over NATS. They are written down for others to compare with.
async fn vectors_are_those_of_nats(dev: &Dev) {
    let settings = ConnectSettings { server: Some(dev.nats_url.clone()), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.unwrap();
    let texts: Vec<String> = (0..40).map(|n| format!("text {n} {}", "of some length ".repeat(n % 7))).collect();
    let options = CallOptions::default().timeout(PATIENCE);
    let result = client.embed(&MODEL.parse().unwrap(), EmbedRequest::new(texts.clone()), &options).await.unwrap();
    let vectors: Vec<Vec<f32>> = (0..texts.len()).map(|row| result.vector(row).unwrap()).collect();
    let body = dev.http.post("/v1/embeddings", &json!({"model": MODEL, "input": texts})).await.ok().json();
    for (row, vector) in vectors.iter().enumerate() {
        let found = body["data"][row]["embedding"].as_array().unwrap();
        // What else is in a batch may move the last bits.
        let is_near = |(a, b): (&Value, &f32)| (a.as_f64().unwrap() as f32 - b).abs() < 1e-5;
        assert!(found.len() == 384 && found.iter().zip(vector).all(is_near), "{row}");
    }
    assert_eq!(body["usage"]["prompt_tokens"], result.items.iter().map(|item| item.tokens).sum::<u32>());
    let expected = json!({"model": MODEL, "texts": texts, "vectors": vectors});
    std::fs::write(dev.folder.path().join("expected.json"), expected.to_string()).unwrap();
}

/// The commands as they are written, in the documents and in our README, where there are the programs that they use.
fn commands(url: &str, readme: &str) {
    if on_path("curl").is_none() || on_path("jq").is_none() {
        return eprintln!("there is no curl, or no jq: the commands are not run as they are written");
    }
    let shell = |script: &str| {
        let script = DOCUMENTED.into_iter().fold(script.to_owned(), |script, from| script.replace(from, url));
        let mut bash = Command::new("bash");
        let output =
            bash.args(["-euo", "pipefail", "-c", &script]).env("no_proxy", "*").stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let each = shell(
        r#"
for model in all-MiniLM-L6-v2 distilled-MiniLM-L3-v2 bert-base bge-small uae-large; do
  echo "Testing model: $model"
  curl -X POST http://localhost:8080/api/v1/embed \
    -H "Content-Type: application/json" \
    -d "{\"text\": \"hello world\", \"model\": \"$model\"}" | jq .
done"#,
    );
    assert_eq!(each.matches(r#""dimension": 384"#).count(), NAMES.len(), "{each}");
    let cosine = shell("curl -s http://localhost:8080/api/v1/validate | jq -r '.cosine_similarity'");
    assert!(cosine.trim().parse::<f64>().unwrap() > 0.99, "{cosine}");
    assert_eq!(shell("curl -s http://localhost:8080/api/v1/models | jq -r '.models | length'").trim(), "5");
    assert!(shell("curl http://localhost:8080/metrics | grep akidb_batch").contains("akidb_batch"));
    let one = "curl -X POST http://localhost:8080/api/v1/embed \\\n  -d '{\"text\": \"hello world\", \"model\": \"distilled-MiniLM-L3-v2\"}'";
    assert!(shell(one).contains("embedding"));
    let ours: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(ours.len() >= 6, "{ours:?}");
    for line in ours {
        shell(&line.replacen("curl -s", "curl -sSf", 1));
    }
}

/// A program of the virtual environment.
fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(repository().join(".venv/bin").join(program));
    command.env("SCHEMATHESIS_HOOKS", repository().join("producer/gateway/tests/schemathesis_hooks.py"));
    // It keeps what it has found where it runs.
    let folder = tempfile::tempdir().unwrap();
    let output = command.args(arguments).current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Requests that the document allows, and such as it does not.
fn fuzzed(nats_url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(nats_url, &["--default-model", MODEL]);
    command.arg("--files").arg(folder.path().join("files")).arg("--vectors").arg(folder.path().join("vectors"));
    let (_gateway, http) = spawn(&mut command);
    let document = format!("{}/openapi.json", http.url);
    // What a model has in prompts, dimensions and variants does not stand in the document: not all that it allows is taken.
    let not = "positive_data_acceptance";
    let arguments = ["run", &document, "--checks=all", "--exclude-checks", not, "--phases=examples,coverage,fuzzing"];
    let more = ["--max-examples=15", "--seed=1", "--no-color"];
    run("schemathesis", &[&arguments[..], &more[..]].concat());
}
