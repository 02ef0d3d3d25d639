//! The variants that a worker serves at this moment, each with its intake.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use async_nats::SubscribeError;
use embed_schemas::{Lane, Slug};
use futures::future::join_all;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Pipeline, Served};
use crate::{
    intake::{self, Puller},
    nats::Connections,
    publish::Publisher,
    telemetry::EndpointStats,
};

/// A variant and the ways by which its work comes in.
#[derive(Debug)]
pub struct Member {
    /// The variant.
    pub served: Arc<Served>,
    /// One for each stored lane.
    pub pullers: Vec<Arc<Puller>>,
    /// Whether the worker is not ready without it.
    pub required: bool,
    /// Counted for the micro service.
    endpoints: Vec<Arc<EndpointStats>>,
    /// The way in for calls that name no variant, while it is the model's default.
    bare: Mutex<Option<Bare>>,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Bare {
    stats: Arc<EndpointStats>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What a variant's intake needs.
#[derive(Debug)]
pub(super) struct Intake<'a> {
    pub(super) connections: &'a Connections,
    pub(super) worker: &'a str,
    pub(super) publisher: &'a Publisher,
}

impl Member {
    /// Subscribes and starts to pull.
    ///
    /// # Errors
    /// If a subscription fails.
    pub(super) async fn start(
        served: Arc<Served>,
        required: bool,
        intake: &Intake<'_>,
    ) -> Result<Self, SubscribeError> {
        let stop = CancellationToken::new();
        let (mut tasks, mut pullers, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        let client = &intake.connections.online.client;
        for endpoint in intake::subscribe(client, intake.worker, &served, intake.publisher).await? {
            endpoints.push(Arc::clone(&endpoint.stats));
            tasks.push(tokio::spawn(endpoint.serve(stop.clone())));
        }
        for lane in Lane::STORED {
            let puller = Puller::new(Arc::clone(&served), intake.publisher.clone(), lane);
            pullers.push(Arc::clone(&puller));
            let (stop, connected) = (stop.clone(), intake.connections.stored.connected.clone());
            tasks.push(tokio::spawn(async move { puller.run(stop, connected).await }));
        }
        Ok(Self { served, pullers, required, endpoints, bare: Mutex::default(), stop, tasks: Mutex::new(tasks) })
    }

    /// Takes calls that name no variant, from now on.
    ///
    /// # Errors
    /// If the subscription fails.
    pub(super) async fn take_bare(&self, intake: &Intake<'_>) -> Result<(), SubscribeError> {
        if self.is_default() {
            return Ok(());
        }
        let endpoint =
            intake::subscribe_bare(&intake.connections.online.client, &self.served, intake.publisher).await?;
        let (stats, stop) = (Arc::clone(&endpoint.stats), self.stop.child_token());
        let task = tokio::spawn(endpoint.serve(stop.clone()));
        *lock(&self.bare) = Some(Bare { stats, stop, task });
        Ok(())
    }

    /// Takes none of them any more, and waits until those on their way have been taken.
    pub(super) async fn leave_bare(&self) {
        let bare = lock(&self.bare).take();
        if let Some(Bare { stop, task, .. }) = bare {
            stop.cancel();
            // It ends with its subscription.
            let _ = task.await;
        }
    }

    /// Whether it answers on subjects that name no variant.
    pub fn is_default(&self) -> bool {
        lock(&self.bare).is_some()
    }

    /// The ways in for calls.
    pub fn endpoints(&self) -> Vec<Arc<EndpointStats>> {
        let bare = lock(&self.bare);
        self.endpoints.iter().chain(bare.as_ref().map(|bare| &bare.stats)).cloned().collect()
    }

    /// Takes nothing more in, and waits until everything on its way has been taken.
    pub async fn stop(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        join_all(tasks).await;
        self.leave_bare().await;
    }

    /// Waits until nothing is in it any more.
    pub async fn idle(&self) {
        if let Some(live) = self.served.peek() {
            live.drain();
        }
        for lane in Lane::ALL {
            self.served.variant.idle(lane).await;
        }
    }

    /// Tells the server that jobs are still being worked on, for ever.
    pub async fn report(&self) {
        join_all(self.pullers.iter().map(|puller| puller.report())).await;
    }

    /// Gives back the jobs that are still in the worker, and says how many they were.
    pub async fn give_back(&self) -> usize {
        join_all(self.pullers.iter().map(|puller| puller.give_back())).await.into_iter().sum()
    }

    /// Stops, finishes what is there within `deadline`, and gives back the rest. For a variant that is not wanted any more.
    pub(super) async fn retire(&self, deadline: Duration) {
        let finish = async {
            self.stop().await;
            self.idle().await;
        };
        let finished = tokio::select! {
            result = timeout(deadline, finish) => result.is_ok(),
            () = self.report() => unreachable!("it reports for ever"),
        };
        if !finished {
            self.give_back().await;
        }
        self.served.put(None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All variants of the worker. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Lineup(Arc<RwLock<Vec<Arc<Member>>>>);

impl Lineup {
    /// The variants, in the order in which they came.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The versions that are loaded and live.
    pub fn live(&self) -> Vec<Arc<Pipeline>> {
        self.members().iter().filter_map(|member| member.served.peek()).collect()
    }

    pub(super) fn find(&self, model: &Slug, variant: &Slug) -> Option<Arc<Member>> {
        self.members().into_iter().find(|one| one.is(model, variant))
    }

    /// Puts a variant at the end of the list.
    pub(super) fn add(&self, member: Arc<Member>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(member);
    }

    pub(super) fn remove(&self, model: &Slug, variant: &Slug) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|one| !one.is(model, variant));
    }
}

impl Member {
    fn is(&self, model: &Slug, variant: &Slug) -> bool {
        self.served.variant.model == *model && self.served.variant.name == *variant
    }
}
