//! Puts the parts together: start, serve, drain.

use std::{future::Future, io, sync::Arc, time::Duration};

use embed_connect::ConnectError;
use embed_schemas::Slug;
use futures::future::join_all;
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
    intake::Discovery,
    model::{self, LoadError, RegistryError, SelectError, Selected, Source},
    nats::{self, Connections},
    publish::Publisher,
    serving::{Activities, Backend, Lineup, Loader, Manager, ManagerParts, OnnxRuntime, Pipeline, cores},
    telemetry::{self, Health},
};

/// How long the last messages may take to leave, after everything else is done.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long answers may take to leave, after an engine cannot go on.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

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
    /// An engine cannot go on: its thread died, or its device is lost.
    #[error("an engine cannot go on: {0}; the worker stops, so that its jobs go to others")]
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

/// Opens the configured registry, and the cache of its files.
///
/// # Errors
/// If none is configured, or it cannot be opened.
pub fn open_source(config: &Config) -> Result<Source, RunError> {
    let location = config
        .registry
        .as_deref()
        .ok_or_else(|| RunError::Config("registry: not set; pass --registry, or set EMBED_REGISTRY".to_owned()))?;
    Ok(Source::open(location, &config.models)?)
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
    let backend = Arc::new(OnnxRuntime::new(&config));
    run_with(config, backend, on_ready, shutdown).await
}

/// The same with engines of another make.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    backend: Arc<dyn Backend>,
    on_ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    tokio::pin!(shutdown);
    let addr = config.http.addr;
    let listener = TcpListener::bind(addr).await.map_err(|source| RunError::Listen { addr, source })?;
    let metrics_url = format!("http://{}", listener.local_addr()?);
    let metrics = telemetry::install()?;
    let _gpus = telemetry::GpuWatch::start(&config.telemetry, config.wants_devices(), telemetry::texts_embedded)?;
    let source = open_source(&config)?;
    let selected = model::select(&source, &config).await?;
    let worker_id = config.worker.id.clone().unwrap_or_else(make_worker_id);
    let connections = nats::connect(&config.nats, &format!("embed-worker {worker_id}")).await?;

    let (panics, mut panicked) = mpsc::unbounded_channel();
    let activities = Activities::default();
    let loader = Loader::new(source, backend, activities.clone());
    let (client, patience) = (connections.online.client.clone(), config.http.ready_timeout);
    let health = Arc::new(Health::new(worker_id.clone(), client, Lineup::default(), activities, patience));
    // Loading can take minutes: whoever asks meanwhile is told what it waits for.
    let http = AbortOnDrop(tokio::spawn(telemetry::serve(listener, Arc::clone(&health), metrics)));
    let start = Parts::start(&config, loader, selected, &worker_id, &connections, Arc::clone(&health), panics);
    let mut parts = tokio::select! {
        parts = start => parts?,
        () = &mut shutdown => {
            tracing::info!("stopped before anything was served");
            return Ok(());
        }
    };
    health.started();
    let ready = Ready { worker_id, metrics_url, variants: parts.variants() };

    let outcome = tokio::select! {
        () = &mut shutdown => Ok(()),
        Some(panic) = panicked.recv() => Err(RunError::Engine(panic)),
        () = serve(&health, || on_ready(&ready)) => unreachable!("it serves for ever"),
        () = parts.manager.run() => unreachable!("it follows what is wanted for ever"),
    };
    drop(health);
    parts.drain(&config, &connections, outcome.is_ok()).await;
    drop(http);
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

/// A task that ends with whoever has it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Everything that runs.
struct Parts {
    manager: Manager,
    health: Arc<Health>,
    /// Stops attempts to store what cannot be stored.
    give_up: CancellationToken,
    publishing: JoinHandle<()>,
    discovery: JoinHandle<Result<(), async_nats::SubscribeError>>,
    statistics: JoinHandle<()>,
}

