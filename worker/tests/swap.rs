//! Another version takes the place of the one that is live: under load, and when it must not.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crate::support::{
    Stack, Statuses, difference, model,
    registry::{FIRST, SECOND, TestRegistry, replace},
};
use async_nats::HeaderMap;
use embed_schemas::{EmbedRequest, EmbedResult, Format, JobId, Lane, serving::FailedVersion, streams, subjects};
use serde_json::json;

/// Vectors of each version for each golden text.
struct Golden {
    texts: Vec<String>,
    vectors: HashMap<&'static str, Vec<Vec<f32>>>,
}

impl Golden {
    fn of(registry: &TestRegistry) -> Self {
        let (texts, first): (Vec<_>, Vec<_>) = registry.golden(FIRST).into_iter().unzip();
        let (_, second): (Vec<_>, Vec<_>) = registry.golden(SECOND).into_iter().unzip();
        assert!(difference(&first[0], &second[0]) > 0.01, "the versions can be told apart");
        Self { texts, vectors: HashMap::from([(FIRST, first), (SECOND, second)]) }
    }

    fn request(&self, n: usize) -> (usize, EmbedRequest) {
        let index = n % self.texts.len();
        (index, EmbedRequest::new([self.texts[index].as_str()]))
    }

    /// The vector is that of the version that the result names.
    fn check(&self, index: usize, result: &EmbedResult) {
        let expected = &self.vectors[result.version.as_str()][index];
        let off = difference(&result.vector(0).unwrap(), expected);
        assert!(off < 1e-5, "text {index} of {} is off by {off}", result.version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_swaps_and_a_rollback_under_load_lose_nothing() {
    let registry = TestRegistry::new();
    registry.import_second();
    let golden = Arc::new(Golden::of(&registry));
    let stack = Arc::new(Stack::start_on(registry.path(), &[]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<[AtomicUsize; 2]> = Arc::default();

    let callers: Vec<_> = (0..3)
        .map(|caller| {
            let (stack, golden, stop, answered) = (stack.clone(), golden.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move {
                let mut n = caller;
                while !stop.load(Ordering::Relaxed) {
                    let (index, request) = golden.request(n);
                    let result = stack.call(&request, Format::MessagePack).await.expect("no call fails");
                    golden.check(index, &result);
                    answered[usize::from(result.version == SECOND)].fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
            })
        })
        .collect();
    // Jobs and backfill chunks, as fast as they are stored, but never so many that they outlast the test.
    let publishers: Vec<_> = Lane::STORED
        .into_iter()
        .map(|lane| {
            let (stack, golden, stop) = (stack.clone(), golden.clone(), stop.clone());
            tokio::spawn(async move {
                let mut ids: Vec<(JobId, usize)> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if stack.messages_in(&streams::jobs_stream(&model())).await > 100 {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        continue;
                    }
                    let (index, mut request) = golden.request(ids.len());
                    let id: JobId = format!("{lane}-{}", ids.len()).parse().unwrap();
                    request.id = Some(id.clone());
                    stack.publish_raw(lane, HeaderMap::new(), Format::MessagePack.encode(&request)).await;
                    ids.push((id, index));
                }
                ids
            })
        })
        .collect();

    for swap in 0..20 {
        let version = if swap % 2 == 0 { SECOND } else { FIRST };
        // Calls are being answered by the version before: what happens now happens under load.
        let before = answered[usize::from(version == FIRST)].load(Ordering::Relaxed);
        stack.wait_until(|| answered[usize::from(version == FIRST)].load(Ordering::Relaxed) > before).await;
        stack.promote_to(&registry, version).await;
    }
    // The one before is still loaded: going back loads nothing.
    stack.promote_to(&registry, SECOND).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let mut jobs = 0;
    for publisher in publishers {
        for (id, index) in publisher.await.unwrap() {
            golden.check(index, &stack.stored(&id).await.into_result().expect("no job fails"));
            jobs += 1;
        }
    }
    assert!(jobs > 0);
    stack.wait_for_messages(&streams::jobs_stream(&model()), 0).await;
    assert_eq!(stack.messages_in(&streams::results_stream(&model())).await, jobs, "every result once");
    assert_eq!(stack.messages_in(&streams::dead_stream(&model())).await, 0);
    let metrics = stack.get("/metrics").await.1;
    assert!(metrics.contains(r#"akidb_model_info{model="all-minilm-l6-v2",model_version="fp32",version="v1.1.0",precision="fp32",provider="cpu"} 1"#), "{metrics}");
    let log = stack.worker.log();
    assert!(log.contains("back to the version before"), "{log}");
}

/// A version that must not go live: the old one goes on, and says why.
async fn stays(stack: &Stack, registry: &TestRegistry, version: &str, reason: &[&str]) {
    registry.promote(model().as_str(), version);
    let about = |failed: &FailedVersion| failed.version == version || failed.reason.contains(version);
    let status = stack.status_when(|status| status.failed.as_ref().is_some_and(about)).await;
    let failed = status.failed.unwrap();
    for word in reason {
        assert!(failed.reason.contains(word), "{:?} lacks {word:?}", failed.reason);
    }
    assert_eq!(status.live.unwrap().version, FIRST);
    let result = stack.call(&EmbedRequest::new(["still there"]), Format::Json).await.unwrap();
    assert_eq!(result.version, FIRST);
    assert!(stack.get("/metrics").await.1.contains(r#"outcome="failed""#));
    assert!(stack.worker.log().contains("a version does not go live"));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_must_not_go_live() {
    let registry = TestRegistry::new();
    let stack = Stack::start_on(registry.path(), &[]).await;

    registry.derive("v2-checksum", |folder, metadata| {
        let mut graph = fs::read(folder.join("fp32.onnx")).unwrap();
        let middle = graph.len() / 2;
        graph[middle] ^= 1;
        let sha256 = metadata["artefacts"][0]["sha256"].clone();
        replace(folder, metadata, "fp32.onnx", &graph);
        metadata["artefacts"][0]["sha256"] = sha256;
    });
    stays(&stack, &registry, "v2-checksum", &["fp32.onnx", "SHA-256", "publish the version again"]).await;

    registry.derive("v2-truncated", |folder, _| {
        let graph = fs::read(folder.join("fp32.onnx")).unwrap();
        fs::remove_file(folder.join("fp32.onnx")).unwrap();
        fs::write(folder.join("fp32.onnx"), &graph[..graph.len() / 2]).unwrap();
    });
    stays(&stack, &registry, "v2-truncated", &["fp32.onnx", "bytes, the metadata says"]).await;

    registry.derive("v2-golden", |folder, metadata| {
        let mut golden: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("golden.json")).unwrap()).unwrap();
        golden["items"][0]["vector_f32_base64"] = golden["items"][1]["vector_f32_base64"].clone();
        replace(folder, metadata, "golden.json", golden.to_string().as_bytes());
    });
    stays(&stack, &registry, "v2-golden", &["golden text 0", "off by"]).await;

    registry.derive("v2-operator", |folder, metadata| {
        let graph = fs::read(folder.join("fp32.onnx")).unwrap();
        let at = graph.windows(7).position(|window| window == b"LayerNo").expect("an operator");
        let mut graph = graph;
        graph[at..at + 7].copy_from_slice(b"Unknown");
        replace(folder, metadata, "fp32.onnx", &graph);
    });
    stays(&stack, &registry, "v2-operator", &["ONNX Runtime", "Unknown"]).await;

    registry.derive("v2-missing", |folder, _| fs::remove_file(folder.join("fp32.onnx")).unwrap());
    stays(&stack, &registry, "v2-missing", &["v2-missing/fp32.onnx"]).await;

    stays(&stack, &registry, "v2-nowhere", &["has no version v2-nowhere"]).await;

    // And back: the failure is forgotten.
    registry.promote(model().as_str(), FIRST);
    stack.status_when(|status| status.failed.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_with_a_bad_version_serves_the_one_before() {
    let registry = TestRegistry::new();
    registry.derive("v2", |folder, _| fs::remove_file(folder.join("tokenizer.json")).unwrap());
    registry.promote(model().as_str(), "v2");
    let stack = Stack::start_on(registry.path(), &[]).await;
    let status = stack.status().await;
    assert_eq!(status.live.unwrap().version, FIRST);
    assert!(status.failed.unwrap().reason.contains("tokenizer.json"));
    let result = stack.call(&EmbedRequest::new(["a"]), Format::Json).await.unwrap();
    assert_eq!(result.version, FIRST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_changes_nothing_and_a_kill_during_a_swap_loses_nothing() {
    let registry = TestRegistry::new();
    registry.derive("v2", |_, _| ());
    let mut stack = Stack::start_on(registry.path(), &[]).await;
    let (there, away) = (registry.path().join("models"), registry.path().join("models-away"));
    fs::rename(&there, &away).unwrap();
    let status = stack.status_when(|status| status.failed.is_some()).await;
    assert_eq!(status.live.unwrap().version, FIRST);
    assert!(stack.call(&EmbedRequest::new(["a"]), Format::Json).await.is_ok());
    fs::rename(away, there).unwrap();

    // A job, then a swap, and a kill in the middle of it.
    registry.promote(model().as_str(), "v2");
    let request = EmbedRequest { id: Some("survivor".parse().unwrap()), ..EmbedRequest::new(["a"]) };
    stack.publish_raw(Lane::Job, HeaderMap::new(), Format::Json.encode(&request)).await;
    stack.refresh().await;
    stack.worker.signal(libc::SIGKILL);
    stack.worker.wait();
    let stack = stack.with_another_worker(registry.path(), &[]);
    let outcome = stack.stored(&"survivor".parse().unwrap()).await;
    assert!([FIRST, "v2"].contains(&outcome.into_result().unwrap().version.as_str()));
    assert_eq!(stack.status().await.live.unwrap().version, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variant_that_cannot_be_loaded_is_told_of_and_takes_no_calls() {
    let registry = TestRegistry::new();
    let stack = Stack::start_on(registry.path(), &[]).await;
    let missing = json!({"version": "v9"});
    stack.desire("fp32-next", Some(&missing)).await;
    let next = (model(), "fp32-next".parse().unwrap());
    let failed = |all: &Statuses| all.get(&next).is_some_and(|status| status.failed.is_some());
    let all = stack.statuses_when(failed).await;
    assert!(all[&next].failed.as_ref().unwrap().reason.contains("v9"), "{all:?}");
    // Somebody else may have it.
    let call = stack.client.request(subjects::pinned(Lane::Rpc, &next.0, &next.1), "{}".into()).await;
    assert_eq!(call.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
    // The others are served as before, and the worker is ready.
    assert_eq!(stack.get("/readyz").await.0, 200);
}
