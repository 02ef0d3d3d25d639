//! Puts the parts together: start, serve, drain.

use std::{future::Future, io, sync::Arc, time::Duration};

use embed_connect::ConnectError;
use embed_engine::{
    model::{Activities, Backend, Loader, OnnxRuntime, RegistryError, Source},
    threads::cores,
};
use embed_otlp::Spans;
use embed_schemas::Slug;
use futures::future::join_all;
use serde::Serialize;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, TelemetryConfig},
    connection::{self, Connections},
    intake::IntakeContext,
    jetstream::StoreClient,
    lease::Keeper,
    metrics::{self, GpuWatch},
    observe::{self, Discovery, Gauges, Health, Levers, Operation},
    publish::{PublishRules, Publisher, Publishing, StoreTrouble},
    replies::Replies,
    serving::{Reconciler, SelectError, Selection, ServeError, ServedVariants, ServingContext, follow_shadows, select},
    spans::Tracer,
    supervise::{Deaths, Supervisor, Task},
};

/// How long the last messages may take to leave, after everything else is done.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long intakes may take to end, after something died: a round trip to the server, on busy cores.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long answers may take to leave, after something died.
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
    #[error("{0}")]
    Select(Box<SelectError>),
    /// No connection to NATS.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A variant cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A subscription failed.
    #[error("subscribing: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Requests cannot be recorded.
    #[error("telemetry.otlp_endpoint: {0}; set it to the address of a collector, such as http://localhost:4318")]
    Traces(#[from] embed_otlp::SetupError),
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Something in the worker cannot go on: a thread or a task died, or a device is lost.
    #[error("the worker cannot go on: {0}; it stops, so that its jobs go to others")]
    Died(String),
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
    Ok(Source::open(location, config.models.cache_dir(), config.models.cache_size.as_u64())?)
}

/// ONNX Runtime as it is configured.
#[must_use]
pub fn onnx_runtime(config: &Config) -> OnnxRuntime {
    OnnxRuntime::new(config.engine.clone(), config.tokenize.max_text_bytes, &config.models.cache_dir())
}

/// What ends a worker from outside.
#[derive(Debug)]
pub struct Shutdown<S, H> {
    /// Ends: then it takes nothing more, and finishes what it has.
    pub stop: S,
    /// Ends after `stop`: then it finishes nothing more, and gives back what it has.
    pub hurry: H,
}

