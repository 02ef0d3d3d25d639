//! What is wanted comes about, and nothing else: whatever happens while versions load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::support::{
    Stack,
    fake::{Devices, FakeWorker, server},
    http_get, model,
    registry::{FIRST, SECOND, remark},
    variant, worker_command,
};
use async_nats::{Client, jetstream};
use bytes::Bytes;
use bytesize::ByteSize;
use embed_engine::settings::Provider;
use embed_schemas::{
    EmbedRequest, ErrorCode, Format, Lane, Slug,
    serving::{MODELS_BUCKET, REFRESH_SUBJECT, VariantStatus, statuses},
    streams::StreamSettings,
    subjects,
    wire::decode_outcome,
};
use embed_testkit::{Daemon, PATIENCE, TestRegistry};
use embed_worker::config::VariantConfig;
use serde_json::{Value, json};

/// What any worker says of a variant.
async fn status(client: &Client, variant: &Slug) -> Option<VariantStatus> {
    let answer = client.request("$SRV.INFO.embed-worker", Bytes::new()).await.ok()?;
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    let metadata: std::collections::BTreeMap<String, String> =
        serde_json::from_value(info["metadata"].clone()).unwrap();
    statuses(&metadata).remove(&(model(), variant.clone()))
}

async fn status_when(client: &Client, variant: &Slug, what: &str, wanted: impl Fn(&VariantStatus) -> bool) {
    let wait = async {
        while !status(client, variant).await.is_some_and(|status| wanted(&status)) {
            client.publish(REFRESH_SUBJECT, Bytes::new()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "{what}: {:?}", status(client, variant).await);
}

fn is_live(version: &str) -> impl Fn(&VariantStatus) -> bool {
    move |status| status.live.as_ref().is_some_and(|live| live.version == version)
}

/// A registry with a second version that is live on no worker yet.
fn two_versions() -> TestRegistry {
    let registry = TestRegistry::new();
    registry.derive(SECOND, |folder, metadata| remark(folder, metadata, "the second"));
    registry
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_is_taken_back_while_it_loads_never_goes_live() {
    let (nats, client) = server().await;
    let registry = two_versions();
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, &[Provider::Cuda]);
    worker.ready().await;
    let (tell, told) = mpsc::channel();
    *devices.loading.lock().unwrap() = Some(told);
    registry.promote(model().as_str(), SECOND);
    let refresh = async || client.publish(REFRESH_SUBJECT, Bytes::new()).await.unwrap();
    while devices.loading.lock().unwrap().is_some() {
        refresh().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    registry.promote(model().as_str(), FIRST);
    refresh().await;
    // It hears of it while it loads; then the load ends well.
    let abandoned = async {
        while worker.metric("akidb_model_swaps_total", "abandoned").await < 1.0 {
            refresh().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, abandoned).await.expect("abandoned in time");
    tell.send(()).unwrap();
    for _ in 0..20 {
        refresh().await;
        let status = status(&client, &variant()).await.unwrap();
        // One that was live, however shortly, would be kept for a rollback.
        assert!(is_live(FIRST)(&status) && status.previous.is_none(), "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_waits_for_no_other_variants_load() {
    let (nats, client) = server().await;
    let registry = two_versions();
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, &[Provider::Cuda]);
    worker.ready().await;
    registry.promote(model().as_str(), SECOND);
    status_when(&client, &variant(), "the promotion", is_live(SECOND)).await;
    // Another variant loads, and does not come to an end.
    let (tell, told) = mpsc::channel();
    *devices.loading.lock().unwrap() = Some(told);
    let context = jetstream::new(client.clone());
    let config = jetstream::kv::Config { bucket: MODELS_BUCKET.to_owned(), ..Default::default() };
    let bucket = context.create_key_value(config).await.unwrap();
    bucket.put("all-minilm-l6-v2.other", r#"{"version":"v1.0.0"}"#.into()).await.unwrap();
    while devices.loading.lock().unwrap().is_some() {
        client.publish(REFRESH_SUBJECT, Bytes::new()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    registry.promote(model().as_str(), FIRST);
    status_when(&client, &variant(), "the rollback", is_live(FIRST)).await;
    tell.send(()).unwrap();
    status_when(&client, &"other".parse().unwrap(), "the other", is_live(FIRST)).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_does_not_go_down_to_a_lesser_provider_unless_the_better_one_is_gone() {
    let (nats, client) = server().await;
    let registry = two_versions();
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, &[Provider::Cuda, Provider::Cpu]);
    worker.ready().await;
    let provider = |name: &'static str, version: &'static str| {
        move |status: &VariantStatus| {
            status.live.as_ref().is_some_and(|live| live.provider == name && live.version == version)
        }
    };
    status_when(&client, &variant(), "the start", provider("cuda", FIRST)).await;
    // The device can be used, but not for this version: it would run on the processor alone.
    *devices.fails_on.lock().unwrap() = Some(Provider::Cuda);
    registry.promote(model().as_str(), SECOND);
    status_when(&client, &variant(), "the refusal", |status| {
        let refused = |failed: &embed_schemas::serving::FailedVersion| failed.reason.contains("would run on cpu only");
        provider("cuda", FIRST)(status) && status.failed.as_ref().is_some_and(refused)
    })
    .await;
    // It is gone: better on the processor than not at all.
    devices.cuda.store(false, Ordering::SeqCst);
    status_when(&client, &variant(), "the fallback", provider("cpu", SECOND)).await;
    // And up again when it can be used.
    devices.cuda.store(true, Ordering::SeqCst);
    *devices.fails_on.lock().unwrap() = None;
    status_when(&client, &variant(), "the way back up", provider("cuda", SECOND)).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_workers_own_operators_a_version_runs_where_it_ran() {
    let registry = two_versions();
    // The same graph under other names: what it is made of is not looked at.
    for version in [FIRST, SECOND] {
        registry.edit(version, |metadata| {
            let mut artefacts = metadata["artefacts"].as_array().unwrap().clone();
            for form in ["packed", "kernels"] {
                let file = format!("fp32-{form}.onnx");
                let folder = registry.version(version);
                std::fs::copy(folder.join("fp32.onnx"), folder.join(&file)).unwrap();
                let mut artefact = artefacts[0].clone();
                (artefact["form"], artefact["file"]) = (json!(form), json!(file));
                artefacts.push(artefact);
            }
            metadata["artefacts"] = json!(artefacts);
        });
    }
    let (nats, client) = server().await;
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, &[Provider::Cuda, Provider::Cpu]);
    worker.ready().await;
    let kernels = || Some("fp32-kernels.onnx".to_owned());
    assert_eq!(*devices.packed.lock().unwrap(), [kernels()]);
    devices.no_kernels.store(true, Ordering::SeqCst);
    registry.promote(model().as_str(), SECOND);
    status_when(&client, &variant(), "the second version", is_live(SECOND)).await;
    assert_eq!(devices.packed.lock().unwrap()[1..], [kernels(), Some("fp32-packed.onnx".to_owned())]);
    let live = status(&client, &variant()).await.unwrap().live.unwrap();
    assert_eq!(live.provider, "cuda", "no provider is left for want of them");
    let (_, body) = http_get(&worker.address, "/readyz").await;
    assert!(body.contains("fp32 runs on cuda, without the worker's own operators: ONNX Runtime: libnvrtc"), "{body}");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_evicts_nobody_and_whoever_waits_is_answered() {
    let registry = TestRegistry::new();
    // As large as the first, and of other golden vectors than its graph has.
    registry.derive_model("other", "other", FIRST, |folder, metadata| {
        remark(folder, metadata, "the other");
        let golden = std::fs::read(folder.join("golden.json")).unwrap();
        let mut golden: Value = serde_json::from_slice(&golden).unwrap();
        golden["items"][0]["text"] = json!("another text");
        crate::support::registry::replace(folder, metadata, "golden.json", golden.to_string().as_bytes());
    });
    registry.promote("other", FIRST);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    // Room for one of them.
    let config = "[models]\nmemory_budget = \"100 MB\"\nstay_loaded = \"0s\"\n[[variant]]\nmodel = \"all-minilm-l6-v2\"\n[[variant]]\nmodel = \"other\"\nname = \"fp32\"\n";
    std::fs::write(&file, config).unwrap();
    let other: Slug = "other".parse().unwrap();
    let stack =
        Stack::start_with_models(registry.path(), &[model(), other.clone()], &["--config", file.to_str().unwrap()])
            .await;
    let payload = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
    let answer = stack.call_raw(subjects::bare(Lane::Rpc, &other), Default::default(), payload.clone()).await;
    let error = decode_outcome(&answer.payload).unwrap().into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelUnavailable, "{error}");
    assert!(error.retryable && error.retry_after_ms.is_some(), "{error}");
    assert!(is_live(FIRST)(&stack.status().await), "the one that works stays");
    // Those that come later are for others, until it is tried again.
    let takes_no_more =
        async { while stack.client.request(subjects::bare(Lane::Rpc, &other), payload.clone()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, takes_no_more).await.expect("a subscription that ends");
    // A job for it stays in the stream, and the worker says that it is not ready.
    stack.client.publish(subjects::bare(Lane::Job, &other), payload).await.unwrap();
    while stack.get("/readyz").await.0 == 200 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stack.messages_in("EMBED_other").await, 1);
    assert_eq!(stack.messages_in(&embed_schemas::streams::dead_stream(&model())).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_key_of_the_bucket_is_skipped_and_the_others_hold() {
    let stack = Stack::start().await;
    stack.desire("other", Some(&json!({"version": "current"}))).await;
    let other: Slug = "other".parse().unwrap();
    stack.statuses_when(|all| all.contains_key(&(model(), other.clone()))).await;
    let context = jetstream::new(stack.client.clone());
    let bucket = context.get_key_value(MODELS_BUCKET).await.unwrap();
    bucket.put("all-MiniLM-L6-v2.x", "{}".into()).await.unwrap();
    let Stack { worker, client, nats, .. } = stack;
    worker.kill();
    let mut worker = Daemon::spawn(&mut worker_command(&nats, &[]));
    let ready = worker.json_line();
    worker.wait_for_log("all-MiniLM-L6-v2.x");
    let stack = Stack { ready, worker, client, nats };
    stack.statuses_when(|all| all.contains_key(&(model(), other.clone()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_made_anew_is_what_counts() {
    let stack = Stack::start().await;
    let (before, after): (Slug, Slug) = ("before".parse().unwrap(), "after".parse().unwrap());
    // More than one entry, so that the new bucket's sequences are all below where the watch of the old one had come to.
    for _ in 0..3 {
        stack.desire("before", Some(&json!({"version": "current"}))).await;
    }
    stack.statuses_when(|all| all.contains_key(&(model(), before.clone()))).await;
    let context = jetstream::new(stack.client.clone());
    context.delete_key_value(MODELS_BUCKET).await.unwrap();
    // Without one, what was known holds.
    for _ in 0..20 {
        stack.refresh().await;
        assert!(stack.statuses().await.contains_key(&(model(), before.clone())));
    }
    stack.desire("after", Some(&json!({"version": "current"}))).await;
    stack.statuses_when(|all| all.contains_key(&(model(), after.clone())) && all.len() == 2).await;
    // An empty one says that nothing is wanted but what the configuration says.
    context.delete_key_value(MODELS_BUCKET).await.unwrap();
    let config = jetstream::kv::Config { bucket: MODELS_BUCKET.to_owned(), ..Default::default() };
    context.create_key_value(config).await.unwrap();
    stack.statuses_when(|all| all.keys().eq([&(model(), variant())])).await;
}

/// Both are wanted all the time, and there is room for one: they take turns, and none is loaded only to be thrown out.
#[tokio::test(flavor = "multi_thread")]
async fn two_busy_variants_with_room_for_one_each_stay_for_a_while() {
    let (nats, client) = server().await;
    let registry = TestRegistry::new();
    // Metrics are those of the process: these are of no other test's model.
    let models: [Slug; 2] = ["busy-a", "busy-b"].map(|slug| slug.parse().unwrap());
    for model in &models {
        let slug = model.as_str();
        registry.derive_model(slug, slug, FIRST, |folder, metadata| remark(folder, metadata, slug));
        registry.promote(slug, FIRST);
        crate::support::provision_model(&client, model, &StreamSettings::default()).await;
    }
    let stay = Duration::from_secs(2);
    let devices = Arc::new(Devices { registry: Some(registry.path().to_owned()), ..Devices::default() });
    let mut worker = FakeWorker::start_with(&nats, &devices, &[Provider::Cpu], |config| {
        config.models.memory_budget = Some(ByteSize::mb(100));
        config.models.stay_loaded = stay;
        let of = |model: &Slug| VariantConfig { name: Some("fp32".to_owned()), ..VariantConfig::of(model.to_string()) };
        config.variant = models.iter().map(of).collect();
    });
    worker.ready().await;
    let (begun, calls) = (Instant::now(), AtomicUsize::new(0));
    let busy = async |model: &Slug| {
        let payload: Bytes = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
        while begun.elapsed() < stay * 4 {
            let request = async_nats::Request::new().payload(payload.clone()).timeout(Some(PATIENCE));
            let answer = client.send_request(subjects::bare(Lane::Rpc, model), request).await.unwrap();
            let result = decode_outcome(&answer.payload).unwrap().into_result().unwrap();
            assert_eq!(&result.model, model);
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::join!(busy(&models[0]), busy(&models[1]));
    let took = begun.elapsed();
    // One load at the start, and then at most one for each minimal time.
    let loads = worker.metric("akidb_model_swaps_total", "busy-").await;
    let most = 2.0 + took.as_secs_f64() / stay.as_secs_f64();
    assert!((3.0..=most).contains(&loads), "{loads} loads in {took:?}, with {calls:?} calls");
    worker.stop().await.unwrap();
}

#[test]
fn a_worker_id_that_is_too_long_is_refused_at_the_start() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_embed-worker"));
    command.args(["run", "--worker-id", &"x".repeat(125)]).env("EMBED_REGISTRY", embed_testkit::registry());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("worker.id") && said.contains("at most 64"), "{said}");
}
