//! Brings what is served to what is wanted: at start, when the registry's pointers move, when the bucket `embed_models`
//! changes, and when somebody asks for a variant that is not loaded.

use std::{collections::HashMap, sync::Arc, time::Instant};

use embed_schemas::Slug;
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep_until},
};

use super::{
    Lineup, Loader, Member, Pipeline, Served, Variant,
    lineup::Intake,
    swap::{Attempts, Kept},
    version::describe_wanted,
    wanted::{Bucket, Wanted, overlay},
    watch::Watch,
};
use crate::{
    app::RunError,
    config::{Config, VariantConfig},
    job::Job,
    model::{Selected, resolve},
    nats::Connections,
    publish::Publisher,
};

/// What the manager works with.
#[derive(Debug)]
pub struct ManagerParts {
    /// The worker's configuration.
    pub config: Config,
    /// What is served, as soon as it is.
    pub lineup: Lineup,
    /// Where versions come from.
    pub loader: Loader,
    /// The worker's id.
    pub worker_id: String,
    /// To the server.
    pub connections: Connections,
    /// Sends outcomes.
    pub publisher: Publisher,
    /// Where finished jobs go.
    pub finished: mpsc::UnboundedSender<Arc<Job>>,
    /// Hears of the death of an engine thread.
    pub panics: mpsc::UnboundedSender<String>,
}

/// Decides which versions are live.
#[derive(Debug)]
pub struct Manager {
    pub(super) parts: ManagerParts,
    pub(super) lineup: Lineup,
    demand: Arc<Notify>,
    base: Vec<Wanted>,
    bucket: Bucket,
    /// Versions that were live before, kept for a rollback.
    pub(super) kept: HashMap<(Slug, Slug), Kept>,
    pub(super) attempts: Attempts,
    watch: Watch,
}

impl Manager {
    /// Loads what was selected, and begins to take work in. With a memory budget, what does not fit is loaded when it is
    /// asked for.
    ///
    /// # Errors
    /// If a version cannot be loaded, and neither can the one before it.
    pub async fn start(parts: ManagerParts, selected: Vec<Selected>) -> Result<Self, RunError> {
        let watch = Watch::start(&parts.connections.online.client).await?;
        let mut manager = Self {
            lineup: parts.lineup.clone(),
            parts,
            demand: Arc::default(),
            base: Vec::new(),
            bucket: Bucket::new(),
            kept: HashMap::new(),
            attempts: Attempts::default(),
            watch,
        };
        let mut ready: Vec<(Arc<Served>, Wanted)> = Vec::new();
        for one in selected {
            let wanted = manager.wanted(&one);
            let served = manager.served(&wanted);
            let loaded: Vec<_> = ready.iter().filter_map(|(served, _)| served.peek()).collect();
            manager.start_version(&served, &wanted, one, &loaded).await?;
            manager.base.push(wanted.clone());
            ready.push((served, wanted));
        }
        for (served, wanted) in ready {
            manager.admit(served, &wanted).await?;
        }
        Ok(manager)
    }

    /// What is served.
    pub const fn lineup(&self) -> &Lineup {
        &self.lineup
    }

    /// Ends: gives out every version that is loaded, so that its threads can be waited for.
    pub fn close(self) -> Vec<Arc<Pipeline>> {
        let live = self.lineup.members().into_iter().filter_map(|member| member.served.put(None));
        live.chain(self.kept.into_values().map(Kept::into_pipeline)).collect()
    }

    /// The configuration of a selected variant, with its name fixed: another version may have another first precision.
    fn wanted(&self, selected: &Selected) -> Wanted {
        let config = VariantConfig { name: Some(selected.variant.to_string()), ..selected.config.clone() };
        Wanted {
            model: selected.model.clone(),
            variant: selected.variant.clone(),
            config,
            default: selected.is_default,
            required: true,
        }
    }

    fn served(&self, wanted: &Wanted) -> Arc<Served> {
        let config = &self.parts.config;
        let first = wanted.config.chain(&config.engine).first();
        let limits = wanted.config.limits.over(&config.limits).resolved(first.is_some_and(|one| one.on_device()));
        let prefix = format!("{}-{}", self.parts.worker_id, wanted.variant);
        let (model, name) = (wanted.model.clone(), wanted.variant.clone());
        let variant = Variant::new(model, name, &limits, prefix);
        let served = Arc::new(Served::new(Arc::new(variant), Arc::clone(&self.demand)));
        served.note(wanted.config.version.clone(), wanted.default);
        served
    }

    /// The variants that stay loaded.
    pub(super) fn pinned(&self) -> Vec<(Slug, Slug)> {
        let pinned = overlay(&self.base, &self.bucket).into_iter().filter(|one| one.config.pinned);
        pinned.map(|one| (one.model, one.variant)).collect()
    }

