//! ONNX files as others export them: imported, published, and served beside another model.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::support::{Stack, difference, model};
use embed_schemas::{EmbedRequest, EmbedResult, Format, Lane, Slug, subjects, wire::decode_outcome};
use embed_testkit::{TestRegistry, repository};
use serde::Deserialize;

/// A text with its vector, as numpy has it.
#[derive(Deserialize)]
struct Item {
    text: String,
    vector: Vec<f32>,
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Makes a file of a kind, imports it, and publishes it to a registry. Gives back texts with the vectors that are to come out.
fn publish(registry: &TestRegistry, kind: &str, more: &[&str]) -> Vec<Item> {
    let folder = tempfile::tempdir().unwrap();
    let (models, python) = (repository().join("deploy/models"), repository().join(".venv/bin/python"));
    let source = folder.path().join("source");
    let mut export = Command::new(&python);
    export.arg(models.join("tests/exported_onnx.py")).arg(kind).arg(&source).env("PYTHONPATH", &models);
    let items = serde_json::from_slice(&succeeds(&mut export).stdout).unwrap();
    let mut import = Command::new(&python);
    import.args(["-m", "embed_models", "import"]).arg(source.join("model.onnx")).env("PYTHONPATH", &models);
    import.arg("--registry").arg(folder.path()).args(["--name", kind]).args(more);
    succeeds(&mut import);
    for arguments in [&["publish"][..], &["promote", kind, "v1.0.0"]] {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_embed-worker"));
        worker.arg("models").args(arguments).env("EMBED_REGISTRY", registry.path());
        if arguments[0] == "publish" {
            worker.arg(folder.path().join("models").join(kind).join("v1.0.0"));
        }
        succeeds(&mut worker);
    }
    items
}

async fn embed(stack: &Stack, model: &Slug, texts: Vec<String>) -> EmbedResult {
    let request = Format::MessagePack.encode(&EmbedRequest::new(texts));
    let answer = stack.call_raw(subjects::bare(Lane::Rpc, model), async_nats::HeaderMap::new(), request).await;
    decode_outcome(&answer.payload).unwrap().into_result().unwrap()
}

/// What is in the metadata of the version, so that it is known that the graph is what the test is about.
fn form(registry: &Path, kind: &str) -> String {
    let metadata = std::fs::read(registry.join("models").join(kind).join("v1.0.0/metadata.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    metadata["artefacts"][0]["form"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_others_are_served_beside_another_model() {
    let registry = TestRegistry::new();
    let kinds = [
        // Graphs of standard operators alone, as they were exported; one that ONNX Runtime's optimizer has been over.
        ("int32", &["--no-optimize"][..], "plain", 1e-5),
        ("float16", &["--no-optimize"][..], "plain", 2e-3),
        ("tokens", &["--pooling", "mean"][..], "contrib", 1e-5),
    ];
    let published: Vec<_> = kinds.iter().map(|(kind, more, ..)| publish(&registry, kind, more)).collect();
    let models: Vec<Slug> = kinds.iter().map(|(kind, ..)| kind.parse().unwrap()).chain([model()]).collect();
    let stack = Stack::start_with_models(registry.path(), &models, &[]).await;
    for ((kind, _, wanted, tolerance), items) in kinds.iter().zip(&published) {
        assert_eq!(form(registry.path(), kind), *wanted);
        // Texts of several lengths, together and each by itself.
        let all: Vec<String> = items.iter().map(|item| item.text.clone()).collect();
        let together = embed(&stack, &kind.parse().unwrap(), all.clone()).await;
        for (row, item) in items.iter().enumerate() {
            let alone = embed(&stack, &kind.parse().unwrap(), vec![all[row].clone()]).await;
            for vector in [together.vector(row).unwrap(), alone.vector(0).unwrap()] {
                let off = difference(&vector, &item.vector);
                assert!(off <= *tolerance, "{kind} {:?}: {off}", item.text);
            }
        }
    }
    assert_eq!(embed(&stack, &model(), vec!["hello".to_owned()]).await.dim, 384);
    assert_eq!(stack.get("/readyz").await, (200, "ready\n".to_owned()));
}
