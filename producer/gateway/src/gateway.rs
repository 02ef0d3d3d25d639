//! What all requests share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use embed_client::{
    Client,
    cache::{CacheSettings, CachedClient},
};
use embed_registry::Registry;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use crate::{
    access::{Room, watch::KeyWatch},
    api::validate::Validation,
    body::BODY_UNIT,
    error::OpenError,
    link::Link,
    models::Models,
    settings::Settings,
};

/// What all requests share. Clones are the same gateway.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    cache: Option<CachedClient>,
    settings: Settings,
    keys: KeyWatch,
    link: Link,
    models: Models,
    room: Room,
    /// Room for bodies, in units.
    bodies: Arc<Semaphore>,
    validation: Validation,
    metrics: Option<PrometheusHandle>,
    draining: AtomicBool,
}

impl Gateway {
    /// A gateway on a connection. `metrics`: what `/metrics` shows.
    ///
    /// # Errors
    /// If the keys cannot be read, or the registry cannot be opened.
    pub fn open(client: Client, settings: Settings, metrics: Option<PrometheusHandle>) -> Result<Self, OpenError> {
        let keys = KeyWatch::open(settings.key_file.clone(), settings.keys.clone())?;
        let registry = settings.registry.as_deref().map(Registry::open).transpose()?;
        let bounds = &settings.bounds;
        let models = Models::new(client.clone(), &settings, registry);
        Ok(Self(Arc::new(Shared {
            keys,
            cache: settings
                .cache_bytes
                .map(|bytes| CachedClient::new(client.clone(), CacheSettings::default().max_bytes(bytes))),
            link: Link::new(client.clone()),
            models,
            room: Room::new(bounds.texts),
            bodies: Arc::new(Semaphore::new(bounds.bodies.div_ceil(BODY_UNIT))),
            validation: Validation::default(),
            metrics,
            draining: AtomicBool::new(false),
            client,
            settings,
        })))
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    /// Vectors that were made before, if they are kept.
    pub(crate) fn cache(&self) -> Option<&CachedClient> {
        self.0.cache.as_ref()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn keys(&self) -> &KeyWatch {
        &self.0.keys
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0.link
    }

    pub(crate) fn models(&self) -> &Models {
        &self.0.models
    }

    pub(crate) fn room(&self) -> &Room {
        &self.0.room
    }

    pub(crate) fn bodies(&self) -> &Arc<Semaphore> {
        &self.0.bodies
    }

    pub(crate) fn validation(&self) -> &Validation {
        &self.0.validation
    }

    pub(crate) fn metrics(&self) -> Option<&PrometheusHandle> {
        self.0.metrics.as_ref()
    }

    /// From now on, it ends.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it ends.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }
}
