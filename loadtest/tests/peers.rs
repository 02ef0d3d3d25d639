//! The same texts through this project and through others: a real HTTP server that speaks the three shapes, and a process that takes the place of
//! the library.

use std::{
    fs,
    process::{Command, Output},
};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use embed_client::{CallOptions, Client};
use embed_connect::ConnectSettings;
use embed_schemas::{EmbedRequest, Slug};
use embed_testkit::{repository, sibling_binary};
use serde_json::{Value, json};

use crate::support::Stack;

/// It has what is used of the library, and other vectors.
const LIBRARY: &str = r#"
__version__ = "0.0"


class SentenceTransformer:
    def __init__(self, name):
        assert name == "a-checkpoint"

    def encode(self, texts, batch_size=32, normalize_embeddings=False):
        assert batch_size in (1, 4, 32)
        return [[1.0] + [0.0] * 383 for _ in texts]
"#;

/// A server whose vectors are the worker's.
struct Server {
    url: String,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(nats: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let settings = ConnectSettings { server: Some(nats.to_owned()), ..ConnectSettings::default() };
        let client = runtime.block_on(Client::connect(&settings)).unwrap();
        let embed = move |body: Bytes, field: &'static str| {
            let client = client.clone();
            async move {
                let asked: Value = serde_json::from_slice(&body).unwrap();
                let texts: Vec<String> = serde_json::from_value(asked[field].clone()).unwrap();
                let model: Slug = "all-minilm-l6-v2".parse().unwrap();
                let (count, options) = (texts.len(), CallOptions::default());
                let result = client.embed(&model, EmbedRequest::new(texts), &options).await.unwrap();
                let rows = (0..count).map(|row| result.vector(row).unwrap());
                (asked["model"].clone(), rows.collect::<Vec<_>>())
            }
        };
        let tei = embed.clone();
        let tei = move |body: Bytes| {
            let found = tei(body, "inputs");
            async move { json!(found.await.1).to_string() }
        };
        let openai = move |body: Bytes| {
            let found = embed(body, "input");
            async move {
                let (model, rows) = found.await;
                assert_eq!(model, "a-model");
                // In whichever order.
                let rows = rows.into_iter().enumerate().rev();
                let row = |(index, embedding): (usize, Vec<f32>)| json!({ "index": index, "embedding": embedding });
                json!({ "data": rows.map(row).collect::<Vec<_>>() }).to_string()
            }
        };
        let models = || async { json!({ "data": [{ "id": "a-model" }] }).to_string() };
        let routes = Router::new()
            .route("/embed", post(tei))
            .route("/embeddings", post(openai.clone()))
            .route("/v1/embeddings", post(openai))
            .route("/models", get(models))
            .route("/v1/models", get(models));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(embed_http::serve(listener, routes, embed_http::Limits::default()));
        Self { url, _runtime: runtime }
    }
}

fn peers(stack: &Stack, more: &[&str]) -> Output {
    let mut command = Command::new(sibling_binary("embed-loadtest"));
    command.args([
        "peers",
        "--json",
        "--server",
        &stack.nats.url(),
        "--concurrency",
        "1,2",
        "--texts-per-request",
        "4",
    ]);
    command.args(["--sweep", "0.2", "--duration", "0.4", "--most-rounds", "3"]).args(more).output().unwrap()
}

#[test]
fn everybody_is_asked_for_the_same_texts_in_turns() {
    let stack = Stack::start();
    let server = Server::start(&stack.nats.url());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sentence_transformers.py"), LIBRARY).unwrap();
    let python = repository().join(".venv/bin/python");
    // The interpreter finds the library beside itself.
    let python_here = folder.path().join("python");
    let script = format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' \"$@\"\n", folder.path().display(), python.display());
    fs::write(&python_here, script).unwrap();
    fs::set_permissions(&python_here, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let out = folder.path().join("out");
    let (python, out_path) = (python_here.to_str().unwrap(), out.to_str().unwrap());
    let servers = ["--tei", &server.url, "--openai", &server.url, "--infinity", &server.url, "--out", out_path];
    let library = ["--sentence-transformers", python, "--checkpoint", "a-checkpoint"];
    let output = peers(&stack, &[&servers[..], &library].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = report["peers"].as_array().unwrap();
    let names: Vec<_> = found.iter().map(|one| one["name"].as_str().unwrap()).collect();
    let ours = ["ours, jobs through JetStream", "ours, calls through NATS"];
    let others = ["text-embeddings-inference, ", "OpenAI's shape, ", "infinity, ", "sentence-transformers 0.0"];
    assert_eq!(names.len(), 6, "{names:?}");
    names.iter().zip(ours.iter().chain(&others)).for_each(|(name, begin)| assert!(name.starts_with(begin), "{name}"));
    for one in found {
        let library = one["name"].as_str().unwrap().starts_with("sentence");
        assert_eq!(one["tried"].as_array().unwrap().len(), if library { 1 } else { 2 }, "{one}");
        for rounds in ["texts_per_second", "lone_p50_ms", "lone_p95_ms", "lone_p99_ms"] {
            let values = one[rounds].as_array().unwrap();
            assert!(values.len() == 3 && values.iter().all(|value| value.as_f64() > Some(0.0)), "{rounds}: {one}");
        }
        // Those that have the worker's vectors, in the texts' order, are the same model; the stand-in is none.
        assert_eq!(one["cosine"].as_f64().unwrap() > 0.9999, !library, "{one}");
    }
    let notes = report["notes"].as_array().unwrap();
    assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains("is it the same model?"), "{notes:?}");
    let verdicts = report["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.iter().filter(|one| one["value"].as_str().unwrap().contains(" x")).count(), 4, "{verdicts:?}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("Texts a second, round by round") && page.matches("<svg").count() == 3);

    for (more, reason) in [
        (&["--tei", "http://127.0.0.1:1"][..], "127.0.0.1:1"),
        (&["--openai", "http://127.0.0.1:1"], "no answer"),
        (&["--tei", &format!("{}/nowhere", server.url)], "404"),
        (&["--rounds", "2"], "at least 3"),
    ] {
        let output = peers(&stack, more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(reason), "{more:?}: {said}");
    }
}
