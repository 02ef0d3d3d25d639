//! Brings one variant to what is wanted of it: resolves, loads, swaps, goes back. Each variant has a controller of its own, so that none
//! waits for another's registry, engine or rollback.
//!
//! A version is loaded, verified and warm before anything changes, and goes live at once and for all who come. Before it does, it is
//! looked up once more what is wanted: what was taken back meanwhile never goes live.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use embed_engine::model::{ResolveError, ResolvedModel, resolve};
use embed_schemas::{Slug, metrics as names};
use metrics::{counter, gauge};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep_until, timeout, timeout_at},
};

use super::{ServedVariant, VariantSpec, budget::Room, load::load_version, retries::Retries, shared::Shared};
use crate::{
    metrics::variant_labels,
    variant::{Deployment, ServedVersion, describe_wanted},
};

/// A variant that is not wanted any more waits so long for the one that is to take its place as the default; one that is wanted stays, and it is told.
const HAND_OVER: Duration = Duration::from_secs(60);
/// So often it is looked whether that has happened, if nobody says so.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The controller of one variant.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) shared: Arc<Shared>,
    pub(super) deployment: Arc<Deployment>,
    /// What is wanted of it. Closed when it is not wanted any more.
    pub(super) wanted: watch::Receiver<VariantSpec>,
    /// Counts requests to look at the registry now.
    pub(super) refreshes: watch::Receiver<u64>,
    pub(super) retries: Retries,
    /// When a better provider is tried.
    pub(super) upgrades: Retries,
    /// Whether a version of it was ever live here.
    pub(super) was_live: bool,
}

/// How an attempt ended.
enum Ended {
    /// Done, or to be tried again later.
    Settled,
    /// Something else is wanted now.
    Superseded,
}

impl Controller {
    fn key(&self) -> (Slug, Slug) {
        self.deployment.variant.key()
    }

