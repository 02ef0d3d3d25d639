//! OpenAI's Batch API: what becomes of lines, good and bad; whose files and batches they are; what a restart, a cancellation and the end of the
//! window leave. Jobs are done by a real worker, so that they are found again, done or not.

use std::{path::Path, process::Command};

use embed_testkit::{Daemon, NatsServer, S3Server, nats_server_binary, registry, repository, sibling_binary};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Digest;

use crate::support::{Answer, Http, command, spawn, until};

const MODEL: &str = "all-minilm-l6-v2";

/// A file as a form has it.
fn form(purpose: &str, content: &str) -> (String, String) {
    let boundary = "----------------------form";
    let field =
        |head: &str, value: &str| format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n");
    let body = field(r#"name="purpose""#, purpose)
        + &field(r#"name="file"; filename="requests.jsonl""#, content)
        + &format!("--{boundary}--\r\n");
    (format!("multipart/form-data; boundary={boundary}"), body)
}

async fn upload(http: &Http, content: &str) -> Answer {
    let (kind, body) = form("batch", content);
    let request = http.request(Method::POST, "/v1/files").header("content-type", kind).body(body);
    Answer::of(request.send().await.unwrap()).await
}

async fn create(http: &Http, file: &str) -> Answer {
    let ask = json!({"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"});
    http.post("/v1/batches", &ask).await
}

/// Uploads these lines and makes a batch of them.
async fn begin(http: &Http, lines: &[String]) -> String {
    let file = upload(http, &lines.concat()).await.ok().json();
    assert_eq!(
        (&file["object"], &file["purpose"], &file["status"]),
        (&json!("file"), &json!("batch"), &json!("processed"))
    );
    let batch = create(http, file["id"].as_str().unwrap()).await.ok().json();
    assert_eq!((&batch["object"], &batch["status"]), (&json!("batch"), &json!("validating")));
    batch["id"].as_str().unwrap().to_owned()
}

async fn look(http: &Http, batch: &str) -> Value {
    http.get(&format!("/v1/batches/{batch}")).await.ok().json()
}

/// Waits until a batch is so.
async fn wait(http: &Http, batch: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut found = Value::Null;
    until(what, async || {
        found = look(http, batch).await;
        is_so(&found)
    })
    .await;
    found
}

async fn over(http: &Http, batch: &str) -> Value {
    wait(http, batch, "the batch is over", |batch| {
        ["completed", "failed", "expired", "cancelled"].contains(&batch["status"].as_str().unwrap())
    })
    .await
}

/// The lines of a file that a batch has made.
async fn lines(http: &Http, file: &Value) -> Vec<Value> {
    let Some(file) = file.as_str() else { return Vec::new() };
    let content = http.get(&format!("/v1/files/{file}/content")).await.ok();
    let bytes = http.get(&format!("/v1/files/{file}")).await.ok().json()["bytes"].clone();
    assert_eq!(bytes, json!(content.text.len()));
    content.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(id: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body}).to_string() + "\n"
}

fn ids(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["custom_id"].as_str().unwrap()).collect()
}

fn gateway(url: &str, files: &Path, arguments: &[&str]) -> (Daemon, Http) {
    spawn(command(url, arguments).arg("--files").arg(files))
}

