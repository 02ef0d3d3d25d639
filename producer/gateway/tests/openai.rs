//! OpenAI's embeddings: forms of the input and of the vectors, what the headers say, order, and what the document promises.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::{Stack, vector};

/// The vectors of an answer, whichever form they have.
fn rows(body: &Value) -> Vec<Vec<f32>> {
    let data = body["data"].as_array().unwrap();
    let row = |(index, entry): (usize, &Value)| {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(index)));
        match &entry["embedding"] {
            Value::String(text) => {
                let bytes = BASE64_STANDARD.decode(text).unwrap();
                bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
            }
            numbers => numbers.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect(),
        }
    };
    data.iter().enumerate().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_become_vectors_in_either_form() {
    let stack = Stack::start(&[]).await;
    let one = stack.http.embeddings("hello world").await.ok();
    let body = one.json();
    assert_eq!(rows(&body), [vector("hello world")]);
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("m")));
    assert_eq!(body["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    assert_eq!(one.header("content-type"), "application/json");
    for (name, value) in [
        ("x-embed-model", "m"),
        ("x-embed-variant", "fp32"),
        ("x-embed-version", "v1.0.0"),
        ("x-embed-space", "sha256:one"),
    ] {
        assert_eq!(one.header(name), value, "{name}");
    }
    assert!(!one.header("x-request-id").is_empty());

    let texts = ["a", "", "grüße", "日本語のテキスト"];
    let ask = |format: &str| json!({"model": "M", "input": texts, "encoding_format": format, "user": "somebody"});
    let float = stack.http.post("/v1/embeddings", &ask("float")).await.ok().json();
    let packed = stack.http.post("/v1/embeddings", &ask("base64")).await.ok().json();
    assert!(packed["data"][0]["embedding"].is_string());
    assert_eq!(rows(&float), texts.map(vector));
    assert_eq!(rows(&float), rows(&packed), "to the last bit");
    assert_eq!(float["model"], "M", "as it was sent");

    let short = json!({"input": "x", "dimensions": 2});
    assert_eq!(rows(&stack.http.post("/v1/embeddings", &short).await.ok().json()), [vector("x")[..2].to_vec()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_are_pinned_by_a_header_and_ids_come_back() {
    let stack = Stack::start(&[]).await;
    let ask = json!({"model": "m", "input": "x"});
    let headers = [("x-model-version", "int8"), ("x-embed-space", "sha256:one"), ("x-request-id", "mine-1")];
    let answer = stack.http.post_with("/v1/embeddings", &ask, &headers).await.ok();
    assert_eq!((answer.header("x-embed-variant"), answer.header("x-request-id")), ("int8", "mine-1"));
    let answer = stack.http.post_with("/v1/embeddings", &ask, &[("x-model-version", "fp8")]).await;
    assert_eq!(answer.error(), (404, "model_not_found".to_owned(), json!("x-model-version")));
    assert!(answer.text.contains("fp32, int8"), "{}", answer.text);
    let answer = stack.http.post_with("/v1/embeddings", &ask, &[("x-embed-space", "sha256:other")]).await;
    assert_eq!(answer.error(), (409, "other_space".to_owned(), json!("x-embed-space")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_list_is_shared_between_workers_and_comes_back_in_order() {
    let stack = Stack::start(&[]).await;
    let client = crate::support::connect(&stack.server).await;
    let other = crate::support::Worker::start(&client, "m").await;
    let texts: Vec<String> = (0..2048).map(|n| "x".repeat(n)).collect();
    for format in ["float", "base64"] {
        let ask = json!({"model": "m", "input": texts, "encoding_format": format});
        let body = stack.http.post("/v1/embeddings", &ask).await.ok().json();
        assert_eq!(rows(&body), texts.iter().map(|text| vector(text).to_vec()).collect::<Vec<_>>());
        assert_eq!(body["usage"]["total_tokens"], 3 * 2048);
    }
    assert!(stack.worker.taken() > 0 && other.taken() > 0, "both took some");
    assert!(stack.worker.taken() + other.taken() >= 64, "in messages of 64");
    let many: Vec<_> = (0..2049).map(|_| "x").collect();
    let answer = stack.http.embeddings(many).await;
    assert_eq!(answer.error(), (400, "invalid_request".to_owned(), json!("input")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_what_the_document_says() {
    let stack = Stack::start(&[]).await;
    let document = stack.http.get("/openapi.json").await.ok().json();
    let ask = json!({"model": "m", "input": ["x", "y"]});
    let asked = [
        ("/v1/embeddings", "post", Some(ask)),
        ("/api/v1/embed", "post", Some(json!({"text": "x"}))),
        ("/embed", "post", Some(json!({"inputs": "x"}))),
        ("/v1/models", "get", None),
        ("/api/v1/models", "get", None),
        ("/api/v1/validate", "get", None),
        ("/info", "get", None),
    ];
    for (path, method, ask) in asked {
        let answer = match &ask {
            Some(ask) => stack.http.post(path, ask).await,
            None => stack.http.get(path).await,
        };
        let body = answer.ok().json();
        let schema = &document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{path}");
        fits(&document, schema, &body, path);
        if let Some(ask) = ask {
            let schema = &document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"];
            fits(&document, schema, &ask, path);
        }
    }
}

/// As much of JSON Schema as tells whether fields are there, and no others.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return fits(document, &document["components"]["schemas"][name], value, at);
    }
    match value {
        Value::Object(fields) if schema["properties"].is_object() => {
            for (name, value) in fields {
                let schema = &schema["properties"][name];
                assert!(!schema.is_null(), "{at}.{name} is not in the document");
                fits(document, schema, value, &format!("{at}.{name}"));
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter().for_each(|item| fits(document, &schema["items"], item, at));
        }
        _ => {}
    }
}
