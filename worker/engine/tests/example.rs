//! The example embeds with the real model, and its vectors are those of sentence-transformers.

use std::{fs, path::Path, process::Command};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use embed_engine::engine::cosine;
use embed_schemas::Storage;
use serde_json::Value;

/// Texts without line breaks, and their vectors.
fn references() -> Vec<(String, Vec<f32>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/minilm-l6-reference.json");
    let all: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let reference = |item: &Value| {
        let bytes = BASE64_STANDARD.decode(item["embedding_b64"].as_str().unwrap()).unwrap();
        (item["text"].as_str().unwrap().to_owned(), Storage::F32.decode_row(&bytes, 384))
    };
    let all = all["items"].as_array().unwrap().iter().map(reference);
    all.filter(|(text, _)| !text.is_empty() && !text.contains(['\n', '\r'])).collect()
}

#[test]
fn the_example_embeds_the_lines_of_a_file() {
    let references = references();
    assert!(references.len() >= 3, "{}", references.len());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.txt");
    fs::write(&file, references.iter().map(|(text, _)| format!("{text}\n")).collect::<String>()).unwrap();
    let mut command = Command::new(embed_testkit::sibling_binary("examples/embed_file"));
    let output = command.arg(&file).arg("--registry").arg(embed_testkit::registry()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert_eq!(rows.len(), references.len());
    for (row, (text, expected)) in rows.iter().zip(&references) {
        assert_eq!(row["text"], **text);
        let vector: Vec<f32> = serde_json::from_value(row["embedding"].clone()).unwrap();
        let cosine = cosine(&vector, expected);
        assert!(vector.len() == 384 && cosine >= 0.9999, "{text:?}: {cosine}");
    }
}
