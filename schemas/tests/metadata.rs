//! `metadata.json` as older importers wrote it, and as it is written now.

use embed_schemas::{Artefact, ModelMetadata};
use serde_json::{Value, json};

fn metadata(artefact: &Value) -> Artefact {
    let file = |name: &str| json!({"file": name, "bytes": 1, "sha256": "0".repeat(64)});
    let mut whole = file("int8.onnx");
    whole["precision"] = "int8".into();
    whole.as_object_mut().unwrap().extend(artefact.as_object().unwrap().clone());
    let json = json!({
        "model_name": "all-MiniLM-L6-v2", "slug": "all-minilm-l6-v2", "model_id": "sentence-transformers/all-MiniLM-L6-v2",
        "version": "v2.0.0", "dimension": 384, "max_seq_length": 256, "pooling": "mean", "normalized": true, "space": "sha256:00",
        "tokenizer": file("tokenizer.json"), "golden": file("golden.json"), "created_at": "2025-11-12T00:00:00Z", "artefacts": [whole],
    });
    let read: ModelMetadata = serde_json::from_value(json.clone()).unwrap();
    // What is not known to this version is kept.
    let again: ModelMetadata = serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
    assert_eq!(again, read);
    read.artefacts[0].clone()
}

#[test]
fn measured_or_null_or_not_there() {
    let of_old = metadata(&json!({}));
    assert!(of_old.quantization.is_none() && !of_old.is_batch_dependent());
    assert!(!metadata(&json!({"quantization": null, "performance": null, "validation": null})).is_batch_dependent());
    let measured = metadata(&json!({
        "quantization": {"method": "post-training-quantization", "calibration_dataset": "ms-marco-10k", "accuracy_loss": "0.8%"},
        "performance": {"latency_p95_ms": 8, "throughput_qps": 280, "gpu_memory_mb": 120, "batch_size": 32},
        "validation": {"cosine_similarity_vs_fp32": 0.992, "recall_at_k": 0.989, "test_dataset": "beir-nfcorpus"},
    }));
    assert_eq!(measured.quantization.unwrap()["accuracy_loss"], "0.8%");
    assert_eq!(measured.performance.unwrap()["gpu_memory_mb"], 120);
    assert_eq!(measured.validation.unwrap()["recall_at_k"], 0.989);
    let unmeasured =
        metadata(&json!({"performance": {"gpu_memory_mb": null}, "quantization": {"accuracy_loss": null}}));
    assert_eq!(unmeasured.performance.unwrap()["gpu_memory_mb"], Value::Null);
    assert!(metadata(&json!({"quantization": {"batch_dependent": true}})).is_batch_dependent());
}

#[test]
fn texts_come_with_a_prompt_of_theirs_with_the_default_or_with_none() {
    let file = |name: &str| json!({"file": name, "bytes": 1, "sha256": "0".repeat(64)});
    let mut model: ModelMetadata = serde_json::from_value(json!({
        "model_name": "m", "slug": "m", "model_id": "m", "version": "v1", "dimension": 4, "max_seq_length": 8, "pooling": "mean",
        "normalized": true, "space": "sha256:00", "tokenizer": file("tokenizer.json"), "golden": file("golden.json"),
        "created_at": "2025-11-12T00:00:00Z", "artefacts": [], "prompts": {"query": "q: ", "passage": "p: "},
    }))
    .unwrap();
    assert_eq!((model.prompt_text(None), model.prompt_text(Some("passage"))), (None, Some("p: ")));
    model.default_prompt = Some("query".to_owned());
    assert_eq!((model.prompt_text(None), model.prompt_text(Some("passage"))), (Some("q: "), Some("p: ")));
    assert_eq!(model.prompt_text(Some("")), None);
    assert!(model.has_prompt("") && model.has_prompt("query") && !model.has_prompt("other"));
}
