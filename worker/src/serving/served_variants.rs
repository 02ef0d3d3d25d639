//! The variants that a worker serves at this moment, each with its intake.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::SubscribeError;
use embed_schemas::{Lane, Slug};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::Unnamed;
use crate::{
    intake::{self, Endpoint, IntakeContext, JobIntake, RemovalIntake, ShadowIntake},
    metrics::EndpointStats,
    supervise::Task,
    variant::{Deployment, ServedVersion},
};

/// How long a server may take to hear of a subscription.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// A call for which a server chose the default before it heard of another one is sent within this.
const SETTLED: Duration = Duration::from_millis(200);

/// A variant and the ways by which its work comes in.
#[derive(Debug)]
pub struct ServedVariant {
    /// The variant, with its live version.
    pub deployment: Arc<Deployment>,
    /// One for each stored lane.
    pub jobs: Vec<Arc<JobIntake>>,
    /// Whether the worker is not ready without it.
    pub required: bool,
    /// The worker's own calls, counted for the micro service.
    probe: Arc<EndpointStats>,
    /// The ways in for calls that name the variant, and for texts to compare, while there is a version to serve them.
    pinned: Mutex<Option<[Entrance; 2]>>,
    /// The way in for calls that name no variant, while it is the model's default as well.
    bare: Mutex<Option<Entrance>>,
    stop: CancellationToken,
    tasks: Mutex<Vec<Task>>,
}

/// A way in that is open at times: what does not come in here is another worker's.
#[derive(Debug)]
struct Entrance {
    /// Of calls, counted for the micro service.
    stats: Option<Arc<EndpointStats>>,
    stop: CancellationToken,
    task: Task,
    since: Instant,
}

impl Entrance {
    /// Takes nothing more, and waits until what is on its way has been taken.
    async fn close(self) {
        self.stop.cancel();
        self.task.join().await;
    }
}

impl ServedVariant {
    /// Starts to pull. Calls are taken from [`ServedVariant::take_calls`] on.
    ///
    /// # Errors
    /// If a subscription fails.
    pub(super) async fn start(
        deployment: Arc<Deployment>,
        required: bool,
        context: &IntakeContext,
    ) -> Result<Self, SubscribeError> {
        let stop = CancellationToken::new();
        let (mut tasks, mut jobs) = (Vec::new(), Vec::new());
        let endpoint = intake::subscribe_probe(&deployment, context).await?;
        let probe = Arc::clone(&endpoint.stats);
        tasks.push(context.supervisor.spawn("an intake of calls", endpoint.serve(stop.clone())));
        let removals = RemovalIntake::subscribe(&deployment, context).await?;
        tasks.push(context.supervisor.spawn("an intake of removals", removals.run(stop.clone())));
        for lane in Lane::STORED {
            let intake = JobIntake::new(Arc::clone(&deployment), context.clone(), lane);
            jobs.push(Arc::clone(&intake));
            let exhausted = Arc::clone(&intake).bury_exhausted(stop.clone());
            tasks.push(context.supervisor.spawn("the watch of jobs that are delivered no more", exhausted));
            tasks.push(context.supervisor.spawn("an intake of jobs", intake.run(stop.clone())));
        }
        let (pinned, bare) = (Mutex::default(), Mutex::default());
        Ok(Self { deployment, jobs, required, probe, pinned, bare, stop, tasks: Mutex::new(tasks) })
    }

    /// Takes calls from now on, and as the default those that name no variant as well. Where the wanted version has failed and there is no
    /// other, it takes none: somebody else may have it.
    ///
    /// # Errors
    /// If a subscription fails.
    pub(super) async fn take_calls(&self, default: bool, context: &IntakeContext) -> Result<(), SubscribeError> {
        if !self.deployment.can_serve() {
            self.leave_calls().await;
            return Ok(());
        }
        let mut opened = false;
        if !self.takes_calls() {
            let endpoint = intake::subscribe_pinned(&self.deployment, context).await?;
            let shadow = ShadowIntake::subscribe(&self.deployment, context).await?;
            let stop = self.stop.child_token();
            let task = context.supervisor.spawn("an intake of texts to compare", shadow.run(stop.clone()));
            let shadow = Entrance { stats: None, stop, task, since: Instant::now() };
            *self.pinned.lock() = Some([self.open(endpoint, context), shadow]);
            opened = true;
        }
        if default && !self.is_default() {
            let endpoint = intake::subscribe_bare(&self.deployment, context).await?;
            *self.bare.lock() = Some(self.open(endpoint, context));
            opened = true;
        }
        if opened {
            // Nobody is told of it before the server has heard of it. One that is away hears of it when it is back.
            let _ = timeout(FLUSH_TIMEOUT, context.connections.online.client.flush()).await;
        }
        Ok(())
    }

