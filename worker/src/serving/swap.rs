//! One version takes the place of another: loaded, verified and warm before anything changes, and at once for all who come.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use embed_schemas::{Slug, metrics as names};
use metrics::{counter, gauge, histogram};

use super::{
    Manager, Pipeline, Served, Version,
    memory::{Loaded, make_room},
    wanted::Wanted,
};
use crate::{
    app::RunError,
    config::CURRENT,
    engine::driver,
    model::{SelectError, Selected, Weights, previous_of_current},
};

/// After a version could not go live it is tried again after this, then after twice as long, and so on.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// A version that was live before.
#[derive(Debug)]
pub(super) struct Kept {
    pipeline: Arc<Pipeline>,
    pub(super) until: Instant,
}

impl Kept {
    pub(super) fn into_pipeline(self) -> Arc<Pipeline> {
        self.pipeline
    }
}

/// What was tried in vain.
#[derive(Debug, Default)]
pub(super) struct Attempts(HashMap<(Slug, Slug), Attempt>);

#[derive(Debug)]
struct Attempt {
    /// Version and graph: another one is tried at once.
    what: (String, String),
    times: u32,
    again: Instant,
}

impl Attempts {
    pub(super) fn next_due(&self) -> impl Iterator<Item = Instant> + '_ {
        self.0.values().map(|attempt| attempt.again)
    }

    /// Whether this has failed lately and is not to be tried now.
    fn too_early(&self, variant: &(Slug, Slug), what: &(String, String)) -> bool {
        self.0.get(variant).is_some_and(|attempt| attempt.what == *what && Instant::now() < attempt.again)
    }

    fn failed(&mut self, variant: (Slug, Slug), what: (String, String)) {
        let times = self.0.get(&variant).filter(|attempt| attempt.what == what).map_or(0, |attempt| attempt.times);
        let delay = (FIRST_RETRY * 2u32.saturating_pow(times.min(16))).min(LONGEST_RETRY);
        self.0.insert(variant, Attempt { what, times: times + 1, again: Instant::now() + delay });
    }

    pub(super) fn forget(&mut self, variant: &(Slug, Slug)) {
        self.0.remove(variant);
    }
}

fn key(served: &Served) -> (Slug, Slug) {
    (served.variant.model.clone(), served.variant.name.clone())
}

fn what(selected: &Selected) -> (String, String) {
    (selected.metadata.version.clone(), selected.artefact().file.sha256.clone())
}

impl Manager {
    /// Loads a variant's first version, before anything is served. If the current one cannot be loaded, the one before it
    /// is served: a bad version must not take down a worker that happens to start.
    pub(super) async fn start_version(
        &mut self,
        served: &Served,
        wanted: &Wanted,
        selected: Selected,
        loaded: &[Arc<Pipeline>],
    ) -> Result<(), RunError> {
        if let Some(budget) = self.parts.config.models.memory_budget
            && !wanted.config.pinned
            && Weights::total(loaded.iter().map(weights).chain([&self.weights(&selected)])) > budget.as_u64()
        {
            tracing::info!(model = %selected.model, variant = %selected.variant, "does not fit into models.memory_budget: loaded when it is asked for");
            return Ok(());
        }
        let error = match self.pipeline(served, &selected, false).await {
            Ok(pipeline) => {
                self.go_live(served, pipeline);
                return Ok(());
            }
            Err(error) => error,
        };
        if wanted.config.version != CURRENT {
            return Err(error);
        }
        let previous = previous_of_current(self.parts.loader.source(), &wanted.config, &self.parts.config.engine).await;
        let Some(before) = previous else {
            return Err(error);
        };
        tracing::error!(
            model = %selected.model, variant = %selected.variant, %error, version = selected.metadata.version,
            instead = before.metadata.version, "the current version cannot be served; trying the one before it"
        );
        // The first error is the one that matters.
        let Ok(pipeline) = self.pipeline(served, &before, false).await else { return Err(error) };
        self.go_live(served, pipeline);
        self.note_failure(served, &selected, error.to_string());
        Ok(())
    }

