//! Puts the parts together: start, serve, drain.

use std::{future::Future, io, sync::Arc, time::Duration};

use embed_connect::ConnectError;
use embed_schemas::{Lane, Slug};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    intake::{self, Discovery, Puller},
    job::Job,
    model::{self, LoadError, Registry, RegistryError, SelectError, Selected},
    nats::{self, Connection},
    pipeline::{Pipeline, cores},
    publish::Publisher,
    telemetry::{self, Health},
    variant::Variant,
};

/// The execution provider of this build.
const PROVIDER: &str = "cpu";

/// How long the last messages may take to leave, after everything else is done.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The worker could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration lacks something.
    #[error("configuration: {0}")]
    Config(String),
    /// The HTTP address cannot be had.
    #[error("http.addr {addr}: {source}; choose another with --metrics-addr (port 0 takes a free one)")]
    Listen {
        /// The address.
        addr: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The variants cannot be resolved.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// No connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A model cannot be served.
    #[error("{model} {variant}: {source}")]
    Load {
        /// The model.
        model: Slug,
        /// The variant.
        variant: Slug,
        /// Why.
        source: Box<LoadError>,
    },
    /// A subscription failed.
    #[error("subscribing: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// An engine thread died.
    #[error("an engine thread died: {0}; the worker stops, so that its jobs go to others")]
    Engine(String),
}

/// What is said when the worker is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// The worker's id.
    pub worker_id: String,
    /// Base of the HTTP endpoint.
    pub metrics_url: String,
    /// What is served.
    pub variants: Vec<ReadyVariant>,
}

/// A variant that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadyVariant {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// The version.
    pub version: String,
}

/// Opens the configured registry.
///
/// # Errors
/// If none is configured, or it cannot be opened.
pub fn open_registry(config: &Config) -> Result<Registry, RunError> {
    let location = config
        .registry
        .as_deref()
        .ok_or_else(|| RunError::Config("registry: not set; pass --registry, or set EMBED_REGISTRY".to_owned()))?;
    Ok(Registry::open(location)?)
}

/// Serves until `shutdown` completes, then drains. `on_ready` is called once, when the worker has passed its self-test.
///
/// # Errors
/// If it cannot start, or an engine thread dies.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let addr = config.http.addr;
    let listener = TcpListener::bind(addr).await.map_err(|source| RunError::Listen { addr, source })?;
    let metrics_url = format!("http://{}", listener.local_addr()?);
    let metrics = telemetry::install()?;
    let registry = open_registry(&config)?;
    let selected = model::select(&registry, &config.variant).await?;
    let worker_id = config.worker.id.clone().unwrap_or_else(make_worker_id);
    let connection = nats::connect(&config.nats, &format!("embed-worker {worker_id}")).await?;

    let (panics, mut panicked) = mpsc::unbounded_channel();
    let parts = Parts::start(&config, &registry, &selected, &worker_id, &connection, panics).await?;
    let http = tokio::spawn(telemetry::serve(listener, Arc::clone(&parts.health), metrics, PROVIDER));
    let ready = Ready { worker_id, metrics_url, variants: parts.variants() };

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        Some(panic) = panicked.recv() => Err(RunError::Engine(panic)),
        () = serve(&parts.health, || on_ready(&ready)) => unreachable!("it serves for ever"),
    };
    parts.drain(&config, &connection, outcome.is_ok()).await;
    http.abort();
    outcome
}

/// Tests the worker until it is ready, says so, and then waits for ever.
async fn serve(health: &Health, on_ready: impl FnOnce()) {
    let mut said = Vec::new();
    loop {
        let reasons = health.readiness().await.reasons;
        if reasons.is_empty() {
            break;
        }
        if reasons != said {
            tracing::warn!(?reasons, "not ready");
            said = reasons;
        }
        sleep(Duration::from_millis(200)).await;
    }
    tracing::info!("ready");
    on_ready();
    std::future::pending::<()>().await;
}

/// Everything that runs.
struct Parts {
    pipelines: Vec<Arc<Pipeline>>,
    pullers: Vec<Arc<Puller>>,
    health: Arc<Health>,
    /// Stops the intake.
    stop: CancellationToken,
    /// Stops attempts to store what cannot be stored.
    give_up: CancellationToken,
    intake: Vec<JoinHandle<()>>,
    publishing: JoinHandle<()>,
    discovery: JoinHandle<Result<(), async_nats::SubscribeError>>,
}

