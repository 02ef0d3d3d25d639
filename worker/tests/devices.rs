//! What a worker does when its devices do what devices do. The devices are fakes: a test needs no GPU.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
    mpsc,
};

use crate::support::{
    fake::{Devices, FakeWorker, server},
    http_get, model, outcome,
    registry::TestRegistry,
};
use async_nats::{Client, jetstream};
use embed_engine::settings::Provider;
use embed_schemas::{EmbedRequest, ErrorCode, Format, JobId, Lane, Outcome, subjects};
use embed_testkit::PATIENCE;

const ON_CUDA: &[Provider] = &[Provider::Cuda];

/// Waits until the worker has so many texts of jobs, while its devices do nothing: what it then does with them does not
/// depend on how fast they came.
async fn in_flight(worker: &FakeWorker, texts: usize) {
    while worker.metric("akidb_in_flight_texts", "bulk").await < texts as f64 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Texts of many lengths.
fn texts(count: usize, seed: usize) -> Vec<String> {
    (0..count).map(|i| "word ".repeat(1 + (i * 7 + seed) % 60)).collect()
}

async fn publish(client: &Client, id: &str, texts: Vec<String>) -> JobId {
    let id: JobId = id.parse().unwrap();
    let request = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new(texts) };
    let payload = Format::MessagePack.encode(&request);
    jetstream::new(client.clone()).publish(subjects::bare(Lane::Bulk, &model()), payload).await.unwrap().await.unwrap();
    id
}

/// The stored results of jobs, once they are there. All of their texts must have a vector.
async fn results(client: &Client, ids: &[JobId]) {
    for id in ids {
        let Outcome::Result(result) = outcome(client, &model(), id).await else {
            panic!("{id} failed");
        };
        assert!(result.items.iter().all(|item| item.error.is_none()), "{:?}", result.items);
    }
}