impl Parts {
    async fn start(
        config: &Config,
        loader: Loader,
        selected: Vec<Selected>,
        worker_id: &str,
        connections: &Connections,
        health: Arc<Health>,
        panics: mpsc::UnboundedSender<String>,
    ) -> Result<Self, RunError> {
        tracing::info!(
            cores = cores(),
            runners = config.engine.runners,
            threads_per_runner = config.engine.threads_per_runner,
            policy = ?config.batch.policy,
            max_tokens = config.batch.max_tokens,
            "engine: side by side, one batch for each runner (0: one for each core)"
        );
        let give_up = CancellationToken::new();
        let publisher = Publisher::new(connections, give_up.clone());
        let (finished, jobs) = mpsc::unbounded_channel();
        let publishing = tokio::spawn(publisher.clone().run(jobs));
        let parts = ManagerParts {
            config: config.clone(),
            lineup: health.lineup().clone(),
            loader,
            worker_id: worker_id.to_owned(),
            connections: connections.clone(),
            publisher,
            finished,
            panics,
        };
        let manager = Manager::start(parts, selected).await?;
        let lineup = manager.lineup().clone();
        let client = connections.online.client.clone();
        let discovery = Discovery::new(client.clone(), worker_id.to_owned(), lineup.clone());
        let statistics =
            telemetry::publish_statistics(client, worker_id.to_owned(), lineup.clone(), config.worker.stats_window);
        let (discovery, statistics) = (tokio::spawn(discovery.serve()), tokio::spawn(statistics));
        Ok(Self { manager, health, give_up, publishing, discovery, statistics })
    }

    fn variants(&self) -> Vec<ReadyVariant> {
        let describe = |pipeline: Arc<Pipeline>| ReadyVariant {
            model: pipeline.variant.model.clone(),
            variant: pipeline.variant.name.clone(),
            version: pipeline.version.metadata.version.clone(),
        };
        self.manager.lineup().live().into_iter().map(describe).collect()
    }

    /// Takes nothing more in, finishes what is there within the deadline, and gives back the rest.
    async fn drain(self, config: &Config, connections: &Connections, engines_alive: bool) {
        self.health.stopping();
        tracing::info!(texts = self.health.texts_in_flight(), "stopping: finishing what was taken");
        self.discovery.abort();
        self.statistics.abort();
        let members = self.manager.lineup().members();
        if !engines_alive {
            // What arrives meanwhile goes back at once, and what waits below is only what is in the worker.
            let stop = join_all(members.iter().map(|member| member.stop()));
            let _ = timeout(FLUSH_TIMEOUT, stop).await;
        }
        let finish = async {
            join_all(members.iter().map(|member| member.stop())).await;
            join_all(members.iter().map(|member| member.idle())).await;
        };
        let reporting = join_all(members.iter().map(|member| member.report()));
        // Without an engine nothing more is computed, but callers can still be told.
        let deadline = if engines_alive { config.worker.drain_timeout } else { ANSWER_TIMEOUT };
        let finished = tokio::select! {
            result = timeout(deadline, finish) => result.is_ok(),
            _ = reporting => unreachable!("it reports for ever"),
        };
        self.give_up.cancel();
        if finished {
            let pipelines = self.manager.close();
            // The publisher ends when nothing is left that could send it a job.
            drop((members, self.health));
            let _ = tokio::task::spawn_blocking(move || pipelines.iter().for_each(|pipeline| pipeline.stop())).await;
            let _ = timeout(FLUSH_TIMEOUT, self.publishing).await;
        } else {
            let jobs: usize = join_all(members.iter().map(|member| member.give_back())).await.into_iter().sum();
            tracing::warn!(jobs, "stopping before everything was finished: these jobs go back to be taken by others");
        }
        if timeout(FLUSH_TIMEOUT, connections.flush()).await.is_err() {
            tracing::warn!("a connection to NATS was lost before the last messages were out");
        }
        tracing::info!("stopped");
    }
}

/// Unique among all workers: the process, and when it started.
fn make_worker_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("w{:x}-{:x}", std::process::id(), now.as_nanos())
}
