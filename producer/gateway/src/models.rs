//! What workers serve, and what clients call it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use embed_client::{Client, ServedModel, WorkerInfo};
use embed_registry::Registry;
use embed_schemas::{
    ModelMetadata, Slug,
    serving::{LiveVersion, VariantState, VariantStatus},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    access::Caller,
    error::{ApiError, cut},
    settings::Settings,
};

/// Between two looks at what workers serve.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a model is believed to be served of which nothing is heard: a worker that is busy may be late with what it says.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Between two looks that requests for unknown models cause.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);

/// What workers serve, and what clients call it.
#[derive(Debug)]
pub(crate) struct Models {
    client: Client,
    default: Option<Slug>,
    aliases: BTreeMap<String, Slug>,
    registry: Option<Registry>,
    served: ArcSwap<Served>,
    /// Whether the workers have been asked.
    is_known: AtomicBool,
    looked: tokio::sync::Mutex<Looked>,
    /// What the registry says of versions, which never changes.
    known: Mutex<BTreeMap<(Slug, String), Arc<ModelMetadata>>>,
}

/// What was heard of models.
#[derive(Debug, Default)]
struct Looked {
    /// When was last looked.
    last: Option<Instant>,
    /// Each model as it was last heard of.
    heard: BTreeMap<Slug, (Instant, Variants)>,
}

/// All models.
pub(crate) type Served = BTreeMap<Slug, Variants>;

/// The variants of a model.
pub(crate) type Variants = BTreeMap<Slug, Variant>;

/// A variant, as the worker tells that is furthest with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Variant {
    /// Workers that have it.
    pub(crate) workers: usize,
    /// Whether it answers where no variant is named.
    pub(crate) is_default: bool,
    /// `None` if no worker says.
    pub(crate) state: Option<VariantState>,
    /// What is live.
    pub(crate) live: Option<LiveVersion>,
}

/// What was asked for, as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) model: Slug,
    pub(crate) variant: Option<Slug>,
}

