//! What is loaded at the moment, and how it stays within the memory budget.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use embed_engine::{
    engine::driver,
    model::{ResolvedModel, Weights},
    settings::EngineConfig,
};
use embed_schemas::Slug;
use parking_lot::Mutex;

use super::{
    ServedVariants,
    eviction::{Loaded, make_room},
};
use crate::variant::{Deployment, ServedVersion};

/// A version that was live before, kept for a rollback.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) version: Arc<ServedVersion>,
    pub(super) until: Instant,
}

type Key = (Slug, Slug);

/// The versions that are kept for rollbacks, and the budget for all that is loaded.
#[derive(Debug)]
pub(super) struct Memory {
    budget: Option<u64>,
    stay_loaded: Duration,
    engine: EngineConfig,
    standby: Mutex<HashMap<Key, Standby>>,
    /// Held while versions take each other's places.
    pub(super) swapping: Mutex<()>,
}

/// Whether there is room for a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is, or these make it.
    Yes,
    /// What could make room has not been loaded for long. From then on it may.
    Later(Instant),
    /// It will never fit.
    Never(String),
}

impl Memory {
    pub(super) fn new(budget: Option<ByteSize>, stay_loaded: Duration, engine: EngineConfig) -> Self {
        let budget = budget.map(|budget| budget.as_u64());
        Self { budget, stay_loaded, engine, standby: Mutex::default(), swapping: Mutex::default() }
    }

    /// Whether versions are loaded only when they are asked for.
    pub(super) const fn is_bounded(&self) -> bool {
        self.budget.is_some()
    }

    /// What a version is going to take, if the first provider of its chain can run it.
    pub(super) fn weights(&self, resolved: &ResolvedModel) -> Weights {
        let target = &resolved.chain[0];
        // Without a driver, nothing is loaded on devices.
        let devices = if target.provider.on_device() {
            driver::chosen(&self.engine.devices).map_or(0, |all| all.len())
        } else {
            0
        };
        Weights::of(resolved, target, devices, &self.engine)
    }

    /// Whether it fits beside these.
    pub(super) fn fits<'a>(&self, new: &ResolvedModel, loaded: impl IntoIterator<Item = &'a Weights>) -> bool {
        let Some(budget) = self.budget else { return true };
        let all: Vec<Weights> = loaded.into_iter().cloned().chain([self.weights(new)]).collect();
        Weights::total(&all) <= budget
    }

    /// Keeps a version for a rollback.
    pub(super) fn keep(&self, key: Key, version: Arc<ServedVersion>, until: Instant) {
        self.standby.lock().insert(key, Standby { version, until });
    }

    /// Takes the version that is kept for a rollback, if it is this one.
    pub(super) fn take_standby(&self, key: &Key, resolved: &ResolvedModel) -> Option<Arc<ServedVersion>> {
        let mut standby = self.standby.lock();
        standby.get(key).filter(|kept| kept.version.is(resolved))?;
        standby.remove(key).map(|kept| kept.version)
    }

    /// Until when a version is kept.
    pub(super) fn standby_until(&self, key: &Key) -> Option<Instant> {
        self.standby.lock().get(key).map(|kept| kept.until)
    }

    /// Drops the version that is kept. `true` if there was one.
    pub(super) fn drop_standby(&self, key: &Key) -> bool {
        let kept = self.standby.lock().remove(key);
        kept.is_some()
    }

    /// All versions that are kept: for the end.
    pub(super) fn close(&self) -> Vec<Arc<ServedVersion>> {
        self.standby.lock().drain().map(|(_, kept)| kept.version).collect()
    }

    /// Whether there is room for a version of this deployment, and which others would make it.
    pub(super) fn room(
        &self,
        now: Instant,
        resolved: &ResolvedModel,
        own: &Deployment,
        served: &ServedVariants,
        pinned: &[Key],
    ) -> (Room, Vec<Arc<Deployment>>) {
        let Some(budget) = self.budget else { return (Room::Yes, Vec::new()) };
        let new = self.weights(resolved);
        let live = served.live();
        let loaded = |stay: bool| -> Vec<Loaded<usize>> {
            let one = |(i, (deployment, version)): (usize, &(Arc<Deployment>, Arc<ServedVersion>))| Loaded {
                what: i,
                weights: version.report().weights.clone(),
                last_used: deployment.last_used(),
                pinned: std::ptr::eq(&**deployment, own)
                    || pinned.contains(&deployment.variant.key())
                    || (stay && now < version.loaded() + self.stay_loaded),
            };
            live.iter().enumerate().map(one).collect()
        };
        if let Some(out) = make_room(&loaded(true), &new, budget) {
            return (Room::Yes, out.into_iter().map(|i| Arc::clone(&live[i].0)).collect());
        }
        if make_room(&loaded(false), &new, budget).is_some() {
            let until = live.iter().map(|(_, version)| version.loaded() + self.stay_loaded);
            let first = until.filter(|until| *until > now).min().unwrap_or(now);
            return (Room::Later(first), Vec::new());
        }
        let (needed, budget) = (ByteSize(Weights::total([&new])), ByteSize(budget));
        let reason = format!(
            "its {needed} do not fit into models.memory_budget ({budget}) beside what must stay loaded; \
             raise the budget, or pin fewer variants"
        );
        (Room::Never(reason), Vec::new())
    }

    /// Whether what is kept for rollbacks has to go, so that this fits beside what is live.
    pub(super) fn drop_standbys_for(&self, resolved: &ResolvedModel, served: &ServedVariants) -> Vec<Key> {
        let mut standby = self.standby.lock();
        let live = served.live();
        let all = live.iter().map(|(_, version)| version).chain(standby.values().map(|kept| &kept.version));
        if self.fits(resolved, all.map(|version| &version.report().weights)) {
            return Vec::new();
        }
        standby.drain().map(|(key, _)| key).collect()
    }
}
