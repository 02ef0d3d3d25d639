//! Devices that do as they are told, and a worker on them in this process.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_nats::Client;
use embed_engine::{
    batch::{CostTable, Measured, Padding, Shape, Unit},
    engine::{Engine, EngineError, Input, Vectors},
    model::{
        Activity, Backend, DeviceBounds, EngineCache, Files, LoadError, LoadReport, LoadedModel, ProviderGraph,
        ResolvedModel, Weights,
    },
    settings::{EngineConfig, Provider},
};
use embed_schemas::streams::StreamSettings;
use embed_testkit::{NatsServer, PATIENCE};
use embed_worker::{
    app::{self, RunError, Shutdown},
    config::Config,
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::http_get;

/// What the fake devices are to do, and what they have done.
#[derive(Debug)]
pub(crate) struct Devices {
    /// How many there are.
    pub(crate) count: usize,
    /// Runners of each.
    pub(crate) runners: usize,
    /// Tokens that each has memory for, padding included.
    pub(crate) memory: AtomicUsize,
    /// Whether nothing runs on them any more.
    pub(crate) lost: AtomicBool,
    /// Whether every run fails.
    pub(crate) broken: AtomicBool,
    /// Whether runs do not go on.
    pub(crate) held: AtomicBool,
    /// Whether CUDA's devices can be used at all.
    pub(crate) cuda: AtomicBool,
    /// On what nothing can be loaded, though it can be used.
    pub(crate) fails_on: Mutex<Option<Provider>>,
    /// Whether graphs of the worker's own operators cannot be loaded.
    pub(crate) no_kernels: AtomicBool,
    /// Graphs without padding that were to be loaded: their files, in order.
    pub(crate) packed: Mutex<Vec<Option<String>>>,
    /// How long a run takes.
    pub(crate) run: Duration,
    /// Loading waits until something comes from here.
    pub(crate) loading: Mutex<Option<mpsc::Receiver<()>>>,
    /// The registry, if it is not the tests' own.
    pub(crate) registry: Option<PathBuf>,
    /// Where engines are kept that are built.
    pub(crate) engines: Option<PathBuf>,
    /// Engines that were built.
    pub(crate) built: AtomicUsize,
    /// Runs, by device.
    pub(crate) runs: Mutex<BTreeMap<usize, usize>>,
    /// Tokens of the largest run that succeeded.
    pub(crate) largest: AtomicUsize,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            count: 1,
            runners: 2,
            memory: AtomicUsize::new(usize::MAX),
            lost: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            held: AtomicBool::new(false),
            cuda: AtomicBool::new(true),
            fails_on: Mutex::new(None),
            no_kernels: AtomicBool::new(false),
            packed: Mutex::default(),
            run: Duration::ZERO,
            loading: Mutex::new(None),
            registry: None,
            engines: None,
            built: AtomicUsize::new(0),
            runs: Mutex::default(),
            largest: AtomicUsize::new(0),
        }
    }
}

/// A backend on these devices.
#[derive(Debug)]
pub(crate) struct FakeBackend(pub Arc<Devices>);

#[derive(Debug)]
struct FakeEngine {
    devices: Arc<Devices>,
    device: usize,
    dimension: usize,
}

impl Engine for FakeEngine {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn unit(&self) -> Unit {
        Unit(self.device)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let devices = &self.devices;
        while devices.held.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        if devices.lost.load(Ordering::SeqCst) {
            return Err(EngineError::DeviceLost(
                "CUDA failure 700: an illegal memory access was encountered".to_owned(),
            ));
        }
        if devices.broken.load(Ordering::SeqCst) {
            return Err(EngineError::Onnx("Non-zero status code returned while running Attention node".to_owned()));
        }
        let tokens = input.rows * input.width;
        if tokens > devices.memory.load(Ordering::SeqCst) {
            return Err(EngineError::OutOfMemory(format!("Failed to allocate memory for {tokens} tokens")));
        }
        thread::sleep(devices.run);
        devices.largest.fetch_max(tokens, Ordering::SeqCst);
        *devices.runs.lock().unwrap().entry(self.device).or_default() += 1;
        // The first component tells the rows apart: the sum of a row's ids.
        let vector = |row: &[i64]| {
            let mut vector = vec![0.0; self.dimension];
            vector[0] = row.iter().sum::<i64>() as f32;
            vector
        };
        Ok(input.ids.chunks(input.width).flat_map(vector).collect())
    }
}

impl Backend for FakeBackend {
    fn probe(&self, provider: Provider) -> Result<(), LoadError> {
        let usable = match provider {
            Provider::Cuda => self.0.cuda.load(Ordering::SeqCst),
            provider => provider == Provider::Cpu,
        };
        if usable {
            return Ok(());
        }
        let reason = "libfake.so.1: cannot open shared object file".to_owned();
        Err(EngineError::Provider { provider: provider.as_str(), reason }.into())
    }

    fn engine_caches(&self, _: &ResolvedModel, _: &ProviderGraph) -> Vec<EngineCache> {
        let folder = self.0.engines.clone();
        folder.into_iter().map(|folder| EngineCache { kind: "sm90-fake".to_owned(), folder, share: true }).collect()
    }

