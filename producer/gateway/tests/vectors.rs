//! Vectors that outlive a gateway: found by others, by their names, and by nobody who is not to see them; what a store that fails changes.

use embed_testkit::{NatsServer, S3Server};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Answer, Http, Worker, command, connect, spawn, until, vector};

const SPACE: &str = "sha256:one";

/// As anybody makes it who knows what a vector is of.
fn digest(before: &str, text: &str) -> String {
    Sha256::digest(format!("v1\n{before}\n{text}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path(text: &str) -> String {
    format!("/v1/vectors/{SPACE}/{}", digest("\n", text))
}

async fn with(http: &Http, method: Method, path: &str, header: (&str, &str)) -> Answer {
    Answer::of(http.request(method, path).header(header.0, header.1).send().await.unwrap()).await
}

/// Waits until a vector is kept.
async fn kept(http: &Http, path: &str) -> Answer {
    until("the vector is kept", async || http.get(path).await.status == 200).await;
    http.get(path).await
}

/// Waits until what workers serve is known: then, what is kept is found.
async fn found(http: &Http, worker: &Worker, text: &str) {
    until("what is kept is found", async || {
        let before = worker.taken();
        http.embeddings(text).await.ok();
        worker.taken() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_gateway_has_had_made_another_finds_and_everybody_who_knows_its_name() {
    let (server, s3) = (NatsServer::start(), S3Server::start());
    s3.make_bucket("vectors");
    let worker = Worker::start(&connect(&server).await, "m").await;
    let start = || {
        // On a busy machine the store may take its time.
        let mut command = command(&server.url(), &["--vectors=s3://vectors/some", "--vectors-wait=10s"]);
        spawn(command.envs(S3Server::settings(&s3.address())))
    };
    let (_first, http) = start();
    http.ready().await;
    let made = http.embeddings(json!(["hello", "world"])).await.ok().json();
    let one = kept(&http, &path("hello")).await.ok();
    assert_eq!(one.json()["embedding"], made["data"][0]["embedding"]);
    let (_second, other) = start();
    other.ready().await;
    found(&other, &worker, "hello").await;
    let before = worker.taken();
    kept(&other, &path("world")).await;
    let list = other.embeddings(json!(["new", "hello", "world", "hello"])).await.ok();
    assert_eq!(list.json()["data"][2]["embedding"], made["data"][1]["embedding"]);
    assert_eq!((list.header("x-embed-space"), worker.taken()), (SPACE, before + 1), "only what is new is asked for");

    // What has a name is what it is of: the prompt, the dimensions and the text.
    let fewer = json!({"model": "m", "input": "hello", "dimensions": 2, "prompt": ""});
    let fewer = other.post("/v1/embeddings", &fewer).await.ok().json();
    let name = format!("/v1/vectors/{SPACE}/{}", digest("=0:\n2", "hello"));
    assert_eq!(kept(&other, &name).await.json()["embedding"], fewer["data"][0]["embedding"]);

    // For good.
    let expected = json!({
        "object": "embedding", "embedding": vector("hello"), "model": "m", "space": SPACE, "dimension": 4, "tokens": 3,
    });
    let as_floats = |body: &Value| {
        let mut body = body.clone();
        let numbers = body["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32);
        body["embedding"] = json!(numbers.collect::<Vec<f32>>());
        body
    };
    assert_eq!(as_floats(&one.json()), expected);
    assert_eq!(one.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!((one.header("x-embed-model"), one.header("x-embed-version")), ("m", "v1.0.0"));
    let tag = one.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "{tag}");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let same = with(&other, Method::GET, &path("hello"), ("if-none-match", &known)).await;
        assert_eq!((same.status, same.text.as_str(), same.header("etag")), (304, "", tag.as_str()));
        assert_eq!(same.header("cache-control"), one.header("cache-control"));
    }
    with(&other, Method::GET, &path("hello"), ("if-none-match", "\"x\"")).await.ok();
    let head = with(&other, Method::HEAD, &path("hello"), ("x", "y")).await.ok();
    assert_eq!((head.text.as_str(), head.header("etag")), ("", tag.as_str()));
    assert_eq!(head.header("content-length"), one.text.len().to_string());
    let raw = other.request(Method::GET, &format!("{}.f32", path("hello"))).send().await.unwrap();
    assert_eq!(raw.headers()["content-type"], "application/octet-stream");
    assert_ne!(raw.headers()["etag"], tag.as_str(), "other bytes");
    let bytes: Vec<u8> = vector("hello").iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(raw.bytes().await.unwrap(), bytes);

    // Nothing of it is not there.
    for wrong in [
        path("never"),
        path("hello").replace("one", "two"),
        path("hello").to_uppercase().replace("/V1/VECTORS/SHA256:ONE", "/v1/vectors/sha256:one"),
        format!("{}.f16", path("hello")),
        format!("/v1/vectors/..%2f{SPACE}/{}", digest("\n", "hello")),
        format!("/v1/vectors/{SPACE}/x"),
    ] {
        let answer = other.get(&wrong).await;
        assert_eq!((answer.error().0, answer.header("cache-control")), (404, "no-store"), "{wrong}: {answer:?}");
    }
    // What names a variant is made by it.
    let before = worker.taken();
    let ask = json!({"model": "m", "input": "hello"});
    other.post_with("/v1/embeddings", &ask, &[("x-model-version", "int8")]).await.ok();
    assert_eq!(worker.taken(), before + 1);
    let figures = other.get("/metrics").await.ok().text;
    for line in [
        "akidb_gateway_cache_texts_total{outcome=\"stored\"}",
        "akidb_gateway_vector_reads_total{outcome=\"hit\"}",
        "akidb_gateway_vector_reads_total{outcome=\"miss\"}",
        "akidb_gateway_vector_writes_total{outcome=\"stored\"}",
    ] {
        assert!(figures.contains(line), "{line}: {figures}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_in_nobodys_way() {
    let (server, mut s3) = (NatsServer::start(), S3Server::start());
    s3.make_bucket("vectors");
    let _worker = Worker::start(&connect(&server).await, "m").await;
    let mut command = command(&server.url(), &["--vectors=s3://vectors", "--timeout=1h"]);
    let (_gateway, http) = spawn(command.envs(S3Server::settings(&s3.address())));
    http.ready().await;
    http.embeddings("before").await.ok();
    let before = kept(&http, &path("before")).await;
    s3.kill();
    let away = http.get(&path("before")).await;
    assert_eq!((away.error().0, away.header("retry-after"), away.header("cache-control")), (503, "1", "no-store"));
    let mut count = 0;
    until("nobody waits for the store any more", async || {
        count += 1;
        http.embeddings(format!("text {count}")).await.ok();
        http.get("/metrics").await.ok().text.contains("akidb_gateway_vector_reads_total{outcome=\"skipped\"}")
    })
    .await;
    s3.restart();
    assert_eq!(kept(&http, &path("before")).await.json(), before.json());
    http.embeddings("after").await.ok();
    kept(&http, &path("after")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_made_anew() {
    let server = NatsServer::start();
    let worker = Worker::start(&connect(&server).await, "m").await;
    let folder = tempfile::tempdir().unwrap();
    let start =
        || spawn(command(&server.url(), &["--vectors-wait=10s", "--vectors"]).arg(folder.path().join("vectors")));
    let (_gateway, http) = start();
    http.ready().await;
    http.embeddings("hello").await.ok();
    let whole = kept(&http, &path("hello")).await;
    let name = digest("\n", "hello");
    let object = folder.path().join("vectors/vectors").join(SPACE).join(&name[..2]).join(&name);
    let mut bytes = std::fs::read(&object).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&object, &bytes).unwrap();
    let damaged = http.get(&path("hello")).await;
    assert_eq!((damaged.error().0, damaged.header("cache-control")), (404, "no-store"));
    found(&http, &worker, "hello").await;
    assert_eq!(kept(&http, &path("hello")).await.json(), whole.json());
    let figures = http.get("/metrics").await.ok().text;
    assert!(figures.contains("akidb_gateway_vector_reads_total{outcome=\"damaged\"}"), "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_see_what_they_take_part_in() {
    let server = NatsServer::start();
    let client = connect(&server).await;
    let (worker, others) = (Worker::start(&client, "m").await, Worker::start(&client, "other").await);
    let folder = tempfile::tempdir().unwrap();
    let keys: String = ["part", "narrow", "apart"]
        .iter()
        .zip(["vectors = true", "vectors = true\nmodels = [\"other\"]", ""])
        .map(|(name, more)| {
            let digest: String =
                Sha256::digest(format!("the-key-of-{name}")).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("[[key]]\nname = \"{name}\"\nsha256 = \"{digest}\"\n{more}\n")
        })
        .collect();
    std::fs::write(folder.path().join("keys.toml"), keys).unwrap();
    let start = |more: &[&str]| {
        let mut command = command(&server.url(), &["--vectors-wait=10s", "--vectors"]);
        command.arg(folder.path().join("vectors")).arg("--key-file").arg(folder.path().join("keys.toml")).args(more);
        spawn(&mut command)
    };
    let (_gateway, http) = start(&[]);
    let [part, narrow, apart] = ["part", "narrow", "apart"].map(|name| http.with_key(&format!("the-key-of-{name}")));
    http.ready().await;
    apart.embeddings("of its own").await.ok();
    part.embeddings("for all").await.ok();
    let answer = kept(&part, &path("for all")).await;
    assert_eq!(answer.header("cache-control"), "private, max-age=31536000, immutable");
    assert_eq!(http.get(&path("for all")).await.status, 401);
    assert_eq!(narrow.get(&path("for all")).await.status, 404, "what it may not ask, it is not told of");
    // Nor if it names the space in a call for what it may ask.
    let ask = json!({"model": "other", "input": "for all"});
    let answer = narrow.post_with("/v1/embeddings", &ask, &[("x-embed-space", SPACE)]).await.ok();
    assert_eq!((answer.header("x-embed-model"), others.taken()), ("other", 1));
    assert_eq!(apart.get(&path("for all")).await.error().1, "not_permitted");
    found(&part, &worker, "for all").await;
    let before = worker.taken();
    apart.embeddings("for all").await.ok();
    assert_eq!(worker.taken(), before + 1, "it does not find what others have");
    // What was asked for first would be there by now.
    assert_eq!(part.get(&path("of its own")).await.status, 404);

    let (_public, open) = start(&["--vectors-public"]);
    open.ready().await;
    let answer = kept(&open, &path("for all")).await;
    assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(open.embeddings("for all").await.status, 401, "nothing else is asked without a key");
}