async fn jobs(client: &Client, name: &str, count: usize, size: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for job in 0..count {
        ids.push(publish(client, &format!("{name}-{job}"), texts(size, job)).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loads_for_long_says_what_it_waits_for() {
    let (nats, _client) = server().await;
    let (tell, told) = mpsc::channel();
    let devices = Arc::new(Devices { loading: Mutex::new(Some(told)), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    let said = async {
        loop {
            // Before it listens, there is no answer.
            let answer = tokio::net::TcpStream::connect(&worker.address).await.is_ok();
            if answer {
                let (status, body) = http_get(&worker.address, "/readyz").await;
                assert_eq!(status, 503, "{body}");
                if body.contains("building engine 1 of 2 (") {
                    break body;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let body = tokio::time::timeout(PATIENCE, said).await.expect("a reason in time");
    assert!(body.contains("the worker is starting") && body.contains("loading for cuda"), "{body}");
    assert_eq!(http_get(&worker.address, "/healthz").await.0, 200, "it is alive");
    tell.send(()).unwrap();
    worker.ready().await;
    assert_eq!(http_get(&worker.address, "/readyz").await, (200, "ready\n".to_owned()));
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_while_it_loads_does() {
    let (nats, _client) = server().await;
    let (_tell, told) = mpsc::channel();
    let devices = Arc::new(Devices { loading: Mutex::new(Some(told)), ..Devices::default() });
    let worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_memory_makes_batches_smaller_and_fails_nothing() {
    let (nats, client) = server().await;
    // Less than what tokenizers hand on at once: however slowly texts come, some run is too large.
    const MEMORY: usize = 500;
    let devices = Arc::new(Devices { memory: AtomicUsize::new(MEMORY), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.ready().await;
    devices.held.store(true, Ordering::SeqCst);
    let ids = jobs(&client, "memory", 8, 256).await;
    in_flight(&worker, 2_048).await;
    devices.held.store(false, Ordering::SeqCst);
    results(&client, &ids).await;
    assert!(worker.metric("akidb_out_of_memory_total", "").await >= 1.0);
    assert!(worker.metric("akidb_batch_tokens_limit", "").await <= 65_536.0 / 2.0);
    let most = devices.largest.load(Ordering::SeqCst);
    assert!(most <= MEMORY, "{most}");
    // What was learnt is remembered: the same again needs fewer lessons.
    let before = worker.metric("akidb_out_of_memory_total", "").await;
    results(&client, &jobs(&client, "memory-again", 8, 256).await).await;
    let after = worker.metric("akidb_out_of_memory_total", "").await;
    assert!(after - before <= before, "{before} before, {} after", after - before);
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_ends_the_worker_and_loses_nothing() {
    let (nats, client) = server().await;
    let devices = Arc::new(Devices { lost: AtomicBool::new(false), ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.ready().await;
    results(&client, &jobs(&client, "before", 2, 64).await).await;
    // All jobs are in the worker when it happens.
    devices.held.store(true, Ordering::SeqCst);
    let published = tokio::time::Instant::now();
    let ids = jobs(&client, "lost", 10, 64).await;
    in_flight(&worker, 640).await;
    devices.lost.store(true, Ordering::SeqCst);
    devices.held.store(false, Ordering::SeqCst);
    let error = worker.end().await.unwrap_err().to_string();
    assert!(error.contains("the device is lost") && error.contains("illegal memory access"), "{error}");
    // The server waits 30 s for an acknowledgement: what comes earlier was given back.
    let healthy = Arc::new(Devices::default());
    let mut another = FakeWorker::start(&nats, &healthy, ON_CUDA);
    another.ready().await;
    let in_time = published + std::time::Duration::from_secs(29);
    tokio::time::timeout_at(in_time, results(&client, &ids)).await.expect("given back, not timed out");
    another.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_lost_device_are_told_to_try_elsewhere() {
    let (nats, client) = server().await;
    let devices = Arc::new(Devices::default());
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.ready().await;
    devices.lost.store(true, Ordering::SeqCst);
    let payload = Format::MessagePack.encode(&EmbedRequest::new(["hello"]));
    let request = async_nats::Request::new().payload(payload).inbox(client.new_inbox()).timeout(Some(PATIENCE));
    let answer = client.send_request(subjects::bare(Lane::Rpc, &model()), request).await.unwrap();
    let error = embed_schemas::wire::decode_outcome(&answer.payload).unwrap().into_result().unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelUnavailable);
    assert!(error.retryable && error.message.contains("device is lost"), "{error}");
    worker.end().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_built_another_need_not_build() {
    let (nats, _client) = server().await;
    let (shared, folder) = (TestRegistry::new(), tempfile::tempdir().unwrap());
    for (machine, builds) in [("first", 1), ("second", 0), ("second", 0)] {
        let (registry, engines) = (Some(shared.path().to_owned()), Some(folder.path().join(machine)));
        let devices = Arc::new(Devices { registry, engines, ..Devices::default() });
        let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
        worker.ready().await;
        worker.stop().await.unwrap();
        assert_eq!(devices.built.load(Ordering::SeqCst), builds, "{machine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_devices_work_under_one_planner() {
    let (nats, client) = server().await;
    let run = std::time::Duration::from_millis(20);
    let devices = Arc::new(Devices { count: 3, run, ..Devices::default() });
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.ready().await;
    devices.held.store(true, Ordering::SeqCst);
    let ids = jobs(&client, "devices", 30, 256).await;
    in_flight(&worker, 30 * 256).await;
    devices.held.store(false, Ordering::SeqCst);
    results(&client, &ids).await;
    let runs = devices.runs.lock().unwrap().clone();
    assert_eq!(runs.len(), 3, "{runs:?}");
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn falling_back_is_told_everywhere() {
    let (nats, client) = server().await;
    let devices = Arc::new(Devices::default());
    // The registry's version has no graph for TensorRT, and this machine no plug-in.
    let chain = [Provider::Tensorrt, Provider::Cuda];
    let mut worker = FakeWorker::start(&nats, &devices, &chain);
    worker.ready().await;
    let (status, body) = http_get(&worker.address, "/readyz").await;
    assert_eq!(status, 200, "it serves all the same");
    assert!(body.contains("fp32 runs on cuda, not on tensorrt: the version has no graph for it"), "{body}");
    assert_eq!(worker.metric("akidb_provider_skipped", "tensorrt").await, 1.0);
    assert_eq!(worker.metric("akidb_provider_in_use", "\"cuda\"").await, 1.0);
    assert!(worker.metric("akidb_provider_fallbacks_total", "cuda").await >= 1.0);
    results(&client, &jobs(&client, "fallback", 1, 4).await).await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_which_nothing_runs_is_an_error_that_names_every_reason() {
    let (nats, _client) = server().await;
    let devices = Arc::new(Devices { cuda: AtomicBool::new(false), ..Devices::default() });
    let error = FakeWorker::start(&nats, &devices, &[Provider::Tensorrt, Provider::Cuda]).end().await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("tensorrt: the version has no") && error.contains("cuda: libfake.so.1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_every_run_makes_the_worker_unready_and_costs_jobs_nothing() {
    let (nats, client) = server().await;
    let devices = Arc::new(Devices::default());
    let mut worker = FakeWorker::start(&nats, &devices, ON_CUDA);
    worker.ready().await;
    devices.broken.store(true, Ordering::SeqCst);
    let ids = jobs(&client, "broken", 20, 16).await;
    let unready = async {
        loop {
            let (status, body) = http_get(&worker.address, "/readyz").await;
            if status == 503 && body.contains("fails every run") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unready).await.expect("unready in time");
    // Another worker of this process may have said otherwise meanwhile.
    let told = async {
        while worker.metric("akidb_ready", "").await > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("said to be unready");
    // What it has goes back, and it takes nothing more.
    while worker.metric("akidb_leases_held", "").await > 0.0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(worker.metric("akidb_dead_letters_total", "").await, 0.0);
    devices.broken.store(false, Ordering::SeqCst);
    results(&client, &ids).await;
    assert_eq!(worker.metric("akidb_dead_letters_total", "").await, 0.0);
    worker.stop().await.unwrap();
}
