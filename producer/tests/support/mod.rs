//! A NATS server of its own for a test, and a worker that needs no model.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of it")]

pub mod command;
pub mod configured;
pub mod files;
pub mod fleet;
pub mod jwt;
pub mod routed;
pub mod variants;
pub mod worker;

use std::time::{Duration, Instant};

use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::provision::{self, ModelVariants};
use embed_schemas::{Slug, streams::StreamSettings};
use embed_testkit::NatsServer;
pub use embed_testkit::PATIENCE;

/// A server of the test's own.
pub struct Server(NatsServer);

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
    pub fn start() -> Self {
        Self(NatsServer::start())
    }

    /// With more lines of configuration.
    pub fn with(more: &str) -> Self {
        Self(NatsServer::start_with(more))
    }

    pub fn settings(&self) -> ConnectSettings {
        ConnectSettings { server: Some(self.url()), ..ConnectSettings::default() }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.settings()).await.unwrap()
    }

    /// A connection, and the streams of model `m` with the default variant `fp32`.
    pub async fn provisioned(&self) -> Client {
        self.provisioned_with(&StreamSettings::default()).await
    }

    pub async fn provisioned_with(&self, settings: &StreamSettings) -> Client {
        let client = self.client().await;
        provision::apply(client.nats(), &[model_m()], settings).await.unwrap();
        client
    }
}

pub fn slug(name: &str) -> Slug {
    name.parse().unwrap()
}

pub fn model_m() -> ModelVariants {
    ModelVariants { model: slug("m"), variants: vec![slug("fp32")] }
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Messages in a stream.
pub async fn stored(client: &Client, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(client.nats().clone());
    context.get_stream(stream).await.unwrap().cached_info().state.messages
}