    /// Begins to take work in for a variant, if it does not already, and what names no variant as well if it is the default.
    async fn admit(&self, served: Arc<Served>, wanted: &Wanted) -> Result<(), RunError> {
        let ManagerParts { connections, worker_id, publisher, .. } = &self.parts;
        let intake = Intake { connections, worker: worker_id, publisher };
        let member = match self.lineup.find(&wanted.model, &wanted.variant) {
            Some(member) => member,
            None => {
                let member = Arc::new(Member::start(served, wanted.required, &intake).await?);
                self.lineup.add(Arc::clone(&member));
                member
            }
        };
        if wanted.default {
            member.take_bare(&intake).await?;
        }
        Ok(())
    }

    /// Follows what is wanted, for ever.
    pub async fn run(&mut self) {
        let mut poll = interval(self.parts.config.models.refresh);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        poll.tick().await;
        loop {
            let due = self.next_due();
            let demand = Arc::clone(&self.demand);
            tokio::select! {
                () = demand.notified() => self.load_asked().await,
                changed = self.watch.bucket.changed() => {
                    if changed.is_err() {
                        // Only while the runtime ends.
                        return std::future::pending().await;
                    }
                    self.bucket = self.watch.bucket.borrow_and_update().clone();
                    self.reconcile(true).await;
                }
                Some(()) = self.watch.refresh.recv() => self.reconcile(true).await,
                _ = poll.tick() => self.reconcile(false).await,
                () = sleep_until(due.into()) => {
                    self.drop_expired();
                    self.reconcile(false).await;
                }
            }
        }
    }

    /// When something kept has to go, or something failed is to be tried again.
    fn next_due(&self) -> Instant {
        let far = Instant::now() + self.parts.config.models.refresh;
        let kept = self.kept.values().map(|kept| kept.until);
        kept.chain(self.attempts.next_due()).fold(far, Instant::min)
    }

    /// Compares what is served with what is wanted, and mends the difference. `asked`: somebody wants it now, so what
    /// failed is tried again at once.
    async fn reconcile(&mut self, asked: bool) {
        let wanted = overlay(&self.base, &self.bucket);
        for one in &wanted {
            self.follow(one, asked).await;
        }
        // Only now: whoever is the default instead answers already, and no call is left without somebody to take it.
        for member in self.lineup.members() {
            let Variant { model, name, .. } = &*member.served.variant;
            let still = wanted.iter().find(|one| one.model == *model && one.variant == *name);
            if still.is_some_and(|one| !one.default) {
                member.leave_bare().await;
            }
            if still.is_none() {
                tracing::info!(%model, variant = %name, "not wanted any more: finishing what it has");
                self.lineup.remove(model, name);
                let key = (model.clone(), name.clone());
                self.kept.remove(&key);
                // Or it would be due to be tried again for ever, and never be.
                self.attempts.forget(&key);
                let deadline = self.parts.config.worker.drain_timeout;
                tokio::spawn(async move { member.retire(deadline).await });
            }
        }
    }

    async fn follow(&mut self, wanted: &Wanted, asked: bool) {
        let member = self.lineup.find(&wanted.model, &wanted.variant);
        let served = match &member {
            Some(member) => Arc::clone(&member.served),
            None => self.served(wanted),
        };
        let selected = resolve(self.parts.loader.source(), &wanted.config, &self.parts.config.engine).await;
        match selected {
            Ok(selected) => {
                let described = describe_wanted(&wanted.config.version, &selected.metadata.version);
                served.note(described, wanted.default);
                self.bring(&served, wanted, selected, asked).await;
            }
            Err(error) => {
                served.note(wanted.config.version.clone(), wanted.default);
                self.resolve_failed(&served, &wanted.config.version, &error);
            }
        }
        if let Err(error) = self.admit(served, wanted).await {
            tracing::error!(model = %wanted.model, variant = %wanted.variant, %error, "its work cannot be taken in");
        }
    }

    /// Loads the variants that somebody has asked for.
    async fn load_asked(&mut self) {
        let wanted = overlay(&self.base, &self.bucket);
        for member in self.lineup.members() {
            let variant = &member.served.variant;
            if !member.served.take_asked() || member.served.peek().is_some() {
                continue;
            }
            let Some(one) = wanted.iter().find(|one| one.model == variant.model && one.variant == variant.name) else {
                continue;
            };
            match resolve(self.parts.loader.source(), &one.config, &self.parts.config.engine).await {
                Ok(selected) => self.load(&member.served, selected, false).await,
                Err(error) => self.resolve_failed(&member.served, &one.config.version, &error),
            }
        }
    }
}
