//! Knows which variants are wanted: those of the configuration, and over them the bucket `embed_models`. Each has a controller.

use std::{collections::HashMap, sync::Arc, time::Instant};

use embed_engine::model::{Loader, ResolveError, ResolvedModel, previous_of_current, resolve};
use embed_engine::settings::CURRENT;
use embed_schemas::Slug;
use parking_lot::RwLock;
use tokio::{
    sync::{Notify, watch},
    time::sleep_until,
};

use super::{
    Selected, Selection, ServedVariant, ServedVariants, Unnamed, VariantSpec,
    budget::Memory,
    controller::Controller,
    desired::{Bucket, overlay},
    load::{StartError, load_version},
    retries::Retries,
    select::name,
    shared::Shared,
    watch::Watch,
};
use crate::{
    config::Config,
    intake::IntakeContext,
    supervise::{Supervisor, Task},
    variant::{Deployment, ServedVersion, Variant},
};

/// What serving works with.
#[derive(Debug)]
pub struct ServingContext {
    /// The worker's configuration.
    pub config: Config,
    /// What is served, as soon as it is.
    pub served: ServedVariants,
    /// Where versions come from.
    pub loader: Loader,
    /// What intakes share.
    pub intake: IntakeContext,
    /// Starts tasks.
    pub supervisor: Supervisor,
    /// An operator asks to look at the registry.
    pub reload: Arc<Notify>,
}

/// Starts and ends controllers.
#[derive(Debug)]
pub struct Reconciler {
    shared: Arc<Shared>,
    base: Vec<VariantSpec>,
    /// What the base lacks until its name is known.
    unnamed: Vec<Unnamed>,
    bucket: Bucket,
    controllers: HashMap<(Slug, Slug), (Task, watch::Sender<VariantSpec>)>,
    refreshes: watch::Sender<u64>,
    watch: Watch,
}

/// A variant cannot be served from the start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A version cannot go live, nor can the one before it.
    #[error("{model} {variant}: {source}")]
    Start {
        /// The model.
        model: Slug,
        /// The variant.
        variant: Slug,
        /// Why.
        source: Box<StartError>,
    },
    /// A subscription failed.
    #[error("subscribing: {0}")]
    Subscribe(#[from] async_nats::SubscribeError),
}

impl Reconciler {
    /// Loads what was selected, and begins to take work in. With a memory budget, what does not fit is loaded when it is
    /// asked for. What cannot be loaded, nor the version before it, is left to other workers and tried again later; the others are served.
    ///
    /// # Errors
    /// If nothing can be served.
    pub async fn start(context: ServingContext, selection: Selection) -> Result<Self, ServeError> {
        let Selection { variants: selected, unnamed } = selection;
        let ServingContext { config, served, loader, intake, supervisor, reload } = context;
        let watch = Watch::start(&intake.connections.online.client, reload, &supervisor).await?;
        let models = &config.models;
        let memory = Memory::new(models.memory_budget, models.stay_loaded, config.engine.clone());
        let base: Vec<VariantSpec> = selected.iter().map(|one| one.spec.clone()).collect();
        let shared = Arc::new(Shared { config, served, loader, intake, supervisor, memory, wanted: RwLock::new(base) });
        let mut this = Self {
            shared,
            base: Vec::new(),
            unnamed: Vec::new(),
            bucket: Bucket::new(),
            controllers: HashMap::new(),
            refreshes: watch::Sender::new(0),
            watch,
        };
        let mut ready: Vec<(VariantSpec, Arc<Deployment>, Controller, watch::Sender<VariantSpec>)> = Vec::new();
        let (mut served, mut failed) = (false, None);
        for Selected { mut spec, resolved } in selected {
            let (mut controller, sender) = this.controller(&spec);
            let loaded: Vec<_> = ready.iter().filter_map(|(_, deployment, ..)| deployment.peek()).collect();
            match this.first_version(&mut controller, &spec, resolved, &loaded).await {
                Ok(()) => (served, spec.required) = (true, true),
                // Whatever else is in a registry, the worker is ready with what the configuration names.
                Err(error) => failed = failed.or(Some(error)),
            }
            sender.send_replace(spec.clone());
            ready.push((spec, Arc::clone(&controller.deployment), controller, sender));
        }
        if let (false, Some(error)) = (served, failed) {
            return Err(error);
        }
        this.base = ready.iter().map(|(spec, ..)| spec.clone()).collect();
        this.shared.wanted.write().clone_from(&this.base);
        for (spec, deployment, controller, sender) in ready {
            let one = Arc::new(ServedVariant::start(deployment, spec.required, &this.shared.intake).await?);
            this.shared.served.add(Arc::clone(&one));
            one.take_calls(spec.default, &this.shared.intake).await?;
            let task = this.shared.supervisor.spawn("the controller of a variant", controller.run());
            this.controllers.insert(spec.key(), (task, sender));
        }
        for one in &unnamed {
            tracing::error!("{one}; it is tried again");
        }
        this.set_unnamed(unnamed);
        Ok(this)
    }

