//! What TEI's clients and the platform's own find, pages of other origins, and figures.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Stack, vector};

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_tei_find_what_they_know() {
    let stack = Stack::start(&[]).await;
    for path in ["/embed", "/"] {
        let one = stack.http.post(path, &json!({"inputs": "hello", "truncate": true, "normalize": true})).await.ok();
        assert_eq!(floats(&one.json()[0]), vector("hello"));
        let two = stack.http.post(path, &json!({"inputs": ["a", "bc"], "truncate": null})).await.ok().json();
        assert_eq!([floats(&two[0]), floats(&two[1])], [vector("a"), vector("bc")]);
    }
    let wrong = stack.http.post("/embed", &json!({"inputs": []})).await;
    assert_eq!((wrong.status, wrong.json()["error_type"].as_str()), (422, Some("Validation")));
    assert!(wrong.json()["error"].as_str().unwrap().starts_with("inputs: there is no text"), "{wrong:?}");
    let tokens = stack.http.post("/embed", &json!({"inputs": [1, 2]})).await.json();
    assert!(tokens["error"].as_str().unwrap().starts_with("inputs[0]: token ids are not taken"), "{tokens}");
    let busy = stack.http.post("/embed", &json!({"inputs": "!code:overloaded"})).await;
    assert_eq!(
        (busy.status, busy.json()["error_type"].as_str(), busy.header("retry-after")),
        (429, Some("Overloaded"), "1")
    );
    let turned = stack.http.post("/embed", &json!({"inputs": "x", "truncation_direction": "Left"})).await;
    assert!(turned.status == 422 && turned.text.contains("Right"), "{turned:?}");
    assert_eq!(stack.http.post("/embed", &json!({"inputs": "x", "normalize": false})).await.status, 422);
    let info = stack.http.get("/info").await.ok().json();
    assert_eq!(
        (&info["model_id"], &info["model_sha"], &info["model_dtype"]),
        (&json!("m"), &json!("v1.0.0"), &json!("fp32"))
    );
    assert_eq!(info["max_client_batch_size"], 2048);
    assert_eq!(stack.http.get("/health").await.ok().text, "");
    let method = stack.http.get("/embed").await;
    assert_eq!((method.status, method.json()["error_type"].as_str()), (405, Some("Validation")));
    assert!(method.json()["error"].as_str().unwrap().contains("not asked by GET"), "{method:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platforms_own_paths_say_what_they_always_said() {
    let stack = Stack::start(&[]).await;
    // As curl sends it without being told what it is.
    let request =
        stack.http.request(Method::POST, "/api/v1/embed").header("content-type", "application/x-www-form-urlencoded");
    let answer = Answer::of(request.body(r#"{"text": "hello world", "model": "M"}"#).send().await.unwrap()).await.ok();
    let body = answer.json();
    assert_eq!(
        (floats(&body["embedding"]), &body["model"], &body["dimension"]),
        (vector("hello world").to_vec(), &json!("M"), &json!(4))
    );
    assert!(body["latency_ms"].is_u64(), "{body}");
    let wrong = stack.http.post("/api/v1/embed", &json!({"text": "!code:text_too_large"})).await;
    assert_eq!(wrong.error(), (413, "text_too_large".to_owned(), json!("text")));
    assert_eq!(stack.http.post("/api/v1/embed", &json!({"text": 3})).await.error().2, "text");
    let models = stack.http.get("/api/v1/models").await.ok().json();
    assert_eq!(models["models"][0]["name"], "m");
    let variants = &models["models"][0]["variants"];
    assert_eq!(
        (&variants[0]["name"], &variants[0]["default"], &variants[0]["workers"]),
        (&json!("fp32"), &json!(true), &json!(1))
    );
    let validated = stack.http.get("/api/v1/validate").await.ok().json();
    let cosine = validated["cosine_similarity"].as_f64().unwrap();
    assert!((cosine - 1.0).abs() < 1e-9 && validated["variants"].as_array().unwrap().len() == 2, "{validated}");
    assert_eq!(
        (&validated["variants"][1]["reference"], &validated["variants"][1]["texts"]),
        (&json!("variant"), &json!(32))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_may_ask_only_where_they_are_named() {
    let asked = async |stack: &Stack, method: Method, origin: &str| {
        let request = stack.http.request(method, "/v1/models").header("origin", origin);
        let request = request.header("access-control-request-method", "GET");
        Answer::of(request.send().await.unwrap()).await.header("access-control-allow-origin").to_owned()
    };
    let named = Stack::start(&["--cors-origin", "https://app.example.com"]).await;
    for method in [Method::OPTIONS, Method::GET] {
        assert_eq!(asked(&named, method.clone(), "https://app.example.com").await, "https://app.example.com");
        assert_eq!(asked(&named, method, "https://evil.example.com").await, "");
    }
    let plain = Stack::start(&[]).await;
    for method in [Method::OPTIONS, Method::GET] {
        assert_eq!(asked(&plain, method, "https://app.example.com").await, "");
    }
    let wrong = crate::support::command(&plain.server.url(), &["--cors-origin", "app.example.com"]).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--cors-origin"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_bounded_and_may_have_a_listener_of_their_own() {
    let stack = Stack::start(&[]).await;
    stack.http.embeddings(vec!["a", "b"]).await.ok();
    for path in ["/nowhere/1", "/nowhere/2", "/v1/models/x", "/v1/models/y"] {
        stack.http.get(path).await;
    }
    let figures = stack.http.get("/metrics").await.ok().text;
    for line in [
        r#"akidb_gateway_requests_total{route="/v1/embeddings",status="200",key="anybody"} 1"#,
        r#"akidb_gateway_requests_total{route="other",status="404",key="anybody"} 2"#,
        r#"akidb_gateway_requests_total{route="/v1/models/{model}",status="404",key="anybody"} 2"#,
        r#"akidb_gateway_texts_total{key="anybody",model="m"} 2"#,
        r#"akidb_gateway_tokens_total{key="anybody",model="m"} 6"#,
        "akidb_gateway_nats_connected 1",
        "akidb_batch_size_answered_bucket",
    ] {
        assert!(figures.contains(line), "{line}: {figures}");
    }
    let mut command = crate::support::command(&stack.server.url(), &["--metrics-listen", "127.0.0.1:0"]);
    let gateway = embed_testkit::Daemon::spawn(command.env("EMBED_GATEWAY_KEYS", "a=some-long-key"));
    let ready = gateway.json_line();
    let url = |field: &str| ready[field].as_str().unwrap().to_owned();
    let figures = crate::support::Http::new(url("metrics_url").trim_end_matches("/metrics"));
    assert!(figures.get("/metrics").await.ok().text.contains("akidb_gateway"));
    let http = crate::support::Http::new(&url("url")).with_key("some-long-key");
    assert_eq!(http.get("/metrics").await.status, 404);
}
