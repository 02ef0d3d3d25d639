//! A version that cannot be served keeps no other from being served: it is told of by name, and tried again.

use std::path::Path;

use crate::support::{
    Stack, Statuses, model, provision, provision_model,
    registry::{FIRST, TestRegistry, remark, replace},
    worker_command,
};
use embed_schemas::{
    EmbedRequest, EmbedResult, Format, Lane, Slug, streams::StreamSettings, subjects, wire::decode_outcome,
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

/// `None` if nobody takes the call.
async fn ask(stack: &Stack, subject: String) -> Option<EmbedResult> {
    let payload = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
    let request = async_nats::Request::new().payload(payload).timeout(Some(PATIENCE));
    match stack.client.send_request(subject, request).await {
        Ok(answer) => Some(decode_outcome(&answer.payload).unwrap().into_result().unwrap()),
        Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => None,
        Err(error) => panic!("{error}"),
    }
}

fn bare(model: &str) -> String {
    subjects::bare(Lane::Rpc, &slug(model))
}

/// Whether the worker says that it takes the variant's work.
async fn served(stack: &Stack, model: &str) -> bool {
    let (_, metrics) = stack.get("/metrics").await;
    let series = format!("akidb_variant_served{{model=\"{model}\"");
    metrics.lines().find(|line| line.starts_with(&series)).expect(&metrics).ends_with(" 1")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_are_served_and_it_is_as_soon_as_it_can_be() {
    let registry = TestRegistry::new();
    registry.derive_model("model-b", "Model-B", FIRST, packed);
    registry.derive_model("model-c", "Model-C", FIRST, garbage);
    // Its variant is called after what the version has all the same.
    registry.derive_model("model-d", "Model-D", FIRST, |folder, metadata| {
        metadata["artefacts"][0]["precision"] = json!("int8");
        std::fs::write(folder.join("../current.json"), "{").unwrap();
    });
    registry.promote("model-b", FIRST);
    registry.promote("model-c", FIRST);
    let models = [model(), slug("model-b"), slug("model-c"), slug("model-d")];
    let stack = Stack::start_with_models(registry.path(), &models, &[]).await;
    let ready: Vec<&Value> = stack.ready["variants"].as_array().unwrap().iter().map(|one| &one["model"]).collect();
    assert_eq!(ready, [model().as_str()]);
    assert_eq!(ask(&stack, bare(model().as_str())).await.unwrap().version, FIRST);
    assert!(served(&stack, model().as_str()).await);

    let reasons = [
        ("model-b", "fp32", "model-b v1.0.0 has no graph for cpu; it has fp32 (packed form)"),
        ("model-c", "fp32", "it is no ONNX file"),
        ("model-d", "int8", "current.json"),
    ];
    let (status, body) = stack.get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    for (name, variant, reason) in reasons {
        let line = body.lines().find(|line| line.starts_with(&format!("{name} {variant}: version "))).expect(&body);
        assert!(line.contains("is not served") && line.contains(reason), "{line}");
        // Whoever asks the worker hears the same; calls are not its business.
        let status = &stack.statuses().await[&(slug(name), slug(variant))];
        assert!(status.failed.as_ref().unwrap().reason.contains(reason), "{status:?}");
        assert!(!served(&stack, name).await);
        assert!(ask(&stack, bare(name)).await.is_none(), "{name}");
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
    assert_eq!(ask(&stack, bare("model-b")).await.unwrap().version, "v1.1.0");
    assert!(served(&stack, "model-b").await);
    // And one that cannot be served does not take its place.
    registry.derive_model("model-b", "Model-B", "v1.2.0", garbage);
    registry.promote("model-b", "v1.2.0");
    stack
        .statuses_when(|all| {
            let failed = all[&(slug("model-b"), slug("fp32"))].failed.as_ref();
            failed.is_some_and(|failed| failed.version == "v1.2.0")
        })
        .await;
    assert_eq!(ask(&stack, bare("model-b")).await.unwrap().version, "v1.1.0");
    let (_, body) = stack.get("/readyz").await;
    let told = "model-b fp32: version v1.2.0 is not served (version v1.1.0 is): ";
    assert!(body.contains(told), "{body}");
}

/// Calls go to any of the workers that subscribe: one that cannot answer must not be among them.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_worker_cannot_serve_is_another_ones() {
    let (bad, good) = (TestRegistry::new(), TestRegistry::new());
    bad.derive_model("model-b", "Model-B", FIRST, garbage);
    good.derive_model("model-b", "Model-B", FIRST, |_, _| ());
    for registry in [&bad, &good] {
        registry.promote("model-b", FIRST);
    }
    let stack = Stack::start_with_models(bad.path(), &[model(), slug("model-b")], &[]).await;
    let other = Daemon::spawn(worker_command(&stack.nats, &[]).env("EMBED_REGISTRY", good.path()));
    other.json_line();
    let pinned = subjects::pinned(Lane::Rpc, &slug("model-b"), &slug("fp32"));
    for subject in [bare("model-b"), pinned].iter().cycle().take(24) {
        ask(&stack, subject.clone()).await.expect("somebody takes it");
    }
}

/// What a variant is called follows from its precision: while that is not known, it is not called something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_variant_has_no_name_before_its_precision_is_known() {
    let registry = TestRegistry::new();
    registry.derive_model("model-b", "Model-B", FIRST, |_, metadata| {
        metadata["artefacts"][0]["precision"] = json!("int8");
    });
    registry.promote("model-b", FIRST);
    let metadata = registry.model("model-b").join(FIRST).join("metadata.json");
    let (whole, half) = (std::fs::read(&metadata).unwrap(), b"{\"artefacts\": [");
    std::fs::write(&metadata, half).unwrap();
    let stack = Stack::start_with_models(registry.path(), &[model(), slug("model-b")], &[]).await;
    let (status, body) = stack.get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("model-b: its variant has no name before its precision is known"), "{body}");
    assert!(stack.statuses().await.keys().all(|(of, _)| *of == model()));

    std::fs::write(&metadata, whole).unwrap();
    let int8 = (slug("model-b"), slug("int8"));
    let is_live = |all: &Statuses| all.get(&int8).is_some_and(|status| status.live.is_some() && status.default);
    let all = stack.statuses_when(is_live).await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(ask(&stack, bare("model-b")).await.unwrap().variant.as_str(), "int8");
    assert!(!stack.get("/readyz").await.1.contains("has no name"));
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
