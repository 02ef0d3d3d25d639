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

use crate::{
    access::{Room, watch::KeyWatch},
    link::Link,
    models::Models,
    open_error::OpenError,
    settings::Settings,
    vectors::Vectors,
};

/// What all requests share. Clones are the same gateway.
#[derive(Debug, Clone)]
pub struct Gateway(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Client,
    cache: Option<CachedClient>,
    vectors: Option<Vectors>,
    settings: Settings,
    keys: KeyWatch,
    link: Link,
    models: Models,
    room: Room,
    /// For bodies, in bytes.
    bodies: Room,
    metrics: Option<PrometheusHandle>,
    draining: AtomicBool,
}

impl Gateway {
    /// A gateway on a connection. `metrics`: what `/metrics` shows.
    ///
    /// # Errors
    /// If the keys cannot be read, or the registry or the store of vectors cannot be opened.
    pub fn open(client: Client, settings: Settings, metrics: Option<PrometheusHandle>) -> Result<Self, OpenError> {
        let keys = KeyWatch::open(settings.key_file.clone(), settings.keys.clone())?;
        let registry = settings.registry.as_deref().map(Registry::open).transpose()?;
        let bounds = &settings.bounds;
        let models = Models::new(client.clone(), &settings, registry);
        let vectors = Vectors::open(&settings.vectors)?;
        // Equal texts are computed once also where nothing is kept in memory.
        let bytes = settings.cache_bytes.or(vectors.as_ref().map(|_| 0));
        let cache = bytes.map(|bytes| CachedClient::new(client.clone(), CacheSettings::default().max_bytes(bytes)));
        Ok(Self(Arc::new(Shared {
            keys,
            cache,
            vectors,
            link: Link::new(client.clone()),
            models,
            room: Room::of_texts(bounds.texts),
            bodies: Room::of_bodies(bounds.bodies),
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

    pub(crate) fn bodies(&self) -> &Room {
        &self.0.bodies
    }

    /// Vectors that outlive this process, if they are kept.
    pub(crate) fn vectors(&self) -> Option<&Vectors> {
        self.0.vectors.as_ref()
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