    /// Follows what is wanted, until the variant is not wanted any more; then it is retired.
    pub(super) async fn run(mut self) {
        let mut poll = interval(self.shared.config.models.refresh);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        poll.tick().await;
        self.refreshes.mark_unchanged();
        // Somebody wants it now, so what failed is tried again at once.
        let mut asked = false;
        let mut told_at = None;
        loop {
            let spec = self.wanted.borrow_and_update().clone();
            if let Ended::Superseded = self.follow(&spec, asked).await {
                asked = true;
                continue;
            }
            self.take_in(&spec).await;
            let due = self.due();
            let (mut wanted, mut refreshes) = (self.wanted.clone(), self.refreshes.clone());
            asked = tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return self.retire().await,
                },
                changed = refreshes.changed() => {
                    self.refreshes.mark_unchanged();
                    changed.is_ok()
                }
                _ = poll.tick() => false,
                () = self.deployment.demanded() => false,
                () = sleep_until(due.into()) => {
                    self.drop_expired_standby();
                    false
                }
                () = self.hand_over(&spec, &mut told_at) => false,
            };
        }
    }

    /// When something kept has to go, or something failed is to be tried again.
    fn due(&self) -> Instant {
        let far = Instant::now() + self.shared.config.models.refresh;
        let standby = self.shared.memory.standby_until(&self.key());
        [self.retries.due(), self.upgrades.due(), standby].into_iter().flatten().fold(far, Instant::min)
    }

    /// Resolves what is wanted, and brings it about.
    async fn follow(&mut self, spec: &VariantSpec, asked: bool) -> Ended {
        let mut wanted = self.wanted.clone();
        let resolved = tokio::select! {
            resolved = self.resolve(spec) => resolved,
            // A registry that does not answer must not hold up a rollback.
            changed = wanted.changed() => {
                return if changed.is_ok() { Ended::Superseded } else { Ended::Settled };
            }
        };
        match resolved {
            Ok(resolved) => {
                let described = describe_wanted(&spec.config.version, &resolved.metadata.version);
                self.deployment.note(described, spec.default);
                self.bring(spec, resolved, asked).await
            }
            Err(error) => {
                self.deployment.note(spec.config.version.clone(), spec.default);
                let (model, variant) = self.key();
                let version = &spec.config.version;
                tracing::warn!(%model, %variant, version, %error, "the wanted version cannot be found out; what is live stays");
                self.retries.failed(Instant::now(), (version.clone(), String::new()));
                self.deployment.failed(version, error.to_string());
                Ended::Settled
            }
        }
    }

    async fn resolve(&self, spec: &VariantSpec) -> Result<ResolvedModel, ResolveError> {
        resolve(self.shared.loader.source(), &spec.config.spec(), &self.shared.config.engine).await
    }

    /// Makes the resolved version live, if it is not.
    async fn bring(&mut self, spec: &VariantSpec, resolved: ResolvedModel, asked: bool) -> Ended {
        let live = self.deployment.peek();
        if let Some(live) = &live
            && live.is(&resolved)
        {
            // Whatever failed is not wanted any more.
            self.deployment.forget_failure();
            self.retries.forget();
            return self.upgrade(spec, resolved, live, asked).await;
        }
        self.upgrades.forget();
        if let Some(kept) = self.shared.memory.take_standby(&self.key(), &resolved) {
            let version = &resolved.metadata.version;
            tracing::info!(model = %resolved.model, variant = %resolved.variant, version, "back to the version before, which was kept");
            self.go_live(kept);
            return Ended::Settled;
        }
        let too_early = !asked && self.retries.too_early(Instant::now(), &resolved.identity());
        // What the configuration names, and what has never been live since it failed, is tried until it is: the worker is not ready before.
        let is_owed = spec.required && !self.was_live && self.deployment.status().failed.is_some();
        let on_demand = live.is_none() && self.shared.memory.is_bounded() && !spec.config.pinned && !is_owed;
        if on_demand && !self.deployment.is_asked_for() {
            // With a budget, only what is asked for is loaded. What failed may be asked for again, and nothing is due until then.
            if !too_early {
                self.deployment.forget_failure();
                self.retries.forget();
            }
            return Ended::Settled;
        }
        if too_early {
            return Ended::Settled;
        }
        self.load(spec, resolved).await
    }

    /// Loads a version and makes it live. If that fails, what was live stays, and the reason is told.
    async fn load(&mut self, spec: &VariantSpec, resolved: ResolvedModel) -> Ended {
        loop {
            match self.room(&resolved).0 {
                Room::Yes => break,
                Room::Never(reason) => {
                    self.failed(resolved.identity(), reason);
                    return Ended::Settled;
                }
                Room::Later(when) => tokio::select! {
                    () = sleep_until(when.into()) => {}
                    changed = self.wanted.changed() => {
                        return if changed.is_ok() { Ended::Superseded } else { Ended::Settled };
                    }
                },
            }
        }
        self.deployment.loading();
        let shared = Arc::clone(&self.shared);
        let variant = Arc::clone(&self.deployment.variant);
        let loading = load_version(&shared.config, &shared.loader, &shared.supervisor, &variant, &resolved, true);
        tokio::pin!(loading);
        // Whether something else was wanted of it meanwhile, such as to be the default, if only of the same version.
        let mut ended = Ended::Settled;
        let result = loop {
            tokio::select! {
                result = &mut loading => break result,
                _ = self.wanted.changed() => ended = Ended::Superseded,
                // Nobody can ask any more only while the worker ends.
                _ = self.refreshes.changed() => {}
            }
            // The registry may take its time to answer, and loading goes on meanwhile.
            tokio::select! {
                result = &mut loading => break result,
                means = self.still_means(&resolved) => if !means {
                    return self.abandon(&resolved);
                }
            }
        };
        let version = match result {
            Ok(version) => version,
            Err(error) => {
                self.failed(resolved.identity(), error.to_string());
                return ended;
            }
        };
        if !self.still_means(&resolved).await {
            return self.abandon(&resolved);
        }
        if let Err(reason) = self.no_lesser_provider(spec, &version).await {
            self.failed(resolved.identity(), reason);
            return ended;
        }
        // Whoever hears that it is live finds it: calls of this moment wait for it. What does not go live opens nothing.
        self.take_in(spec).await;
        self.make_room(&resolved);
        self.go_live(version);
        ended
    }

    /// Whether this is still what is wanted. If that cannot be found out, it is.
    async fn still_means(&self, resolved: &ResolvedModel) -> bool {
        if self.wanted.has_changed().is_err() {
            // Nothing is wanted of the variant any more.
            return false;
        }
        let spec = self.wanted.borrow().clone();
        match self.resolve(&spec).await {
            Ok(now) => now.identity() == resolved.identity() && now.metadata.tokenizer == resolved.metadata.tokenizer,
            Err(_) => true,
        }
    }

    fn abandon(&mut self, resolved: &ResolvedModel) -> Ended {
        let version = &resolved.metadata.version;
        tracing::info!(model = %resolved.model, variant = %resolved.variant, version, "not wanted any more: it does not go live");
        self.count("abandoned");
        Ended::Superseded
    }

    /// A version does not take the place of one that runs on a better provider, unless that provider is gone.
    async fn no_lesser_provider(&self, spec: &VariantSpec, version: &ServedVersion) -> Result<(), String> {
        let Some(live) = self.deployment.peek() else { return Ok(()) };
        let engine = &self.shared.config.engine;
        if spec.config.measures(engine) {
            // None is the lesser one: the fastest was taken.
            return Ok(());
        }
        let chain = spec.config.chain(engine);
        let place = |one: &ServedVersion| chain.iter().position(|provider| *provider == one.report().provider);
        let (Some(now), Some(then)) = (place(&live), place(version)) else { return Ok(()) };
        if then <= now {
            return Ok(());
        }
        let (better, lesser) = (live.report().provider, version.report().provider);
        match self.shared.loader.probe(better).await {
            Err(gone) => {
                tracing::error!(%better, %lesser, %gone, "the provider of the version before is gone; another takes its place");
                Ok(())
            }
            Ok(()) => {
                let reasons = version.report().skipped.iter().map(|one| format!("{}: {}", one.provider, one.reason));
                let reasons: Vec<_> = reasons.collect();
                Err(format!(
                    "it would run on {lesser} only, while the version before runs on {better} ({})",
                    reasons.join("; ")
                ))
            }
        }
    }

    /// Tries a live version on a better provider than it has, where one could not be used.
    async fn upgrade(
        &mut self,
        spec: &VariantSpec,
        mut resolved: ResolvedModel,
        live: &Arc<ServedVersion>,
        asked: bool,
    ) -> Ended {
        let report = live.report();
        let better: Vec<_> = resolved.chain.iter().take_while(|one| one.provider != report.provider).cloned().collect();
        let what = resolved.identity();
        if better.is_empty() || resolved.measures || (!asked && self.upgrades.too_early(Instant::now(), &what)) {
            return Ended::Settled;
        }
        if self.upgrades.due().is_none() && !asked {
            // It has just been tried.
            self.upgrades.failed(Instant::now(), what);
            return Ended::Settled;
        }
        resolved.chain = better;
        let shared = Arc::clone(&self.shared);
        let variant = Arc::clone(&self.deployment.variant);
        let loaded = load_version(&shared.config, &shared.loader, &shared.supervisor, &variant, &resolved, true).await;
        match loaded {
            Ok(version) => {
                let full = self.resolve(spec).await;
                if full.is_ok_and(|full| full.identity() == what) && !self.wanted.has_changed().unwrap_or(true) {
                    tracing::info!(model = %resolved.model, variant = %resolved.variant, provider = %version.report().provider, "back on a better provider");
                    self.upgrades.forget();
                    self.go_live(version);
                }
            }
            Err(error) => {
                tracing::warn!(model = %resolved.model, variant = %resolved.variant, %error, "a better provider still cannot be used");
                self.upgrades.failed(Instant::now(), what);
            }
        }
        Ended::Settled
    }

    /// Puts a version in its place. The one before is kept for a while, and goes when nobody uses it any more.
    pub(super) fn go_live(&mut self, version: Arc<ServedVersion>) {
        let (key, keep) = (self.key(), self.shared.config.models.keep_previous);
        let name = version.metadata().version.clone();
        info(&key, &version, 1.0);
        self.deployment.variant.resize(version.pipeline.engines(), version.pipeline.call_engines());
        let before = self.deployment.put(Some(version));
        self.was_live = true;
        self.deployment.forget_failure();
        self.retries.forget();
        self.count("live");
        self.shared.served.touch();
        let Some(before) = before else { return };
        info(&key, &before, 0.0);
        let previous = before.metadata().version.clone();
        let (model, variant) = &key;
        tracing::info!(%model, %variant, version = name, previous, "another version is live");
        if keep.is_zero() || previous == name {
            return;
        }
        self.deployment.note_previous(Some(previous));
        self.shared.memory.keep(key, before, Instant::now() + keep);
    }

    /// The version that was to go live does not; what is live stays.
    /// `what`: its identity, see [`ResolvedModel::identity`].
    pub(super) fn failed(&mut self, what: (String, String), reason: String) {
        let ((model, variant), version) = (self.key(), what.0.clone());
        tracing::error!(%model, %variant, version, reason, "a version does not go live");
        self.count("failed");
        self.retries.failed(Instant::now(), what);
        self.deployment.failed(&version, reason);
    }

    fn count(&self, outcome: &'static str) {
        let [model, variant] = variant_labels(&self.deployment.variant.model, &self.deployment.variant.name);
        counter!(names::MODEL_SWAPS_TOTAL, &[model, variant, (names::OUTCOME, outcome.to_owned())]).increment(1);
    }

    fn room(&self, resolved: &ResolvedModel) -> (Room, Vec<Arc<Deployment>>) {
        let Shared { memory, served, .. } = &*self.shared;
        memory.room(Instant::now(), resolved, &self.deployment, served, &self.shared.pinned())
    }

    /// Makes room within the budget, now that there is something to take it: first what is kept for rollbacks, then the least recently used.
    fn make_room(&self, resolved: &ResolvedModel) {
        let Shared { memory, served, .. } = &*self.shared;
        if !memory.is_bounded() {
            return;
        }
        let _swapping = memory.swapping.lock();
        for (model, variant) in memory.drop_standbys_for(resolved, served) {
            if let Some(one) = served.find(&model, &variant) {
                one.deployment.note_previous(None);
            }
        }
        for other in self.room(resolved).1 {
            let (model, variant) = other.variant.key();
            tracing::info!(%model, %variant, "unloaded to make room; it is loaded again when it is asked for");
            if let Some(before) = other.put(None) {
                info(&(model, variant), &before, 0.0);
            }
        }
    }

    fn drop_expired_standby(&self) {
        let key = self.key();
        if self.shared.memory.standby_until(&key).is_some_and(|until| until <= Instant::now())
            && self.shared.memory.drop_standby(&key)
        {
            self.deployment.note_previous(None);
        }
    }

    /// Begins to take work in, if it does not already, and what names no variant as well if it is the default. Calls that nothing here could
    /// answer are left to others.
    async fn take_in(&self, spec: &VariantSpec) {
        if let Err(error) = self.try_take_in(spec).await {
            tracing::error!(model = %spec.model, variant = %spec.variant, %error, "its work cannot be taken in");
        }
    }

    async fn try_take_in(&self, spec: &VariantSpec) -> Result<(), async_nats::SubscribeError> {
        let Shared { served, intake, .. } = &*self.shared;
        let one = match served.find(&spec.model, &spec.variant) {
            Some(one) => one,
            None => {
                let one = ServedVariant::start(Arc::clone(&self.deployment), spec.required, intake).await?;
                let one = Arc::new(one);
                served.add(Arc::clone(&one));
                one
            }
        };
        one.take_calls(spec.default, intake).await?;
        served.touch();
        Ok(())
    }

    /// Leaves what names no variant to the default, once that takes it, however long it takes: no call is left without somebody to take it. Never ends
    /// for a variant that has nothing to leave. `told_at`: when it is told next that it still has not; whoever looks again keeps it.
    async fn hand_over(&self, spec: &VariantSpec, told_at: &mut Option<Instant>) {
        let (model, variant) = self.key();
        let Some(one) = self.shared.served.find(&model, &variant).filter(|one| !spec.default && one.is_default())
        else {
            *told_at = None;
            return std::future::pending().await;
        };
        loop {
            let at = *told_at.get_or_insert_with(|| Instant::now() + HAND_OVER);
            if timeout_at(at.into(), self.other_default(&model, &variant)).await.is_ok() {
                break;
            }
            tracing::warn!(%model, %variant, "the variant that is to be the default does not take calls yet; this one goes on");
            *told_at = None;
        }
        one.leave_bare().await;
    }

    /// Waits until another variant takes what names none, if one is to.
    async fn other_default(&self, model: &Slug, variant: &Slug) {
        let Shared { served, .. } = &*self.shared;
        let mut changes = served.changes();
        while self.shared.is_other_default_wanted(model, variant) && !served.has_other_default(model, variant) {
            let _ = timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }

    /// It is not wanted any more.
    async fn retire(self) {
        let (model, variant) = self.key();
        tracing::info!(%model, %variant, "not wanted any more: finishing what it has");
        if timeout(HAND_OVER, self.other_default(&model, &variant)).await.is_err() {
            tracing::warn!(%model, %variant, "the variant that is to be the default does not take calls yet; this one ends");
        }
        let one = self.shared.served.find(&model, &variant);
        self.shared.served.remove(&model, &variant);
        self.shared.memory.drop_standby(&(model, variant));
        if let Some(one) = one {
            one.retire().await;
        }
    }
}

/// Says which version of a variant is live.
pub fn set_info(deployment: &Deployment, version: &ServedVersion) {
    info(&deployment.variant.key(), version, 1.0);
}

fn info(key: &(Slug, Slug), version: &ServedVersion, value: f64) {
    let [model, variant] = variant_labels(&key.0, &key.1);
    let all = [
        model,
        variant,
        (names::VERSION, version.metadata().version.clone()),
        (names::PRECISION, version.report().artefact.precision.to_string()),
        (names::PROVIDER, version.report().provider.to_string()),
    ];
    gauge!(names::MODEL_INFO, &all).set(value);
}
