//! Every status, with its code, the field at fault, and when to come again.

use embed_schemas::ErrorCode;
use serde_json::{Value, json};

use crate::support::{Answer, Http, Stack, until};

async fn fails(http: &Http, text: &str) -> Answer {
    http.embeddings(text).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_says_is_said_as_http_does() {
    let stack = Stack::start(&["--timeout", "2s"]).await;
    for code in ErrorCode::ALL {
        // A worker that stops is no reason not to ask another; it is tried, in vain.
        let answer = fails(&stack.http, &format!("!code:{code}")).await;
        let (status, said, param) = answer.error();
        assert_eq!((status, said.as_str(), param), (code.status(), code.as_str(), json!("input[0]")), "{answer:?}");
        let says_when = code.retryable() && code != ErrorCode::DeadlineExceeded;
        assert_eq!(!answer.header("retry-after").is_empty(), says_when, "{code}: {answer:?}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().starts_with("input[0]: it was told"), "{answer:?}");
    }
    let answer = stack.http.embeddings(vec!["fine", "!bad"]).await;
    assert_eq!(answer.error(), (400, "text_too_long".to_owned(), json!("input[1]")));
    let kinds = [
        ("!code:overloaded", "rate_limit_error"),
        ("!bad", "invalid_request_error"),
        ("!code:engine_failed", "server_error"),
    ];
    for (text, kind) in kinds {
        assert_eq!(fails(&stack.http, text).await.json()["error"]["type"], kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_question_is_named() {
    let stack = Stack::start(&["--max-body", "20KiB"]).await;
    let taken = stack.worker.taken();
    let tokens = "token ids are not taken";
    let wrong: [(Value, u16, &str, &str); 14] = [
        (json!({"model": "m"}), 400, "", "missing field `input`"),
        (json!({"model": "m", "input": []}), 400, "input", "no text"),
        (json!({"model": "m", "input": null}), 400, "input", "a text, or a list of texts"),
        (json!({"model": "m", "input": {"text": "x"}}), 400, "input", "a text, or a list of texts"),
        (json!({"model": "m", "input": [1, 2]}), 400, "input[0]", tokens),
        (json!({"model": "m", "input": [[1, 2]]}), 400, "input[0]", tokens),
        (json!({"model": "m", "input": ["x", true]}), 400, "input[1]", "a text"),
        (json!({"model": "m", "input": "x", "encoding_format": "hex"}), 400, "encoding_format", "base64"),
        (json!({"model": "m", "input": "x", "dimensions": 0}), 400, "dimensions", "at least 1"),
        (json!({"model": "m", "input": "x", "dimensions": -1}), 400, "dimensions", "invalid value"),
        (json!({"model": "m", "input": "x", "dimensions": 5}), 400, "dimensions", "at most 4"),
        (json!({"model": "m", "input": "x", "rate": 1}), 400, "rate", "unknown field `rate`"),
        (json!({"model": "other", "input": "x"}), 404, "model", "there are: m"),
        (json!({"model": "m", "input": "x".repeat(20 << 10)}), 413, "", "larger than 20480 bytes"),
    ];
    for (body, status, param, says) in wrong {
        let answer = stack.http.post("/v1/embeddings", &body).await;
        let (found, _, field) = answer.error();
        assert_eq!((found, field.as_str().unwrap_or_default()), (status, param), "{}", answer.text);
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let raw = async |body: Vec<u8>, headers: &[(&str, &str)]| {
        let mut request = stack.http.request(reqwest::Method::POST, "/v1/embeddings").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    };
    let answer = raw(b"{\"input\": \"\xff\xfe\"}".to_vec(), &[]).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("input")), "{answer:?}");
    for body in ["", "{", "[]", "\"x\"", "{\"input\": \"x\"} {}", "{\"input\": \"\\ud800\"}"] {
        assert_eq!(raw(body.into(), &[]).await.status, 400, "{body}");
    }
    let answer = raw(b"x".to_vec(), &[("content-encoding", "gzip")]).await;
    assert_eq!(answer.error().0, 415);
    let answer = raw(b"{\"input\": \"x\"}".to_vec(), &[("x-embed-timeout-ms", "soon")]).await;
    assert_eq!(answer.error(), (400, "invalid_request".to_owned(), json!("x-embed-timeout-ms")));
    let answer = raw(format!("{{\"input\": \"x\", \"model\": \"{}/m\"}}", "x".repeat(2000)).into_bytes(), &[]).await;
    assert_eq!(
        (answer.error().0, answer.error().2, answer.text.len() < 1000),
        (400, json!("model"), true),
        "{answer:?}"
    );
    assert_eq!(stack.http.get("/nowhere").await.error().0, 404);
    assert_eq!(stack.http.get("/v1/embeddings").await.error().0, 405);
    assert_eq!(stack.worker.taken(), taken + 1, "only what a worker alone can tell is asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_waited_for_as_long_as_was_said() {
    let stack = Stack::start(&[]).await;
    let ask = json!({"model": "m", "input": "!never"});
    let answer = stack.http.post_with("/v1/embeddings", &ask, &[("x-embed-timeout-ms", "200")]).await;
    assert_eq!((answer.status, answer.error().1.as_str()), (504, "timeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_it_is_said_at_once_and_afterwards_all_is_as_before() {
    let mut stack = Stack::start(&["--timeout", "100s"]).await;
    let waiting = tokio::spawn({
        let http = stack.http.clone();
        async move { http.embeddings("!never").await }
    });
    until("the call is under way", async || stack.worker.taken() > 0).await;
    stack.server.kill();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.error().0, answer.header("retry-after")), (503, "1"), "what is under way is not left waiting");
    for (path, ask) in [("/api/v1/embed", json!({"text": "x"})), ("/embed", json!({"inputs": "x"}))] {
        assert_eq!(stack.http.post(path, &ask).await.status, 503, "{path}");
    }
    let start = std::time::Instant::now();
    let answer = stack.http.embeddings("x").await;
    assert_eq!((answer.error().0, answer.header("retry-after")), (503, "1"));
    assert!(start.elapsed() < std::time::Duration::from_secs(50), "and not when the time for an answer is over");
    for path in ["/v1/models", "/v1/models/m", "/api/v1/models"] {
        let answer = stack.http.get(path).await;
        assert_eq!((answer.error().0, answer.header("retry-after")), (503, "1"), "{path}: what there is, is not known");
    }
    assert_eq!(stack.http.get("/info").await.status, 503);
    let ready = stack.http.get("/readyz").await;
    assert!(ready.status == 503 && ready.text.contains("no connection to NATS"), "{ready:?}");
    assert_eq!(stack.http.get("/health").await.status, 503);
    assert_eq!(stack.http.get("/healthz").await.text, "ok\n");
    stack.server.restart();
    stack.http.ready().await;
    until("the worker is back, too", async || stack.http.embeddings("x").await.status == 200).await;
    assert_eq!(stack.http.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_workers_nothing_is_known() {
    let server = embed_testkit::NatsServer::start();
    let (_gateway, http) = crate::support::gateway(&server, &[]);
    let answer = http.embeddings("x").await;
    assert_eq!(answer.error().0, 503, "{answer:?}");
    assert!(!answer.header("retry-after").is_empty() && answer.text.contains("embed-worker run"), "{answer:?}");
    assert_eq!(http.get("/v1/models").await.ok().json(), json!({"object": "list", "data": []}));
    let ready = http.get("/readyz").await;
    assert!(ready.status == 503 && ready.text.contains("no worker serves"), "{ready:?}");
}