/// Serves until it is told to stop, then drains. `on_ready` is called once, when the worker has passed its self-test.
///
/// # Errors
/// If it cannot start, or something in it dies.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce(&Ready),
    shutdown: Shutdown<impl Future<Output = ()>, impl Future<Output = ()>>,
) -> Result<(), RunError> {
    let backend = Arc::new(onnx_runtime(&config));
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
    shutdown: Shutdown<impl Future<Output = ()>, impl Future<Output = ()>>,
) -> Result<(), RunError> {
    let (Shutdown { stop, hurry }, levers) = (shutdown, Levers::default());
    let stop = async {
        tokio::select! {
            () = stop => {}
            () = levers.drain.cancelled() => {}
        }
    };
    tokio::pin!(stop);
    let (supervisor, mut deaths) = Supervisor::new();
    let addr = config.http.addr;
    let listener = TcpListener::bind(addr).await.map_err(|source| RunError::Listen { addr, source })?;
    let metrics_url = format!("http://{}", listener.local_addr()?);
    let prometheus = metrics::install(&supervisor)?;
    let _gpus = GpuWatch::start(&config.telemetry, config.wants_devices(), metrics::texts_embedded)?;
    let source = open_source(&config)?;
    let selection = select(&source, &config).await.map_err(Box::new).map_err(RunError::Select)?;
    let worker_id = config.worker.id.clone().unwrap_or_else(make_worker_id);
    let tracer = tracer(&config, &worker_id, &supervisor)?;
    let connections = connection::connect(&config.nats, &format!("embed-worker {worker_id}")).await?;

    let activities = Activities::default();
    let loader = Loader::new(source, backend, activities.clone());
    let parts = Parts::new(&config, &worker_id, &connections, activities, tracer, &supervisor).await?;
    // Loading can take minutes: whoever asks meanwhile is told what it waits for.
    let (health, gauges) = (Arc::clone(&parts.health), Arc::clone(&parts.gauges));
    let ready_timeout = config.http.ready_timeout;
    let _http = supervisor.spawn("the HTTP endpoint", async move {
        match observe::serve(listener, health, gauges, prometheus, ready_timeout).await {}
    });
    let started = tokio::select! {
        started = parts.start(&config, loader, selection, &levers, &supervisor) => started.map(Some),
        () = &mut stop => Ok(None),
        reason = deaths.next() => Err(RunError::Died(reason)),
    };
    let mut running = match started {
        Ok(Some(running)) => running,
        other => {
            if other.is_err() {
                parts.keeper.died();
            }
            parts.abandon_start().await;
            tracing::info!("stopped before anything was served");
            return other.map(drop);
        }
    };
    parts.health.started();
    let say_ready = || on_ready(&Ready { worker_id, metrics_url, variants: parts.variants() });
    let outcome = tokio::select! {
        () = &mut stop => Ok(()),
        reason = deaths.next() => Err(RunError::Died(reason)),
        never = run_until_stopped(&parts.health, &mut running.reconciler, say_ready) => match never {},
    };
    if let Err(error) = &outcome {
        parts.keeper.died();
        tracing::error!(%error, "stopping");
    }
    parts.drain(running, &config, outcome.is_ok(), hurry, &mut deaths).await;
    outcome
}

/// Tests the worker until it is ready, says so, and follows what is wanted.
async fn run_until_stopped(
    health: &Health,
    reconciler: &mut Reconciler,
    on_ready: impl FnOnce(),
) -> std::convert::Infallible {
    let say_ready = async {
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
        health.keep_testing().await
    };
    tokio::select! {
        never = say_ready => never,
        never = reconciler.run() => never,
    }
}

/// What there is before anything is loaded.
struct Parts {
    served: ServedVariants,
    connections: Connections,
    keeper: Keeper,
    publisher: Publisher,
    publishing: Publishing,
    /// Stops attempts to store what cannot be stored.
    give_up: CancellationToken,
    intake: IntakeContext,
    health: Arc<Health>,
    gauges: Arc<Gauges>,
}

/// What runs while the worker serves.
struct Running {
    reconciler: Reconciler,
    _observers: Vec<Task>,
}

impl Parts {
    async fn new(
        config: &Config,
        worker_id: &str,
        connections: &Connections,
        activities: Activities,
        tracer: Tracer,
        supervisor: &Supervisor,
    ) -> Result<Self, RunError> {
        let (served, give_up, trouble) = (ServedVariants::default(), CancellationToken::new(), StoreTrouble::default());
        let rules = PublishRules {
            replies: Replies::new(&connections.online.client, &config.worker.reply_prefixes),
            shadow_bytes: config.worker.shadow_bytes.as_u64(),
        };
        let store = StoreClient::start(connections.stored.client.clone(), supervisor).await?;
        let (publisher, publishing) =
            Publisher::start(connections, worker_id, store, give_up.clone(), trouble.clone(), rules, supervisor);
        let keeper = Keeper::start(connections.stored.clone(), supervisor);
        let intake = IntakeContext::new(
            worker_id,
            connections.clone(),
            publisher.clone(),
            keeper.clone(),
            supervisor.clone(),
            tracer.clone(),
        );
        let health = Arc::new(Health::new(
            worker_id.to_owned(),
            connections.online.client.clone(),
            served.clone(),
            trouble,
            activities,
            config.http.ready_timeout,
        ));
        let gauges = Arc::new(Gauges::new(served.clone(), connections.clone(), keeper.clone(), tracer));
        let connections = connections.clone();
        Ok(Self { served, connections, keeper, publisher, publishing, give_up, intake, health, gauges })
    }