impl Parts {
    async fn start(
        config: &Config,
        registry: &Registry,
        selected: &[Selected],
        worker_id: &str,
        connection: &Connection,
        panics: mpsc::UnboundedSender<String>,
    ) -> Result<Self, RunError> {
        let give_up = CancellationToken::new();
        let stop = CancellationToken::new();
        let publisher = Publisher::new(connection.client.clone(), config.limits.max_deliveries, give_up.clone());
        let (finished, jobs) = mpsc::unbounded_channel();
        let mut pipelines = Vec::new();
        for one in selected {
            pipelines.push(Arc::new(start_pipeline(config, registry, one, worker_id, &finished, &panics).await?));
        }
        drop(finished);
        let publishing = tokio::spawn(publisher.clone().run(jobs));

        let (mut intake_tasks, mut pullers, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for pipeline in &pipelines {
            for endpoint in intake::subscribe(&connection.client, worker_id, pipeline, &publisher).await? {
                endpoints.push(Arc::clone(&endpoint.stats));
                intake_tasks.push(tokio::spawn(endpoint.serve(stop.clone())));
            }
            for lane in Lane::STORED {
                let max = config.limits.max_deliveries;
                let puller = Puller::new(Arc::clone(pipeline), publisher.clone(), lane, max);
                pullers.push(Arc::clone(&puller));
                let (stop, connected) = (stop.clone(), connection.connected.clone());
                intake_tasks.push(tokio::spawn(async move { puller.run(stop, connected).await }));
            }
        }
        let variants = pipelines.iter().map(|pipeline| Arc::clone(&pipeline.variant)).collect();
        let discovery = Discovery::new(connection.client.clone(), worker_id.to_owned(), variants, endpoints);
        let health = Arc::new(Health::new(
            worker_id.to_owned(),
            connection.client.clone(),
            pipelines.clone(),
            pullers.clone(),
            config.http.ready_timeout,
        ));
        Ok(Self {
            pipelines,
            pullers,
            health,
            stop,
            give_up,
            intake: intake_tasks,
            publishing,
            discovery: tokio::spawn(discovery.serve()),
        })
    }

    fn variants(&self) -> Vec<ReadyVariant> {
        let describe = |pipeline: &Arc<Pipeline>| ReadyVariant {
            model: pipeline.variant.model.clone(),
            variant: pipeline.variant.name.clone(),
            version: pipeline.variant.metadata.version.clone(),
        };
        self.pipelines.iter().map(describe).collect()
    }

    /// Takes nothing more in, finishes what is there within the deadline, and gives back the rest.
    async fn drain(self, config: &Config, connection: &Connection, engines_alive: bool) {
        self.health.stopping();
        tracing::info!(texts = self.health.texts_in_flight(), "stopping: finishing what was taken");
        self.stop.cancel();
        self.discovery.abort();
        let intake = futures::future::join_all(self.intake);
        let reporting = futures::future::join_all(self.pullers.iter().map(|puller| puller.report()));
        let finish = async {
            intake.await;
            for pipeline in &self.pipelines {
                pipeline.drain();
                pipeline.idle().await;
            }
        };
        let deadline = if engines_alive { config.worker.drain_timeout } else { Duration::ZERO };
        let finished = tokio::select! {
            result = timeout(deadline, finish) => result.is_ok(),
            _ = reporting => unreachable!("it reports for ever"),
        };
        self.give_up.cancel();
        if finished {
            // Nothing refers to the pipelines any more but these; without them, the publisher ends.
            drop((self.pullers, self.health));
            for pipeline in self.pipelines.into_iter().filter_map(Arc::into_inner) {
                let _ = tokio::task::spawn_blocking(move || pipeline.stop()).await;
            }
            let _ = timeout(FLUSH_TIMEOUT, self.publishing).await;
        } else {
            let mut jobs = 0;
            for puller in &self.pullers {
                jobs += puller.give_back().await;
            }
            tracing::warn!(jobs, "stopping before everything was finished: these jobs go back to be taken by others");
        }
        if timeout(FLUSH_TIMEOUT, connection.client.flush()).await.is_err() {
            tracing::warn!("the connection to NATS was lost before the last messages were out");
        }
        tracing::info!("stopped");
    }
}

async fn start_pipeline(
    config: &Config,
    registry: &Registry,
    selected: &Selected,
    worker_id: &str,
    finished: &mpsc::UnboundedSender<Arc<Job>>,
    panics: &mpsc::UnboundedSender<String>,
) -> Result<Pipeline, RunError> {
    let runners = match config.engine.runners {
        0 => cores(),
        n => n,
    };
    let (library, threads) = (config.engine.library.as_deref(), config.engine.threads_per_runner);
    tracing::info!(
        cores = cores(),
        runners,
        threads_per_runner = threads,
        policy = ?config.batch.policy,
        max_tokens = config.batch.max_tokens,
        "engine: side by side, one batch for each runner"
    );
    let loaded = model::load(registry, selected, library, runners, threads, config.tokenize.max_text_bytes)
        .await
        .map_err(|source| RunError::Load {
            model: selected.model.clone(),
            variant: selected.variant.clone(),
            source: Box::new(source),
        })?;
    let variant =
        Arc::new(Variant::new(selected, &config.limits, runners, format!("{worker_id}-{}", selected.variant)));
    let panics = panics.clone();
    let on_panic = move |panic: String| {
        // If nobody listens, the worker is stopping already.
        let _ = panics.send(panic);
    };
    Ok(Pipeline::start(variant, loaded, config, finished.clone(), on_panic)?)
}

/// Unique among all workers: the process, and when it started.
fn make_worker_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("w{:x}-{:x}", std::process::id(), now.as_nanos())
}