impl Models {
    pub(crate) fn new(client: Client, settings: &Settings, registry: Option<Registry>) -> Self {
        Self {
            client,
            default: settings.default_model.clone(),
            aliases: settings.aliases.clone(),
            registry,
            served: ArcSwap::default(),
            is_known: AtomicBool::new(false),
            looked: tokio::sync::Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// What is served, as far as was heard.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.load_full()
    }

    /// The same for whoever wants to know all there is.
    ///
    /// # Errors
    /// If nobody could be asked: an empty list would say that there is nothing.
    pub(crate) async fn all(&self) -> Result<Arc<Served>, ApiError> {
        if !self.is_known.load(Ordering::Relaxed) {
            self.look(LOOK_AT_MOST).await;
        }
        if self.is_known.load(Ordering::Relaxed) {
            return Ok(self.served());
        }
        let message = "the workers could not be asked yet what they serve; try again soon";
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).after(LOOK_AT_MOST))
    }

    /// Looks for ever.
    pub(crate) async fn follow(&self) {
        loop {
            self.look(Duration::ZERO).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks the workers, unless somebody has just done so. Who comes meanwhile waits for the same answers.
    async fn look(&self, unless_within: Duration) {
        let mut looked = self.looked.lock().await;
        if looked.last.is_some_and(|last| last.elapsed() < unless_within) {
            return;
        }
        match tokio::try_join!(self.client.served(), self.client.workers()) {
            Ok((models, workers)) => {
                let now = Instant::now();
                looked.heard.extend(served(&models, &workers).into_iter().map(|(model, all)| (model, (now, all))));
                looked.heard.retain(|_, (when, _)| when.elapsed() < REMEMBERED);
                let served = looked.heard.iter().map(|(model, (_, all))| (model.clone(), all.clone()));
                self.served.store(Arc::new(served.collect()));
                self.is_known.store(true, Ordering::Relaxed);
            }
            Err(error) => tracing::debug!(%error, "the workers cannot be asked what they serve"),
        }
        looked.last = Some(Instant::now());
    }

    /// What a caller means by a name, and by the name of a variant.
    ///
    /// # Errors
    /// What there is, if it is not among it.
    pub(crate) async fn find(
        &self,
        caller: &Caller,
        model: Option<&str>,
        variant: Option<&str>,
    ) -> Result<Target, ApiError> {
        if let Some(found) = self.known_target(caller, model, variant) {
            return found;
        }
        self.look(LOOK_AT_MOST).await;
        self.known_target(caller, model, variant).unwrap_or_else(|| {
            let served = self.served.load();
            if served.is_empty() {
                let message = "no worker serves any model: start one, for example with `embed-worker run`";
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
                return Err(error.after(LOOK_EVERY));
            }
            Err(unknown(&served, caller, model.or(self.default.as_ref().map(Slug::as_str)).unwrap_or_default()))
        })
    }

    /// The same without a look. `None` for a name that means nothing served.
    fn known_target(
        &self,
        caller: &Caller,
        model: Option<&str>,
        variant: Option<&str>,
    ) -> Option<Result<Target, ApiError>> {
        let served = self.served.load();
        let model = match model {
            Some(name) => self.named(&served, name)?,
            None => match self.default_of(&served, caller) {
                Ok(model) => model?,
                Err(error) => return Some(Err(error)),
            },
        };
        let variants = served.get(&model).filter(|_| caller.may_ask(&model))?;
        let Some(name) = variant else { return Some(Ok(Target { model, variant: None })) };
        let slug = Slug::from_name(name).ok();
        match slug.filter(|slug| variants.contains_key(slug)) {
            Some(variant) => Some(Ok(Target { model, variant: Some(variant) })),
            None => {
                let there: Vec<_> = variants.keys().map(Slug::as_str).collect();
                let message = format!(
                    "x-model-version: {model} has no variant {}; there are: {}",
                    quoted(name),
                    there.join(", ")
                );
                let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
                Some(Err(error.about("x-model-version")))
            }
        }
    }

    fn default_of(&self, served: &Served, caller: &Caller) -> Result<Option<Slug>, ApiError> {
        if self.default.is_some() {
            return Ok(self.default.clone());
        }
        let mut may = served.keys().filter(|model| caller.may_ask(model));
        match (may.next(), may.next()) {
            (Some(_), Some(_)) => {
                let message = format!("model: name one of {}", names(served, caller));
                Err(ApiError::invalid("model", message))
            }
            (only, _) => Ok(only.cloned()),
        }
    }

    /// The served model of this name: as an alias, as a slug, without what stands before a slash, or as the beginning of one name alone, as
    /// in `bge-small` for `bge-small-en-v1.5`.
    fn named(&self, served: &Served, name: &str) -> Option<Slug> {
        if let Some(model) = self.aliases.get(name) {
            return Some(model.clone());
        }
        let last = name.rsplit('/').next().unwrap_or(name);
        let slugs = [name, last].map(|name| Slug::from_name(name).ok());
        if let Some(slug) = slugs.iter().flatten().find(|slug| served.contains_key(*slug)) {
            return Some(slug.clone());
        }
        let begin = format!("{}-", slugs.into_iter().flatten().next_back()?);
        let mut long = served.keys().filter(|model| model.as_str().starts_with(&begin));
        match (long.next(), long.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    /// What the registry says of a version, if there is a registry and it has it.
    pub(crate) async fn metadata(&self, model: &Slug, version: &str) -> Option<Arc<ModelMetadata>> {
        let registry = self.registry.as_ref()?;
        let key = (model.clone(), version.to_owned());
        if let Some(known) = self.known.lock().get(&key) {
            return Some(Arc::clone(known));
        }
        match registry.metadata(model, version).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                self.known.lock().insert(key, Arc::clone(&metadata));
                Some(metadata)
            }
            Err(error) => {
                tracing::debug!(%model, version, %error, "the registry does not say");
                None
            }
        }
    }

    /// The registry, if there is one.
    pub(crate) fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }
}

/// What is to be said of a name that means nothing served.
fn unknown(served: &Served, caller: &Caller, name: &str) -> ApiError {
    let message = format!("model: {} is not served; there are: {}", quoted(name), names(served, caller));
    ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model")
}

/// The names of the models that a caller may ask.
fn names(served: &Served, caller: &Caller) -> String {
    let names: Vec<_> = served.keys().filter(|model| caller.may_ask(model)).map(Slug::as_str).collect();
    names.join(", ")
}

/// A name as it was sent, as far as that is not too long.
fn quoted(name: &str) -> String {
    format!("{:?}", cut(name, 128))
}

/// Puts together what all workers say. Pure.
fn served(models: &[ServedModel], workers: &[WorkerInfo]) -> Served {
    let mut served: Served = BTreeMap::new();
    for ServedModel { model, variants } in models {
        let entry = served.entry(model.clone()).or_default();
        for variant in variants {
            entry.entry(variant.clone()).or_default();
        }
    }
    for worker in workers {
        for ((model, name), status) in &worker.variants {
            // What nobody can be asked for is not served.
            let Some(variant) = served.get_mut(model).and_then(|variants| variants.get_mut(name)) else { continue };
            tell(variant, status);
        }
    }
    served
}

fn tell(variant: &mut Variant, status: &VariantStatus) {
    variant.workers += 1;
    variant.is_default |= status.default;
    if variant.live.is_none() {
        variant.live.clone_from(&status.live);
        variant.state = Some(status.state);
    }
}