    fn set_unnamed(&mut self, unnamed: Vec<Unnamed>) {
        self.shared.served.set_unnamed(unnamed.clone());
        self.unnamed = unnamed;
    }

    fn controller(&self, spec: &VariantSpec) -> (Controller, watch::Sender<VariantSpec>) {
        let config = &self.shared.config;
        let first = spec.config.chain(&config.engine).first();
        let limits = spec.config.limits.over(&config.limits).resolved(first.is_some_and(|one| one.on_device()));
        let variant =
            Variant::new(spec.model.clone(), spec.variant.clone(), &limits, self.shared.intake.tracer.clone());
        let deployment = Arc::new(Deployment::new(Arc::new(variant)));
        deployment.note(spec.config.version.clone(), spec.default);
        let (sender, wanted) = watch::channel(spec.clone());
        let controller = Controller {
            shared: Arc::clone(&self.shared),
            deployment,
            wanted,
            refreshes: self.refreshes.subscribe(),
            retries: Retries::default(),
            upgrades: Retries::default(),
            was_live: false,
        };
        (controller, sender)
    }

    /// Loads a variant's first version, before anything is served. If the current one cannot be loaded, the one before it
    /// is served: a bad version must not take down a worker that happens to start.
    async fn first_version(
        &self,
        controller: &mut Controller,
        spec: &VariantSpec,
        resolved: Result<ResolvedModel, ResolveError>,
        loaded: &[Arc<ServedVersion>],
    ) -> Result<(), ServeError> {
        let Shared { config, loader, supervisor, memory, .. } = &*self.shared;
        let variant = Arc::clone(&controller.deployment.variant);
        let (error, what) = match resolved {
            Ok(resolved) => {
                if !spec.config.pinned && !memory.fits(&resolved, loaded.iter().map(|one| &one.report().weights)) {
                    tracing::info!(model = %spec.model, variant = %spec.variant, "does not fit into models.memory_budget: loaded when it is asked for");
                    return Ok(());
                }
                match load_version(config, loader, supervisor, &variant, &resolved, false).await {
                    Ok(version) => {
                        controller.go_live(version);
                        return Ok(());
                    }
                    Err(error) => (error, resolved.identity()),
                }
            }
            Err(error) => (StartError::from(error), (spec.config.version.clone(), String::new())),
        };
        let before = if spec.config.version == CURRENT {
            previous_of_current(loader.source(), &spec.config.spec(), &config.engine).await
        } else {
            None
        };
        if let Some(before) = before {
            tracing::error!(
                model = %spec.model, variant = %spec.variant, %error, version = what.0,
                instead = before.metadata.version, "the current version cannot be served; trying the one before it"
            );
            // The first error is the one that matters.
            if let Ok(version) = load_version(config, loader, supervisor, &variant, &before, false).await {
                controller.go_live(version);
                controller.failed(what, error.to_string());
                return Ok(());
            }
        }
        controller.failed(what, error.to_string());
        let (model, variant) = spec.key();
        Err(ServeError::Start { model, variant, source: Box::new(error) })
    }