    async fn start(
        &self,
        config: &Config,
        loader: Loader,
        selection: Selection,
        levers: &Levers,
        supervisor: &Supervisor,
    ) -> Result<Running, RunError> {
        tracing::info!(
            cores = cores(),
            runners = config.engine.runners,
            threads_per_runner = config.engine.threads_per_runner,
            policy = ?config.batch.policy,
            max_tokens = config.batch.max_tokens,
            "engine: side by side, one batch for each runner (0: one for each core)"
        );
        let context = ServingContext {
            config: config.clone(),
            served: self.served.clone(),
            loader,
            intake: self.intake.clone(),
            supervisor: supervisor.clone(),
            reload: Arc::clone(&levers.reload),
        };
        let reconciler = Reconciler::start(context, selection).await?;
        let (client, worker) = (self.connections.online.client.clone(), self.intake.worker.to_string());
        let replies = self.publisher.replies().clone();
        let operation = Operation::new(
            client.clone(),
            worker.clone(),
            self.served.clone(),
            Arc::clone(&self.health),
            replies.clone(),
            config.worker.drain_timeout,
            levers.clone(),
        );
        let (served, keeper, endpoints) = (self.served.clone(), self.keeper.clone(), operation.endpoints());
        let discovery = Discovery::new(client.clone(), worker.clone(), served, keeper, replies, endpoints);
        let operation = async move {
            if let Err(error) = operation.serve().await {
                tracing::error!(%error, "operators are not answered");
            }
        };
        let discovery = async move {
            if let Err(error) = discovery.serve().await {
                tracing::error!(%error, "the worker cannot be discovered");
            }
        };
        let (served, clock) = (self.served.clone(), self.intake.clock.clone());
        let statistics = observe::publish_statistics(client, worker, served, config.worker.stats_window, clock);
        let backlog =
            observe::watch_backlog(self.connections.stored.clone(), self.intake.clock.clone(), self.served.clone());
        let gauges = Arc::clone(&self.gauges);
        let mut observers = vec![
            supervisor.spawn("discovery", discovery),
            supervisor.spawn("the answers to operators", operation),
            supervisor.spawn("statistics", statistics),
            supervisor.spawn("the watch of the backlog", backlog),
            supervisor.spawn("the watch of the cache's disk", observe::watch_disk(config.models.cache_dir())),
            supervisor.spawn("gauges", async move { gauges.keep_setting().await }),
        ];
        if config.worker.shadow_bytes.as_u64() > 0 {
            let shadows = follow_shadows(self.connections.online.client.clone(), self.served.clone());
            observers.push(supervisor.spawn("the listener for shadows", shadows));
        }
        Ok(Running { reconciler, _observers: observers })
    }

    fn variants(&self) -> Vec<ReadyVariant> {
        let describe =
            |(deployment, version): (Arc<crate::variant::Deployment>, Arc<crate::variant::ServedVersion>)| {
                ReadyVariant {
                    model: deployment.variant.model.clone(),
                    variant: deployment.variant.name.clone(),
                    version: version.metadata().version.clone(),
                }
            };
        self.served.live().into_iter().map(describe).collect()
    }

    /// Takes nothing more in, of what may already have been begun when the start came to nothing, and gives back what was taken.
    async fn abandon_start(&self) {
        self.close().await;
        self.give_back().await;
        self.flush().await;
    }

    /// Ends intakes, within a bound.
    async fn close(&self) {
        let served = self.served.all();
        let _ = timeout(CLOSE_TIMEOUT, join_all(served.iter().map(|one| one.stop()))).await;
    }