    /// Makes the selected version live, if it is not.
    pub(super) async fn bring(&mut self, served: &Arc<Served>, wanted: &Wanted, selected: Selected, asked: bool) {
        let Some(live) = served.peek() else {
            // With a budget, only what is asked for is loaded, or what must always be there.
            if self.parts.config.models.memory_budget.is_none() || wanted.config.pinned {
                self.load(served, selected, asked).await;
            } else if asked || !self.attempts.too_early(&key(served), &what(&selected)) {
                served.forget_failure();
                self.attempts.forget(&key(served));
            }
            return;
        };
        if live.version.is(&selected) {
            // Whatever failed is not wanted any more.
            served.forget_failure();
            self.attempts.forget(&key(served));
            return;
        }
        drop(live);
        match self.kept.remove(&key(served)) {
            Some(kept) if kept.pipeline.version.is(&selected) => {
                tracing::info!(model = %selected.model, variant = %selected.variant, version = selected.metadata.version, "back to the version before, which was kept");
                self.go_live(served, kept.pipeline);
            }
            kept => {
                if let Some(kept) = kept {
                    self.kept.insert(key(served), kept);
                }
                self.load(served, selected, asked).await;
            }
        }
    }

    /// Loads a version and makes it live. If that fails, what was live stays, and the reason is told.
    pub(super) async fn load(&mut self, served: &Arc<Served>, selected: Selected, asked: bool) {
        if !asked && self.attempts.too_early(&key(served), &what(&selected)) {
            return;
        }
        served.loading();
        let result = match self.room_for(served, &selected) {
            Ok(()) => self.pipeline(served, &selected, true).await.map_err(|error| error.to_string()),
            Err(reason) => Err(reason),
        };
        match result {
            Ok(pipeline) => self.go_live(served, pipeline),
            Err(reason) => self.note_failure(served, &selected, reason),
        }
    }

    /// Loads a version: nothing is different until it goes live.
    async fn pipeline(&self, served: &Served, selected: &Selected, aside: bool) -> Result<Arc<Pipeline>, RunError> {
        let started = Instant::now();
        let parts = &self.parts;
        let loaded = parts.loader.load(selected, aside).await.map_err(|source| RunError::Load {
            model: selected.model.clone(),
            variant: selected.variant.clone(),
            source: Box::new(source),
        })?;
        let panics = parts.panics.clone();
        let on_panic = move |panic: String| {
            // If nobody listens, the worker is stopping already.
            let _ = panics.send(panic);
        };
        let running = &loaded.running;
        if !running.skipped.is_empty() {
            let [model, variant] = labels(&key(served));
            let on = (names::PROVIDER, running.provider.to_string());
            counter!(names::PROVIDER_FALLBACKS_TOTAL, &[model, variant, on]).increment(1);
            let skipped: Vec<_> =
                running.skipped.iter().map(|one| format!("{}: {}", one.provider, one.reason)).collect();
            tracing::error!(
                model = %selected.model, variant = %selected.variant, provider = %running.provider, precision = %running.artefact.precision,
                ?skipped, "fell back to another execution provider; set `strict` to make this an error"
            );
        }
        let version = Version::new(selected, loaded.running.clone());
        let variant = Arc::clone(&served.variant);
        histogram!(names::MODEL_LOAD_SECONDS, &labels(&key(served))).record(started.elapsed());
        let pipeline = Pipeline::start(variant, version, loaded, &parts.config, parts.finished.clone(), on_panic)?;
        pipeline.settled().await;
        Ok(Arc::new(pipeline))
    }

    /// Puts a version in its place. The one before is kept for a while, and goes when nobody uses it any more.
    fn go_live(&mut self, served: &Served, pipeline: Arc<Pipeline>) {
        let (key, keep) = (key(served), self.parts.config.models.keep_previous);
        let version = pipeline.version.metadata.version.clone();
        set_info(&key, &pipeline, 1.0);
        served.variant.resize(pipeline.engines());
        let before = served.put(Some(pipeline));
        served.forget_failure();
        self.attempts.forget(&key);
        self.count(&key, "live");
        let Some(before) = before else { return };
        set_info(&key, &before, 0.0);
        let previous = before.version.metadata.version.clone();
        let (model, variant) = &key;
        tracing::info!(%model, %variant, version, previous, "another version is live");
        if keep.is_zero() {
            return;
        }
        served.note_previous(Some(previous));
        self.kept.insert(key, Kept { pipeline: before, until: Instant::now() + keep });
    }

    /// The version that was to go live does not; what is live stays.
    fn note_failure(&mut self, served: &Served, selected: &Selected, reason: String) {
        let version = &selected.metadata.version;
        tracing::error!(model = %selected.model, variant = %selected.variant, version, reason, "a version does not go live");
        self.count(&key(served), "failed");
        self.attempts.failed(key(served), what(selected));
        served.failed(version, reason);
    }