    fn open(&self, endpoint: Endpoint, context: &IntakeContext) -> Entrance {
        let (stats, stop) = (Some(Arc::clone(&endpoint.stats)), self.stop.child_token());
        let task = context.supervisor.spawn("an intake of calls", endpoint.serve(stop.clone()));
        Entrance { stats, stop, task, since: Instant::now() }
    }

    /// Takes no calls any more, and waits until those on their way have been taken.
    async fn leave_calls(&self) {
        self.leave_bare().await;
        let pinned = self.pinned.lock().take();
        join_all(pinned.into_iter().flatten().map(Entrance::close)).await;
    }

    /// Leaves those that name no variant.
    pub(super) async fn leave_bare(&self) {
        let bare = self.bare.lock().take();
        if let Some(bare) = bare {
            bare.close().await;
        }
    }

    /// Whether it takes calls.
    pub fn takes_calls(&self) -> bool {
        self.pinned.lock().is_some()
    }

    /// Whether it answers on subjects that name no variant.
    pub fn is_default(&self) -> bool {
        self.bare.lock().is_some()
    }

    /// The same, and for so long that every server knows it.
    fn is_settled_default(&self) -> bool {
        self.bare.lock().as_ref().is_some_and(|bare| bare.since.elapsed() >= SETTLED)
    }

    /// The ways in for calls.
    pub fn endpoints(&self) -> Vec<Arc<EndpointStats>> {
        let (pinned, bare) = (self.pinned.lock(), self.bare.lock());
        let open = pinned.iter().flatten().chain(&*bare).filter_map(|one| one.stats.as_ref());
        open.chain([&self.probe]).cloned().collect()
    }

    /// Takes nothing more in, and waits until everything on its way has been taken, or given back.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        join_all(tasks.into_iter().map(Task::join)).await;
        self.leave_calls().await;
        self.deployment.close();
        if let Some(live) = self.deployment.peek() {
            live.pipeline.drain();
        }
    }

    /// Stops, finishes what is there, and frees its version. For a variant that is not wanted any more.
    pub(super) async fn retire(&self) {
        self.stop().await;
        for lane in Lane::ALL {
            self.deployment.variant.admission.idle(lane).await;
        }
        self.deployment.put(None);
    }

    fn is(&self, model: &Slug, variant: &Slug) -> bool {
        self.deployment.variant.model == *model && self.deployment.variant.name == *variant
    }
}

/// All variants of the worker. Clones are the same list.
#[derive(Debug, Clone)]
pub struct ServedVariants {
    list: Arc<RwLock<Vec<Arc<ServedVariant>>>>,
    unnamed: Arc<RwLock<Vec<Unnamed>>>,
    changes: watch::Sender<()>,
}

impl Default for ServedVariants {
    fn default() -> Self {
        Self { list: Arc::default(), unnamed: Arc::default(), changes: watch::Sender::new(()) }
    }
}

impl ServedVariants {
    /// The variants, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServedVariant>> {
        self.list.read().clone()
    }

    /// What is to be served, and has no name yet.
    #[must_use]
    pub fn unnamed(&self) -> Vec<Unnamed> {
        self.unnamed.read().clone()
    }

    pub(super) fn set_unnamed(&self, unnamed: Vec<Unnamed>) {
        *self.unnamed.write() = unnamed;
    }

    /// The versions that are loaded and live, with their deployments.
    #[must_use]
    pub fn live(&self) -> Vec<(Arc<Deployment>, Arc<ServedVersion>)> {
        let live = |one: Arc<ServedVariant>| Some((Arc::clone(&one.deployment), one.deployment.peek()?));
        self.all().into_iter().filter_map(live).collect()
    }

    /// One of them.
    #[must_use]
    pub fn find(&self, model: &Slug, variant: &Slug) -> Option<Arc<ServedVariant>> {
        self.all().into_iter().find(|one| one.is(model, variant))
    }

    /// Whether another variant of the model takes what names none, and every server knows it.
    pub(super) fn has_other_default(&self, model: &Slug, variant: &Slug) -> bool {
        let all = self.all();
        let mut others = all.iter().filter(|one| one.deployment.variant.model == *model && !one.is(model, variant));
        others.any(|one| one.is_settled_default())
    }

    /// Puts a variant at the end of the list.
    pub(super) fn add(&self, one: Arc<ServedVariant>) {
        self.list.write().push(one);
        self.touch();
    }

    pub(super) fn remove(&self, model: &Slug, variant: &Slug) {
        self.list.write().retain(|one| !one.is(model, variant));
        self.touch();
    }

    /// Something about one of them is different now.
    pub(super) fn touch(&self) {
        self.changes.send_replace(());
    }

    /// Hears of changes.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