    /// Follows what is wanted, for ever.
    pub async fn run(&mut self) -> std::convert::Infallible {
        // However often something else changes meanwhile.
        let refresh = self.shared.config.models.refresh;
        let mut look_at = Instant::now() + refresh;
        loop {
            tokio::select! {
                changed = self.watch.bucket.changed() => {
                    if changed.is_err() {
                        // Only while the worker ends.
                        return std::future::pending().await;
                    }
                    self.bucket = self.watch.bucket.borrow_and_update().clone();
                    self.reconcile();
                }
                Some(()) = self.watch.refresh.recv() => {
                    self.refreshes.send_modify(|count| *count += 1);
                    look_at = Instant::now();
                }
                names = names(&self.shared, &self.unnamed, look_at), if !self.unnamed.is_empty() => {
                    look_at = Instant::now() + refresh;
                    self.name(names);
                }
            }
        }
    }

    /// From now on these are served whose names are known.
    fn name(&mut self, names: Vec<Option<Slug>>) {
        let mut unnamed = Vec::new();
        for (one, name) in std::mem::take(&mut self.unnamed).into_iter().zip(names) {
            match name {
                Some(name) if self.base.iter().any(|other| other.model == one.model && other.variant == name) => {
                    let reason = format!("another one is called `{name}`, as it would be");
                    unnamed.push(Unnamed { reason, ..one });
                }
                Some(name) => self.base.push(one.named(name)),
                None => unnamed.push(one),
            }
        }
        self.set_unnamed(unnamed);
        self.reconcile();
    }

    /// Tells every controller what is wanted of it. New ones start; those of what is not wanted any more end by themselves.
    fn reconcile(&mut self) {
        let wanted = overlay(&self.base, &self.bucket);
        self.shared.wanted.write().clone_from(&wanted);
        for spec in &wanted {
            match self.controllers.get(&spec.key()) {
                Some((_, sender)) => {
                    sender.send_if_modified(|known| {
                        let changes = known != spec;
                        known.clone_from(spec);
                        changes
                    });
                }
                None => {
                    let (controller, sender) = self.controller(spec);
                    let task = self.shared.supervisor.spawn("the controller of a variant", controller.run());
                    self.controllers.insert(spec.key(), (task, sender));
                }
            }
        }
        let gone: Vec<_> =
            self.controllers.keys().filter(|key| !wanted.iter().any(|one| one.key() == **key)).cloned().collect();
        for key in gone {
            if let Some((task, sender)) = self.controllers.remove(&key) {
                // It hears of it by the end of its channel, and finishes what it has.
                drop(sender);
                task.detach();
            }
        }
    }

    /// Ends: gives out every version that is loaded, so that its threads can be waited for.
    pub fn close(self) -> Vec<Arc<ServedVersion>> {
        drop(self.controllers);
        let live = self.shared.served.all().into_iter().filter_map(|one| one.deployment.put(None));
        live.chain(self.shared.memory.close()).collect()
    }
}

/// The names of those that have none, as far as they are known then.
async fn names(shared: &Shared, unnamed: &[Unnamed], at: Instant) -> Vec<Option<Slug>> {
    sleep_until(at.into()).await;
    let (source, engine) = (shared.loader.source(), &shared.config.engine);
    let mut names = Vec::with_capacity(unnamed.len());
    for Unnamed { model, config, .. } in unnamed {
        names.push(match resolve(source, &config.spec(), engine).await {
            Ok(resolved) => Some(resolved.variant),
            Err(_) => name(source, model, config).await.ok().flatten(),
        });
    }
    names
}