    /// It is not even known which version is wanted.
    pub(super) fn resolve_failed(&mut self, served: &Served, version: &str, error: &SelectError) {
        let (model, variant) = key(served);
        tracing::warn!(%model, %variant, version, %error, "the wanted version cannot be found out; what is live stays");
        self.attempts.failed(key(served), (version.to_owned(), String::new()));
        served.failed(version, error.to_string());
    }

    fn count(&self, key: &(Slug, Slug), outcome: &'static str) {
        let [model, variant] = labels(key);
        counter!(names::MODEL_SWAPS_TOTAL, &[model, variant, (names::OUTCOME, outcome.to_owned())]).increment(1);
    }

    /// Versions that were kept long enough.
    pub(super) fn drop_expired(&mut self) {
        let now = Instant::now();
        let expired: Vec<_> =
            self.kept.iter().filter(|(_, kept)| kept.until <= now).map(|(key, _)| key.clone()).collect();
        expired.iter().for_each(|key| self.drop_kept(key));
    }

    fn drop_kept(&mut self, key: &(Slug, Slug)) {
        if self.kept.remove(key).is_some()
            && let Some(member) = self.lineup.find(&key.0, &key.1)
        {
            member.served.note_previous(None);
        }
    }

    /// What a version is going to take, if the first provider of its chain can run it.
    fn weights(&self, selected: &Selected) -> Weights {
        let (link, config) = (&selected.chain[0], &self.parts.config.engine);
        // Without a driver, nothing is loaded on devices.
        let devices =
            if link.provider.on_device() { driver::chosen(&config.devices).map_or(0, |all| all.len()) } else { 0 };
        Weights::of(selected, link, devices, config)
    }

    /// Makes room within the budget: first what is kept for rollbacks, then the least recently used.
    fn room_for(&mut self, served: &Arc<Served>, selected: &Selected) -> Result<(), String> {
        let Some(budget) = self.parts.config.models.memory_budget.map(|budget| budget.as_u64()) else { return Ok(()) };
        let (new, live) = (self.weights(selected), self.lineup.live());
        let kept = self.kept.values().map(|kept| &kept.pipeline);
        if Weights::total(live.iter().chain(kept).map(weights).chain([&new])) > budget {
            let kept: Vec<_> = self.kept.keys().cloned().collect();
            kept.iter().for_each(|key| self.drop_kept(key));
        }
        let (members, stay) = (self.lineup.members(), self.pinned());
        let loaded: Vec<_> = members
            .iter()
            .enumerate()
            .filter_map(|(i, member)| {
                let live = member.served.peek()?;
                let own = Arc::ptr_eq(&member.served, served);
                let pinned = own || stay.contains(&key(&member.served));
                let weights = weights(&live).clone();
                Some(Loaded { what: i, weights, last_used: member.served.last_used(), pinned })
            })
            .collect();
        let Some(out) = make_room(&loaded, &new, budget) else {
            let (needed, budget) = (bytesize::ByteSize(Weights::total([&new])), bytesize::ByteSize(budget));
            return Err(format!(
                "its {needed} do not fit into models.memory_budget ({budget}) beside what must stay loaded; \
                 raise the budget, or pin fewer variants"
            ));
        };
        for i in out {
            let served = &members[i].served;
            let (model, variant) = key(served);
            tracing::info!(%model, %variant, "unloaded to make room; it is loaded again when it is asked for");
            if let Some(before) = served.put(None) {
                set_info(&key(served), &before, 0.0);
            }
        }
        Ok(())
    }
}

fn weights(pipeline: &Arc<Pipeline>) -> &Weights {
    &pipeline.version.running.weights
}

fn labels(key: &(Slug, Slug)) -> [(&'static str, String); 2] {
    [(names::MODEL, key.0.to_string()), (names::MODEL_VERSION, key.1.to_string())]
}

fn set_info(key: &(Slug, Slug), pipeline: &Pipeline, value: f64) {
    let [model, variant] = labels(key);
    let version = &pipeline.version;
    let all = [
        model,
        variant,
        (names::VERSION, version.metadata.version.clone()),
        (names::PRECISION, version.artefact().precision.to_string()),
        (names::PROVIDER, version.running.provider.to_string()),
    ];
    gauge!(names::MODEL_INFO, &all).set(value);
}