/// A server and a worker with a real model.
fn dev(folder: &Path) -> (Daemon, String) {
    let mut dev = Command::new(sibling_binary("embed"));
    dev.args(["dev", "--json", "--port=0", "--data-dir"]).arg(folder.join("data")).current_dir(folder);
    dev.env("EMBED_REGISTRY", registry()).env("NATS_SERVER_BIN", nats_server_binary());
    let dev = Daemon::spawn(&mut dev);
    let url = dev.json_line()["nats_url"].as_str().unwrap().to_owned();
    (dev, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_on_where_it_was_when_the_gateway_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let (_dev, url) = tokio::task::spawn_blocking(move || dev(&root)).await.unwrap();
    let files = folder.path().join("files");
    let (first, http) = gateway(&url, &files, &[]);
    let count = 3_000;
    let all: Vec<String> =
        (0..count).map(|n| line(&n.to_string(), json!({"model": MODEL, "input": format!("text {n}")}))).collect();
    let batch = begin(&http, &all).await;
    let begun = wait(&http, &batch, "some of it is done", |batch| {
        batch["request_counts"]["completed"].as_u64() > Some(0) || batch["status"] == "completed"
    })
    .await;
    drop(first);
    let (_second, http) = gateway(&url, &files, &[]);
    let done = over(&http, &batch).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["request_counts"], json!({"total": count, "completed": count, "failed": 0}));
    let output = lines(&http, &done["output_file_id"]).await;
    assert_eq!(ids(&output), (0..count).map(|n| n.to_string()).collect::<Vec<_>>(), "killed at {begun}");
    assert!(done["error_file_id"].is_null());
    // Each line has the vector of its own text.
    for n in [0, count / 2, count - 1] {
        let call =
            http.post("/v1/embeddings", &json!({"model": MODEL, "input": format!("text {n}")})).await.ok().json();
        let [mut dot, mut a2, mut b2] = [0.0; 3];
        let vector = |body: &Value| {
            body["data"][0]["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
        };
        for (a, b) in vector(&call).into_iter().zip(vector(&output[n]["response"]["body"])) {
            (dot, a2, b2) = (dot + a * b, a2 + a * a, b2 + b * b);
        }
        assert!(dot / (a2 * b2).sqrt() > 0.9999, "{n}");
    }
}

/// Moves all times of an object by so many seconds: what is kept is not to be past its window.
fn moved(value: &mut Value, by: i64) {
    if let Some(fields) = value.as_object_mut() {
        for (name, field) in fields {
            match field.as_i64() {
                Some(time) if name.ends_with("_at") => *field = json!(time + by),
                _ => moved(field, by),
            }
        }
    }
}

/// A copy of the folder of an earlier version, as if it had been left a minute ago.
fn kept(from: &Path, to: &Path, by: i64) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            kept(&path, &target, by);
        } else if path.extension().is_some_and(|kind| kind == "json") {
            let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            moved(&mut value, by);
            std::fs::write(target, value.to_string()).unwrap();
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_batches_of_an_earlier_version_are_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let (_dev, url) = tokio::task::spawn_blocking(move || dev(&root)).await.unwrap();
    let example = repository().join("schemas/golden/kept/gateway-files-2026-11-30");
    let batch = std::fs::read_dir(example.join("batches/anybody")).unwrap().next().unwrap().unwrap().path();
    let state: Value = serde_json::from_slice(&std::fs::read(batch).unwrap()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let files = folder.path().join("files");
    kept(&example, &files, now - 60 - state["batch"]["created_at"].as_i64().unwrap());
    let (_gateway, http) = gateway(&url, &files, &[]);
    let done = over(&http, state["batch"]["id"].as_str().unwrap()).await;
    assert_eq!((&done["status"], &done["request_counts"]["completed"]), (&json!("completed"), &json!(3)), "{done}");
    assert_eq!(ids(&lines(&http, &done["output_file_id"]).await), ["row-0", "row-1", "row-2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_batch_is_refused_and_what_is_not_done_is_said() {
    let server = NatsServer::start();
    let folder = tempfile::tempdir().unwrap();
    let (_gateway, http) = gateway(&server.url(), folder.path(), &["--max-file=2000", "--max-batch-lines=3"]);
    let good = |id: &str| line(id, json!({"model": "m", "input": "x"}));

    let refused = upload(&http, &"x".repeat(2001)).await;
    assert_eq!(refused.error().0, 413, "{refused:?}");
    let (kind, body) = form("fine-tune", &good("a"));
    let request = http.request(Method::POST, "/v1/files").header("content-type", kind).body(body);
    let refused = Answer::of(request.send().await.unwrap()).await;
    assert_eq!(refused.error(), (400, "invalid_request".to_owned(), json!("purpose")));
    assert_eq!(http.post("/v1/files", &json!({})).await.error().2, json!("file"));
    assert_eq!(http.get("/v1/files").await.ok().json()["data"], json!([]), "nothing is left of what was refused");
    let file = upload(&http, &good("a")).await.ok().json()["id"].as_str().unwrap().to_owned();
    for (field, value) in [("endpoint", "/v1/completions"), ("completion_window", "1h"), ("input_file_id", "file-none")]
    {
        let mut ask = json!({"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"});
        ask[field] = json!(value);
        assert_eq!(http.post("/v1/batches", &ask).await.error(), (400, "invalid_request".to_owned(), json!(field)));
    }
    for path in ["/v1/files/file-none", "/v1/files/..%2f..", "/v1/batches/batch_none", "/v1/files/file-none/content"] {
        assert_eq!(http.get(path).await.status, 404, "{path}");
    }

    for (content, code, at) in [
        (vec![good("a"), good("b"), good("a")], "duplicate_custom_id", json!(3)),
        (vec![good("a"), "\n".into(), "no JSON\n".into()], "invalid_json_line", json!(3)),
        (vec![good("a"), "{}\n".into()], "invalid_custom_id", json!(2)),
        (vec![good("a"), good("b"), good("c"), good("d")], "too_many_requests", json!(4)),
        (vec!["\n".into()], "empty_file", Value::Null),
    ] {
        let batch = begin(&http, &content).await;
        let failed = over(&http, &batch).await;
        let error = &failed["errors"]["data"][0];
        assert_eq!(
            (&failed["status"], &error["code"], &error["line"]),
            (&json!("failed"), &json!(code), &at),
            "{failed}"
        );
    }

    // Nobody serves it, and it is given up.
    let batch = begin(&http, &[good("a"), line("b", json!({"model": "m", "input": 7})), good("c")]).await;
    wait(&http, &batch, "it is under way", |batch| batch["status"] == "in_progress").await;
    let cancelling = http.post(&format!("/v1/batches/{batch}/cancel"), &json!({})).await.ok().json();
    assert!(["cancelling", "cancelled"].contains(&cancelling["status"].as_str().unwrap()), "{cancelling}");
    let cancelled = over(&http, &batch).await;
    assert_eq!(cancelled["status"], "cancelled", "{cancelled}");
    assert_eq!(cancelled["request_counts"], json!({"total": 3, "completed": 0, "failed": 3}));
    assert!(cancelled["output_file_id"].is_null());
    let errors = lines(&http, &cancelled["error_file_id"]).await;
    assert_eq!(ids(&errors), ["a", "b", "c"]);
    assert_eq!(errors[0]["error"]["code"], "batch_cancelled");
    assert_eq!(http.post(&format!("/v1/batches/{batch}/cancel"), &json!({})).await.error().0, 409);
    let listed = http.get("/v1/batches?limit=2").await.ok().json();
    assert_eq!((&listed["data"][0]["id"], &listed["has_more"]), (&json!(batch), &json!(true)));
    let after = http.get(&format!("/v1/batches?limit=1&after={batch}")).await.ok().json();
    assert_eq!(after["data"][0]["id"], listed["data"][1]["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_ends_and_keys_have_their_own() {
    let server = NatsServer::start();
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(&server.url(), &["--batch-window=1s", "--files"]);
    command.arg(folder.path()).env("EMBED_GATEWAY_KEYS", "one=the-key-of-one,two=the-key-of-two");
    let (_gateway, http) = spawn(&mut command);
    let (one, two) = (http.with_key("the-key-of-one"), http.with_key("the-key-of-two"));
    assert_eq!(upload(&http, "x").await.status, 401);
    let batch = begin(&one, &[line("a", json!({"model": "m", "input": "x"}))]).await;
    let expired = over(&one, &batch).await;
    assert_eq!(expired["status"], "expired", "{expired}");
    assert!(expired["expired_at"].is_u64());
    let errors = lines(&one, &expired["error_file_id"]).await;
    assert_eq!((ids(&errors), &errors[0]["error"]["code"]), (vec!["a"], &json!("batch_expired")));

    let file = expired["input_file_id"].as_str().unwrap();
    for path in [format!("/v1/files/{file}"), format!("/v1/files/{file}/content"), format!("/v1/batches/{batch}")] {
        assert_eq!(two.get(&path).await.status, 404, "{path}");
        one.get(&path).await.ok();
    }
    assert_eq!(two.request(Method::DELETE, &format!("/v1/files/{file}")).send().await.unwrap().status(), 404);
    assert_eq!(two.post(&format!("/v1/batches/{batch}/cancel"), &json!({})).await.status, 404);
    assert_eq!(create(&two, file).await.error().2, json!("input_file_id"));
    for path in ["/v1/files", "/v1/batches"] {
        assert_eq!(two.get(path).await.ok().json()["data"], json!([]));
        assert!(!one.get(path).await.ok().json()["data"].as_array().unwrap().is_empty());
    }
    assert_eq!(one.request(Method::DELETE, &format!("/v1/files/{file}")).send().await.unwrap().status(), 200);
    assert_eq!(one.get(&format!("/v1/files/{file}")).await.status, 404);
}

/// One that runs out of tokens holds its batch up, and is killed: another goes on with it, and gets it done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_a_bucket_counts_for_its_key_and_is_gone_on_with_by_another_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let s3 = S3Server::start();
    let (_dev, url) = tokio::task::spawn_blocking(move || dev(&root)).await.unwrap();
    s3.make_bucket("files");
    let key = "the-key-of-both";
    let start = |limits: &str| {
        let file = folder.path().join(format!("keys{}.toml", limits.len()));
        let digest: String = sha2::Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&file, format!("[[key]]\nname = \"both\"\nsha256 = \"{digest}\"\n{limits}")).unwrap();
        let mut command = command(&url, &["--files=s3://files/some", "--batch-takeover=2s", "--key-file"]);
        let (gateway, http) = spawn(command.arg(file).envs(S3Server::settings(&s3.address())));
        (gateway, http.with_key(key))
    };
    // Half of it is for batches at once, and the rest for calls.
    let (first, http) = start("tokens_per_minute = 3000\n");
    let count = 1_000;
    let all: Vec<String> =
        (0..count).map(|n| line(&n.to_string(), json!({"model": MODEL, "input": format!("text {n}")}))).collect();
    let batch = begin(&http, &all).await;
    let held_up =
        wait(&http, &batch, "some of it is done", |batch| batch["request_counts"]["completed"].as_u64() > Some(100))
            .await;
    assert_eq!(held_up["status"], "in_progress", "{held_up}");
    let call = http.post("/v1/embeddings", &json!({"model": MODEL, "input": "x"})).await.ok();
    let left: u64 = call.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((500..2700).contains(&left), "{left}");
    first.kill();
    let (_second, http) = start("");
    let done = over(&http, &batch).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["request_counts"], json!({"total": count, "completed": count, "failed": 0}));
    let output = lines(&http, &done["output_file_id"]).await;
    assert_eq!(ids(&output), (0..count).map(|n| n.to_string()).collect::<Vec<_>>(), "taken over at {held_up}");
    let figures = http.get("/metrics").await.ok().text;
    assert!(figures.contains(r#"akidb_gateway_texts_total{key="both""#), "{figures}");
}
