//! Keys: who is let in, what a wrong one learns, what changes with the file, and what each may.

use std::{collections::BTreeSet, path::Path};

use embed_testkit::NatsServer;
use serde_json::json;

use crate::support::{Answer, Http, Stack, Worker, command, connect, spawn, until};

/// A new key, and its entry.
fn new_key(name: &str) -> (String, String) {
    let output = command("nats://127.0.0.1:1", &["--new-key", name]).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("key"), text("entry"))
}

fn write(file: &Path, entries: &[&str]) {
    // As a tool does it that replaces files.
    let new = file.with_extension("new");
    std::fs::write(&new, entries.concat()).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn keyed(entries: &[&str], more: &[&str]) -> (Stack, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    write(&file, entries);
    let stack = Stack::start(&[&["--key-file", file.to_str().unwrap()], more].concat()).await;
    (stack, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_learns_nothing() {
    let (key, entry) = new_key("search");
    let (stack, _folder) = keyed(&[&entry], &[]).await;
    let right = stack.http.with_key(&key);
    right.embeddings("x").await.ok();
    let taken = stack.worker.taken();
    let mut wrong: Vec<Http> = vec![stack.http.clone(), stack.http.with_key(""), stack.http.with_key("akidb-")];
    for place in [0, key.len() / 2, key.len() - 1] {
        let mut bytes = key.clone().into_bytes();
        bytes[place] ^= 1;
        wrong.push(stack.http.with_key(&String::from_utf8(bytes).unwrap()));
    }
    wrong.push(stack.http.with_key(&format!("{key}x")));
    wrong.push(stack.http.with_key(&key[..key.len() - 1]));
    let (mut answers, mut of_tei) = (BTreeSet::new(), BTreeSet::new());
    for http in &wrong {
        for path in ["/v1/models", "/v1/models/m", "/v1/models/other", "/nowhere", "/metrics", "/api/v1/validate"] {
            answers.insert(said(http.get(path).await));
        }
        of_tei.insert(said(http.get("/info").await));
        of_tei.insert(said(http.post("/embed", &json!({"inputs": "x"})).await));
        answers.insert(said(http.embeddings("x").await));
        answers.insert(said(http.post("/v1/embeddings", &json!({"nonsense": 1})).await));
    }
    assert_eq!(answers.len(), 1, "whatever is wrong with it, and whatever is asked for: {answers:?}");
    assert!(answers.first().unwrap().contains("401"));
    // Its clients read errors of another shape.
    assert_eq!(of_tei.len(), 1, "{of_tei:?}");
    assert!(of_tei.first().unwrap().contains(r#""error_type":"Validation""#), "{of_tei:?}");
    assert_eq!(stack.worker.taken(), taken);
    // Who looks after it needs none.
    for path in ["/healthz", "/readyz", "/health", "/openapi.json"] {
        stack.http.get(path).await.ok();
    }
    let figures = right.get("/metrics").await.ok().text;
    assert!(figures.contains(r#"key="search""#) && figures.contains(r#"route="refused",status="401""#), "{figures}");
    assert!(!figures.contains(&key));
}

/// All that an answer says, but for what differs between any two: the time, and the request's id.
fn said(answer: Answer) -> String {
    let mut headers: Vec<_> =
        answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str())).collect();
    headers.sort_by_key(|(name, _)| name.as_str());
    format!("{} {headers:?} {}", answer.status, answer.text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_file_is_a_change_of_the_keys() {
    let ((first, first_entry), (second, second_entry)) = (new_key("first"), new_key("second"));
    let (stack, folder) = keyed(&[&first_entry], &[]).await;
    let (first, second) = (stack.http.with_key(&first), stack.http.with_key(&second));
    first.embeddings("x").await.ok();
    assert_eq!(second.embeddings("x").await.status, 401);
    let file = folder.path().join("keys.toml");
    write(&file, &[&first_entry, &second_entry]);
    until("the second is known", async || second.embeddings("x").await.status == 200).await;
    write(&file, &["[[key]]\nname = "]);
    let mut gateway = stack.gateway;
    gateway.wait_for_log("the keys of before go on");
    second.embeddings("x").await.ok();
    write(&file, &[&second_entry]);
    until("the first is none any more", async || first.embeddings("x").await.status == 401).await;
    second.embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_environment_count_as_well() {
    let server = NatsServer::start();
    let _worker = Worker::start(&connect(&server).await, "m").await;
    let (_gateway, http) = spawn(command(&server.url(), &[]).env("EMBED_GATEWAY_KEYS", "ops=some-long-key"));
    http.ready().await;
    assert_eq!(http.embeddings("x").await.status, 401);
    http.with_key("some-long-key").embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_has_its_limits_and_its_name_at_the_workers() {
    let ((narrow, narrow_entry), (wide, wide_entry)) = (new_key("narrow"), new_key("wide"));
    let limits = "max_inputs = 2\nmax_body_bytes = 200\nmodels = [\"M\"]\n";
    let (stack, _folder) = keyed(&[&narrow_entry, limits, &wide_entry], &[]).await;
    let _other = Worker::start(&connect(&stack.server).await, "other").await;
    let (narrow, wide) = (stack.http.with_key(&narrow), stack.http.with_key(&wide));
    assert_eq!(narrow.embeddings("!sender").await.ok().header("x-embed-version"), "narrow");
    assert_eq!(wide.embeddings("!sender").await.ok().header("x-embed-version"), "wide");
    assert_eq!(narrow.embeddings(vec!["a", "b", "c"]).await.error().0, 400);
    wide.embeddings(vec!["a", "b", "c"]).await.ok();
    assert_eq!(narrow.embeddings("x".repeat(300)).await.error().0, 413);
    wide.embeddings("x".repeat(300)).await.ok();
    let ask = json!({"model": "other", "input": "x"});
    until("the other model is known", async || wide.post("/v1/embeddings", &ask).await.status == 200).await;
    let answer = narrow.post("/v1/embeddings", &ask).await;
    assert_eq!(answer.error(), (404, "model_not_found".to_owned(), json!("model")));
    assert!(answer.text.contains("there are: m\""), "what it may not ask, it is not told of: {}", answer.text);
    assert_eq!(narrow.get("/v1/models").await.ok().json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(narrow.get("/v1/models/other").await.status, 404);
    narrow.post("/v1/embeddings", &json!({"input": "x"})).await.ok();
    assert_eq!(wide.post("/v1/embeddings", &json!({"input": "x"})).await.error().0, 400, "it has to say which");
    let validated = narrow.get("/api/v1/validate").await.ok().json();
    assert!(validated["variants"].as_array().unwrap().iter().all(|variant| variant["model"] == "m"), "{validated}");
}