    /// Gives back what is still in the worker.
    async fn give_back(&self) {
        // Without a server, nothing of it could leave.
        let back = timeout(ANSWER_TIMEOUT, self.keeper.give_back_all()).await;
        if !matches!(back, Ok(0)) {
            let jobs = back.map_or_else(|_| "all".to_owned(), |jobs| jobs.to_string());
            tracing::warn!(jobs, "stopping before everything was finished: these jobs go back to be taken by others");
        }
    }

    /// Lets out what is to be said.
    async fn flush(&self) {
        let flush = async {
            self.keeper.flush().await;
            let _ = timeout(ANSWER_TIMEOUT, self.publisher.idle()).await;
            self.connections.flush().await
        };
        if !matches!(timeout(FLUSH_TIMEOUT, flush).await, Ok(Ok(()))) {
            tracing::warn!("a connection to NATS was lost before the last messages were out");
        }
        self.intake.tracer.flush(ANSWER_TIMEOUT).await;
    }

    /// Takes nothing more in, finishes what is there within the deadline, and gives back the rest. `hurry` ends the finishing.
    async fn drain(
        self,
        running: Running,
        config: &Config,
        alive: bool,
        hurry: impl Future<Output = ()>,
        deaths: &mut Deaths,
    ) {
        self.health.stopping();
        tracing::info!(texts = self.health.texts_in_flight(), "stopping: finishing what was taken");
        let Running { reconciler, _observers: observers } = running;
        drop(observers);
        let served = self.served.all();
        let finish = async {
            match alive {
                true => drop(join_all(served.iter().map(|one| one.stop())).await),
                false => self.close().await,
            }
            self.publisher.idle().await;
        };
        // The time to stop includes the last flush. What died computes nothing more, but callers can still be told.
        let all = match alive {
            true => config.worker.drain_timeout.saturating_sub(FLUSH_TIMEOUT),
            false => CLOSE_TIMEOUT + ANSWER_TIMEOUT,
        };
        let finished = tokio::select! {
            result = timeout(all, finish) => result.is_ok(),
            () = hurry => {
                tracing::warn!("told again to stop: finishing nothing more");
                false
            }
            reason = deaths.next(), if alive => {
                tracing::error!(reason, "died while stopping");
                false
            }
        };
        self.give_up.cancel();
        let versions = reconciler.close();
        if !finished {
            // Before their texts fail: what failed goes back later than what was only given back.
            self.give_back().await;
            // Whoever waits for an answer is told.
            versions.iter().for_each(|version| version.pipeline.halt("the worker is stopping"));
        }
        self.flush().await;
        drop(self.publishing);
        if finished {
            let stop = move || versions.iter().for_each(|version| version.pipeline.stop());
            let _ = timeout(FLUSH_TIMEOUT, tokio::task::spawn_blocking(stop)).await;
        }
        tracing::info!("stopped");
    }
}

/// Records requests, if there is a collector to send them to.
fn tracer(config: &Config, worker_id: &str, supervisor: &Supervisor) -> Result<Tracer, RunError> {
    let of_environment = || std::env::var(embed_otlp::ENDPOINT_VARIABLE).ok().filter(|value| !value.is_empty());
    let Some(endpoint) = config.telemetry.otlp_endpoint.clone().or_else(of_environment) else {
        return Ok(Tracer::default());
    };
    let TelemetryConfig { trace_ratio, trace_queue, .. } = config.telemetry;
    tracing::info!(endpoint = embed_otlp::shown(&endpoint), trace_ratio, "traces go to this collector");
    let settings = embed_otlp::Settings {
        endpoint,
        service: "embed-worker",
        instance: worker_id.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        queue: trace_queue,
    };
    let (spans, exporting) = Spans::new(&settings)?;
    supervisor.spawn("the exporter of traces", exporting.run()).detach();
    Ok(Tracer::new(spans, trace_ratio))
}

/// Unique among all workers: the process, and when it started.
fn make_worker_id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("w{:x}-{:x}", std::process::id(), now.as_nanos())
}
