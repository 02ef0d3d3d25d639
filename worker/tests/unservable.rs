//! A version that cannot be served keeps no other from being served: it is told of by name, and tried again.

use std::path::Path;

use crate::support::{
    Stack, model, provision, provision_model,
    registry::{FIRST, TestRegistry, remark, replace},
    worker_command,
};
use async_nats::HeaderMap;
use embed_schemas::{
    EmbedRequest, EmbedResult, ErrorCode, Format, Lane, Slug, WireError, streams::StreamSettings, subjects,
    wire::decode_outcome,
};
use embed_testkit::{Daemon, NatsServer, PATIENCE};
use serde_json::{Value, json};

/// Nothing that a CPU could run.
fn packed(folder: &Path, metadata: &mut Value) {
    remark(folder, metadata, "packed");
    metadata["artefacts"][0]["form"] = json!("packed");
}

/// What is no graph.
fn garbage(folder: &Path, metadata: &mut Value) {
    replace(folder, metadata, "fp32.onnx", b"nothing of the kind");
}

fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

async fn ask(stack: &Stack, model: &str) -> Result<EmbedResult, WireError> {
    let request = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
    let answer = stack.call_raw(subjects::bare(Lane::Rpc, &slug(model)), HeaderMap::new(), request).await;
    decode_outcome(&answer.payload).unwrap().into_result()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_are_served_and_it_is_as_soon_as_it_can_be() {
    let registry = TestRegistry::new();
    registry.derive_model("model-b", "Model-B", FIRST, packed);
    registry.derive_model("model-c", "Model-C", FIRST, garbage);
    registry.derive_model("model-d", "Model-D", FIRST, |folder, _| {
        std::fs::write(folder.join("../current.json"), "{").unwrap();
    });
    registry.promote("model-b", FIRST);
    registry.promote("model-c", FIRST);
    let models = [model(), slug("model-b"), slug("model-c"), slug("model-d")];
    let stack = Stack::start_with_models(registry.path(), &models, &[]).await;
    let served: Vec<&Value> = stack.ready["variants"].as_array().unwrap().iter().map(|one| &one["model"]).collect();
    assert_eq!(served, [model().as_str()]);
    assert_eq!(ask(&stack, model().as_str()).await.unwrap().version, FIRST);

    let reasons = [
        ("model-b", "model-b v1.0.0 has no graph for cpu; it has fp32 (packed form)"),
        ("model-c", "it is no ONNX file"),
        ("model-d", "current.json"),
    ];
    let (status, body) = stack.get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    for (name, reason) in reasons {
        let line = body.lines().find(|line| line.starts_with(&format!("{name} fp32: version "))).expect(&body);
        assert!(line.contains("is not served") && line.contains(reason), "{line}");
        // Who calls it hears the same.
        let error = ask(&stack, name).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ModelUnavailable);
        assert!(error.message.contains(name) && error.message.contains(reason), "{error}");
    }

    // Another version of it is served without a restart.
    registry.derive_model("model-b", "Model-B", "v1.1.0", |folder, metadata| remark(folder, metadata, "b"));
    registry.promote("model-b", "v1.1.0");
    stack
        .statuses_when(|all| {
            let status = all.get(&(slug("model-b"), slug("fp32")));
            status.and_then(|status| status.live.as_ref()).is_some_and(|live| live.version == "v1.1.0")
        })
        .await;
    assert_eq!(ask(&stack, "model-b").await.unwrap().version, "v1.1.0");
    // And one that cannot be served does not take its place.
    registry.derive_model("model-b", "Model-B", "v1.2.0", garbage);
    registry.promote("model-b", "v1.2.0");
    stack
        .statuses_when(|all| {
            let failed = all[&(slug("model-b"), slug("fp32"))].failed.as_ref();
            failed.is_some_and(|failed| failed.version == "v1.2.0")
        })
        .await;
    assert_eq!(ask(&stack, "model-b").await.unwrap().version, "v1.1.0");
    let (_, body) = stack.get("/readyz").await;
    let told = "model-b fp32: version v1.2.0 is not served (version v1.1.0 is): ";
    assert!(body.contains(told), "{body}");
}

/// What the configuration names has to be served for the worker to be ready; the others are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_names_is_waited_for() {
    let registry = TestRegistry::new();
    registry.derive_model("model-b", "Model-B", FIRST, packed);
    registry.promote("model-b", FIRST);
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let settings = StreamSettings::default();
    provision(&client, &settings).await;
    provision_model(&client, &slug("model-b"), &settings).await;
    let named = ["--variant", "all-MiniLM-L6-v2", "--variant", "Model-B"];
    let mut worker = Daemon::spawn(worker_command(&nats, &named).env("EMBED_REGISTRY", registry.path()));
    worker.wait_for_log("not ready");
    assert!(worker.log().contains("has no graph for cpu"), "{}", worker.log());
    let request =
        async_nats::Request::new().payload(Format::Json.encode(&EmbedRequest::new(["hello"]))).timeout(Some(PATIENCE));
    let answer = client.send_request(subjects::bare(Lane::Rpc, &model()), request).await.unwrap();
    assert_eq!(decode_outcome(&answer.payload).unwrap().into_result().unwrap().version, FIRST);

    registry.derive_model("model-b", "Model-B", "v1.1.0", |folder, metadata| remark(folder, metadata, "b"));
    registry.promote("model-b", "v1.1.0");
    client.publish(embed_schemas::serving::REFRESH_SUBJECT, "".into()).await.unwrap();
    client.flush().await.unwrap();
    let ready = worker.json_line();
    assert_eq!(ready["variants"].as_array().unwrap().len(), 2, "{ready}");
}

/// `check` is for whoever wants to know: it says what would be served, and fails.
#[test]
fn check_tells_of_what_cannot_be_served() {
    let registry = TestRegistry::new();
    registry.derive_model("model-b", "Model-B", FIRST, packed);
    registry.promote("model-b", FIRST);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    let output = command.arg("check").env("EMBED_REGISTRY", registry.path()).output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said} {error}");
    assert!(said.contains("ok            all-minilm-l6-v2 fp32 (default): version v1.0.0"), "{said}");
    assert!(said.contains("failed        model-b fp32: "), "{said}");
    assert!(error.lines().last().unwrap().contains("model-b fp32: variant: model-b v1.0.0 has no graph"), "{error}");
}
