//! A NATS server of its own for a test, and a worker that needs no model.

pub(crate) mod command;
pub(crate) mod configured;
pub(crate) mod controllers;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod jwt;
pub(crate) mod people;
pub(crate) mod routed;
pub(crate) mod variants;
pub(crate) mod worker;

use std::time::{Duration, Instant};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::provision::{self, ModelVariants};
use embed_schemas::{Slug, streams::StreamSettings};
use embed_testkit::NatsServer;
pub(crate) use embed_testkit::PATIENCE;

/// A server of the test's own.
pub(crate) struct Server(NatsServer);

impl std::ops::Deref for Server {
    type Target = NatsServer;

    fn deref(&self) -> &NatsServer {
        &self.0
    }
}

impl std::ops::DerefMut for Server {
    fn deref_mut(&mut self) -> &mut NatsServer {
        &mut self.0
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self(NatsServer::start())
    }

    /// With more lines of configuration.
    pub(crate) fn with(more: &str) -> Self {
        Self(NatsServer::start_with(more))
    }

    pub(crate) fn settings(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url()), ..ConnectSettings::default() }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.settings()).await.unwrap()
    }

    /// A connection, and the streams of model `m` with the default variant `fp32`.
    pub(crate) async fn provisioned(&self) -> Client {
        self.provisioned_with(&StreamSettings::default()).await
    }

    pub(crate) async fn provisioned_with(&self, settings: &StreamSettings) -> Client {
        let client = self.client().await;
        provision::apply(client.nats(), &[model_m()], settings).await.unwrap();
        client
    }
}

pub(crate) fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

pub(crate) fn model_m() -> ModelVariants {
    ModelVariants { model: slug("m"), variants: vec![slug("fp32")] }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Messages in a stream.
pub(crate) async fn stored(client: &Client, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(client.nats().clone());
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}
