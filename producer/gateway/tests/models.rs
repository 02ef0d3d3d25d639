//! Names: what clients call models, and which is meant.

use serde_json::{Value, json};

use crate::support::{Stack, Worker, connect, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_known_by_their_names_beginnings_and_aliases() {
    let stack = Stack::start(&["--alias", "text-embedding-3-small=all-minilm-l6-v2", "--default-model", "m"]).await;
    let client = connect(&stack.server).await;
    let mut workers = Vec::new();
    for model in ["all-minilm-l6-v2", "bge-small-en-v1-5", "bert-base-uncased", "uae-large-v1", "uae-large-v2"] {
        workers.push(Worker::start(&client, model).await);
    }
    let names = async || stack.http.get("/v1/models").await.ok().json()["data"].as_array().unwrap().len() == 6;
    until("all models are known", names).await;
    let of = async |name: Value| {
        let answer = stack.http.post("/api/v1/embed", &json!({"text": "x", "model": name})).await;
        (answer.status, answer.header("x-embed-model").to_owned())
    };
    for (name, model) in [
        ("all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("text-embedding-3-small", "all-minilm-l6-v2"),
        ("bge-small", "bge-small-en-v1-5"),
        ("bge-small-en-v1.5", "bge-small-en-v1-5"),
        ("bert-base", "bert-base-uncased"),
        ("UAE-Large-V1", "uae-large-v1"),
    ] {
        assert_eq!(of(name.into()).await, (200, model.to_owned()), "{name}");
    }
    assert_eq!(of(Value::Null).await, (200, "m".to_owned()));
    for name in ["uae-large", "", "-", "text-embedding-3-large", "b", "m.x", &"x".repeat(1000)] {
        let (status, model) = of(name.into()).await;
        assert!(status == 404 && model.is_empty(), "{name}: {status} {model}");
    }
    let one = stack.http.get("/v1/models/UAE-Large-V1").await.ok().json();
    assert_eq!(
        one,
        json!({"id": "uae-large-v1", "object": "model", "created": 1_767_323_045, "owned_by": "akidb-embed"})
    );
    let missing = stack.http.get("/v1/models/uae-large").await;
    assert_eq!(missing.error(), (404, "model_not_found".to_owned(), json!("model")));
    assert!(missing.text.contains("uae-large-v1, uae-large-v2"), "{}", missing.text);
    // A name that nobody knows yet is looked for.
    workers.push(Worker::start(&client, "new").await);
    until("the new model is known", async || of("new".into()).await.0 == 200).await;
}
