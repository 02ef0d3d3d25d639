//! What is used up, and what is under way.

use serde_json::json;

use crate::support::{Stack, command, until};

/// A stack with a key that has these limits.
async fn limited(limits: &str, more: &[&str]) -> (Stack, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let mut entries = String::new();
    let mut keys = Vec::new();
    for name in ["a", "b"] {
        let output = command("nats://127.0.0.1:1", &["--new-key", name]).output().unwrap();
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        entries += &format!("{}{limits}\n", made["entry"].as_str().unwrap());
        keys.push(made["key"].as_str().unwrap().to_owned());
    }
    std::fs::write(&file, entries).unwrap();
    let mut stack = Stack::start(&[&["--key-file", file.to_str().unwrap()], more].concat()).await;
    stack.http = stack.http.with_key(&keys[0]);
    std::fs::write(folder.path().join("b"), &keys[1]).unwrap();
    (stack, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_key_are_counted() {
    // So few that none comes back while the test runs.
    let (stack, folder) = limited("requests_per_minute = 2", &[]).await;
    let first = stack.http.embeddings("x").await.ok();
    assert_eq!(
        (first.header("x-ratelimit-limit-requests"), first.header("x-ratelimit-remaining-requests")),
        ("2", "1")
    );
    stack.http.embeddings("x").await.ok();
    let refused = stack.http.embeddings("x").await;
    assert_eq!(refused.error().1, "rate_limit_exceeded");
    let pause: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&pause), "{pause}");
    assert!(refused.text.contains("2 requests a minute"), "{}", refused.text);
    let other = std::fs::read_to_string(folder.path().join("b")).unwrap();
    stack.http.with_key(&other).embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_to_be_refused_counts_as_well() {
    let (stack, folder) = limited("requests_per_minute = 3\nmax_body_bytes = 500", &[]).await;
    assert_eq!(stack.http.post("/v1/embeddings", &json!({"input": 7})).await.status, 400);
    assert_eq!(stack.http.embeddings("x".repeat(1000)).await.status, 413);
    assert_eq!(stack.http.post("/embed", &json!({"nonsense": 1})).await.status, 422);
    assert_eq!(stack.http.embeddings("x").await.error().1, "rate_limit_exceeded");
    let other = std::fs::read_to_string(folder.path().join("b")).unwrap();
    let other = stack.http.with_key(&other);
    // Finding out how good variants are takes calls.
    for _ in 0..3 {
        other.get("/api/v1/validate").await.ok();
    }
    assert_eq!(other.get("/api/v1/validate").await.error().1, "rate_limit_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_variants_compared_pays_for_it() {
    let (stack, folder) = limited("tokens_per_minute = 2000", &[]).await;
    until("the variants are known", async || {
        !stack.http.get("/api/v1/models").await.json()["models"][0]["variants"][0]["version"].is_null()
    })
    .await;
    stack.http.get("/api/v1/validate").await.ok();
    let left = stack.http.embeddings("x").await.ok();
    let left: u64 = left.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(left < 1900, "{left} of 2000");
    // It was found out a moment ago.
    let other = stack.http.with_key(&std::fs::read_to_string(folder.path().join("b")).unwrap());
    other.get("/api/v1/validate").await.ok();
    let left = other.embeddings("x").await.ok();
    assert!(left.header("x-ratelimit-remaining-tokens").parse::<u64>().unwrap() > 1900, "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_key_are_counted_as_workers_count_them() {
    let (stack, _folder) = limited("tokens_per_minute = 100", &[]).await;
    // By its bytes, it would be 102 tokens. The worker says 3.
    let first = stack.http.embeddings("x".repeat(400)).await.ok();
    assert_eq!(first.header("x-ratelimit-limit-tokens"), "100");
    let left: u64 = first.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!((97..=100).contains(&left), "{left}");
    // What is refused costs nothing.
    for _ in 0..20 {
        assert_eq!(stack.http.embeddings("!code:engine_failed").await.status, 500);
    }
    stack.http.embeddings("x ".repeat(90)).await.ok();
    let refused = stack.http.embeddings("x ".repeat(90)).await;
    assert_eq!((refused.status, refused.error().1.as_str()), (429, "rate_limit_exceeded"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_does_not_take_all_the_room() {
    let (stack, folder) = limited("", &["--max-texts", "8"]).await;
    let other = stack.http.with_key(&std::fs::read_to_string(folder.path().join("b")).unwrap());
    let waiting: Vec<_> = (1..=8)
        .map(|_| {
            tokio::spawn({
                let http = stack.http.clone();
                async move { http.embeddings("!wait").await }
            })
        })
        .collect();
    until("all of them are under way", async || stack.worker.taken() == 8).await;
    let refused = other.embeddings("x").await;
    assert_eq!((refused.status, refused.error().1.as_str(), refused.header("retry-after")), (429, "overloaded", "1"));
    let figures = stack.http.get("/metrics").await.ok().text;
    assert!(figures.contains("akidb_gateway_in_flight_texts 8"), "{figures}");
    stack.worker.go();
    for waiting in waiting {
        waiting.await.unwrap().ok();
    }
    other.embeddings("x").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_bounded_for_all_together() {
    let (stack, _folder) = limited("", &["--max-bodies", "64KiB"]).await;
    // It counts as it came, and as what is read of it.
    stack.http.embeddings("x".repeat(25_000)).await.ok();
    let refused = stack.http.embeddings("x".repeat(40_000)).await;
    assert_eq!((refused.status, refused.error().1.as_str(), refused.header("retry-after")), (429, "overloaded", "1"));
    stack.http.post("/v1/embeddings", &json!({"input": "x"})).await.ok();
}
