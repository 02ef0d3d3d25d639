//! The variants that a worker serves at this moment, each with its intake.

use std::sync::Arc;

use async_nats::SubscribeError;
use embed_schemas::{Lane, Slug};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    intake::{self, IntakeContext, JobIntake, RemovalIntake, ShadowIntake},
    metrics::EndpointStats,
    supervise::Task,
    variant::{Deployment, ServedVersion},
};

/// A variant and the ways by which its work comes in.
#[derive(Debug)]
pub struct ServedVariant {
    /// The variant, with its live version.
    pub deployment: Arc<Deployment>,
    /// One for each stored lane.
    pub jobs: Vec<Arc<JobIntake>>,
    /// Whether the worker is not ready without it.
    pub required: bool,
    /// Counted for the micro service.
    endpoints: Vec<Arc<EndpointStats>>,
    /// The way in for calls that name no variant, while it is the model's default.
    bare: Mutex<Option<Bare>>,
    stop: CancellationToken,
    tasks: Mutex<Vec<Task>>,
}

#[derive(Debug)]
struct Bare {
    stats: Arc<EndpointStats>,
    stop: CancellationToken,
    task: Task,
}

impl ServedVariant {
    /// Subscribes and starts to pull.
    ///
    /// # Errors
    /// If a subscription fails.
    pub(super) async fn start(
        deployment: Arc<Deployment>,
        required: bool,
        context: &IntakeContext,
    ) -> Result<Self, SubscribeError> {
        let stop = CancellationToken::new();
        let (mut tasks, mut jobs, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for endpoint in intake::subscribe(&deployment, context).await? {
            endpoints.push(Arc::clone(&endpoint.stats));
            tasks.push(context.supervisor.spawn("an intake of calls", endpoint.serve(stop.clone())));
        }
        let shadow = ShadowIntake::subscribe(&deployment, context).await?;
        tasks.push(context.supervisor.spawn("an intake of texts to compare", shadow.run(stop.clone())));
        let removals = RemovalIntake::subscribe(&deployment, context).await?;
        tasks.push(context.supervisor.spawn("an intake of removals", removals.run(stop.clone())));
        for lane in Lane::STORED {
            let intake = JobIntake::new(Arc::clone(&deployment), context.clone(), lane);
            jobs.push(Arc::clone(&intake));
            let exhausted = Arc::clone(&intake).bury_exhausted(stop.clone());
            tasks.push(context.supervisor.spawn("the watch of jobs that are delivered no more", exhausted));
            tasks.push(context.supervisor.spawn("an intake of jobs", intake.run(stop.clone())));
        }
        Ok(Self { deployment, jobs, required, endpoints, bare: Mutex::default(), stop, tasks: Mutex::new(tasks) })
    }

    /// Takes calls that name no variant, from now on.
    ///
    /// # Errors
    /// If the subscription fails.
    pub(super) async fn take_bare(&self, context: &IntakeContext) -> Result<(), SubscribeError> {
        if self.is_default() {
            return Ok(());
        }
        let endpoint = intake::subscribe_bare(&self.deployment, context).await?;
        // Nobody is told that this is the default before the server has heard of it.
        let _ = context.connections.online.client.flush().await;
        let (stats, stop) = (Arc::clone(&endpoint.stats), self.stop.child_token());
        let task = context.supervisor.spawn("an intake of calls", endpoint.serve(stop.clone()));
        *self.bare.lock() = Some(Bare { stats, stop, task });
        Ok(())
    }

    /// Takes none of them any more, and waits until those on their way have been taken.
    pub(super) async fn leave_bare(&self) {
        let bare = self.bare.lock().take();
        if let Some(Bare { stop, task, .. }) = bare {
            stop.cancel();
            task.join().await;
        }
    }

    /// Whether it answers on subjects that name no variant.
    pub fn is_default(&self) -> bool {
        self.bare.lock().is_some()
    }

    /// The ways in for calls.
    pub fn endpoints(&self) -> Vec<Arc<EndpointStats>> {
        let bare = self.bare.lock();
        self.endpoints.iter().chain(bare.as_ref().map(|bare| &bare.stats)).cloned().collect()
    }

    /// Takes nothing more in, and waits until everything on its way has been taken, or given back.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        join_all(tasks.into_iter().map(Task::join)).await;
        self.leave_bare().await;
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
    changes: watch::Sender<()>,
}

impl Default for ServedVariants {
    fn default() -> Self {
        Self { list: Arc::default(), changes: watch::Sender::new(()) }
    }
}

impl ServedVariants {
    /// The variants, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<ServedVariant>> {
        self.list.read().clone()
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

    /// Whether another variant of the model takes what names none.
    pub(super) fn has_other_default(&self, model: &Slug, variant: &Slug) -> bool {
        let all = self.all();
        let mut others = all.iter().filter(|one| one.deployment.variant.model == *model && !one.is(model, variant));
        others.any(|one| one.is_default())
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