    fn prepare(
        &self,
        files: &Files,
        model: &ResolvedModel,
        target: &ProviderGraph,
        activity: &Activity,
    ) -> Result<LoadedModel, LoadError> {
        let devices = &self.0;
        let told = devices.loading.lock().unwrap().take();
        if let Some(told) = told {
            activity.step("building engine 1 of 2".to_owned());
            told.recv().unwrap();
        }
        if *devices.fails_on.lock().unwrap() == Some(target.provider) {
            return Err(EngineError::Onnx("CUDNN_STATUS_INTERNAL_ERROR".to_owned()).into());
        }
        devices.packed.lock().unwrap().push(target.packed.as_ref().map(|packed| packed.file.file.clone()));
        if target.has_kernels() && devices.no_kernels.load(Ordering::SeqCst) {
            return Err(EngineError::Onnx("libnvrtc.so.13 cannot be used".to_owned()).into());
        }
        if let Some(folder) = &devices.engines {
            let engine = folder.join("minilm_sm90.engine");
            if !engine.exists() {
                fs::create_dir_all(folder).unwrap();
                fs::write(engine, "built").unwrap();
                devices.built.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dimension = model.metadata.dimension as usize;
        let engine =
            |device| Box::new(FakeEngine { devices: Arc::clone(devices), device, dimension }) as Box<dyn Engine>;
        let run = |(rows, width)| Measured {
            shape: Shape::full(rows, width),
            form: Default::default(),
            took: Duration::from_micros(500 + (rows * width) as u64 / 100),
        };
        let measured = [(1, 16), (64, 64), (256, 128)].map(run);
        Ok(LoadedModel {
            engines: (0..devices.count)
                .flat_map(|device| (0..devices.runners).map(move |_| device))
                .map(engine)
                .collect(),
            urgent: Vec::new(),
            tokenizer: Arc::new(files.tokenizer(&model.metadata, 1 << 20)?),
            costs: CostTable::new(&measured, Padding::default()),
            report: LoadReport {
                provider: target.provider,
                devices: (0..devices.count as u32).collect(),
                artefact: target.graph.clone(),
                weights: Weights::of(model, target, devices.count, &EngineConfig::default()),
                packed: false,
                nodes_elsewhere: None,
                skipped: Vec::new(),
                measured: Vec::new(),
                bounds: Some(DeviceBounds {
                    texts: 1024,
                    tokens: 65_536,
                    online_run: Duration::from_millis(4),
                    beside_calls: Duration::from_millis(25),
                }),
                one_by_one: false,
                spread: None,
                spread_refused: None,
                urgent: false,
                urgent_refused: None,
                kernels_refused: None,
            },
        })
    }
}

/// A worker in this process.
pub(crate) struct FakeWorker {
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    ready: Option<oneshot::Receiver<()>>,
    task: JoinHandle<Result<(), RunError>>,
}

impl FakeWorker {
    /// Starts it. It may not be ready yet.
    pub(crate) fn start(nats: &NatsServer, devices: &Arc<Devices>, providers: &[Provider]) -> Self {
        Self::start_with(nats, devices, providers, |_| ())
    }

    /// The same with another configuration.
    pub(crate) fn start_with(
        nats: &NatsServer,
        devices: &Arc<Devices>,
        providers: &[Provider],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        // Nobody else asks for a port that was free a moment ago.
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let registry = devices.registry.clone().unwrap_or_else(embed_testkit::registry);
        let mut config = Config { registry: Some(registry.display().to_string()), ..Config::default() };
        config.nats.server = Some(nats.url());
        config.http.addr = addr;
        config.engine.providers = providers.to_vec().into();
        change(&mut config);
        let ((stop, stopped), (say, ready)) = (oneshot::channel(), oneshot::channel());
        let backend = Arc::new(FakeBackend(Arc::clone(devices)));
        let task = tokio::spawn(async move {
            let on_ready = |_: &app::Ready| say.send(()).unwrap();
            let stop = async move {
                let _ = stopped.await;
            };
            let shutdown = Shutdown { stop, hurry: std::future::pending() };
            app::run_with(config, backend, on_ready, shutdown).await
        });
        Self { address: addr.to_string(), stop: Some(stop), ready: Some(ready), task }
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) {
        tokio::time::timeout(PATIENCE, self.ready.take().unwrap()).await.expect("ready in time").unwrap();
    }

    /// Tells it to stop, and waits for its end.
    pub(crate) async fn stop(mut self) -> Result<(), RunError> {
        let _ = self.stop.take().unwrap().send(());
        self.end().await
    }

    /// Waits for its end.
    pub(crate) async fn end(self) -> Result<(), RunError> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("an end in time").unwrap()
    }

    /// The value of a metric, the sum over its labels. Only what has all of `labels` counts.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, metrics) = http_get(&self.address, "/metrics").await;
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name) && series.contains(labels)).then(|| value.parse::<f64>().ok())?
        };
        metrics.lines().filter_map(of).sum()
    }
}

/// A server with the model's streams.
pub(crate) async fn server() -> (NatsServer, Client) {
    let nats = NatsServer::start();
    let client = async_nats::connect(nats.url()).await.unwrap();
    super::provision(&client, &StreamSettings { ack_wait_ms: 30_000, ..StreamSettings::default() }).await;
    (nats, client)
}
