//! What a level below the cache that does not answer costs.

use std::{sync::Arc, time::Duration};

use embed_client::{
    CallOptions, Client, ConnectSettings, EmbedRequest, EmbedResult, Slug,
    cache::{CacheSettings, CachedClient, SecondLevel},
};
use embed_testkit::{NatsServer, PATIENCE};
use futures::future::BoxFuture;

/// Never answers.
#[derive(Debug)]
struct Never;

impl SecondLevel for Never {
    fn find<'a>(&'a self, _: &'a Slug, _: &'a str, _: &'a EmbedRequest) -> BoxFuture<'a, Vec<Option<EmbedResult>>> {
        Box::pin(std::future::pending())
    }

    fn keep(&self, _: &Slug, _: &EmbedRequest, _: &EmbedResult) {}
}

#[tokio::test]
async fn what_is_not_answered_below_is_given_up_in_time_for_workers() {
    let server = NatsServer::start();
    let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.unwrap();
    let cached = CachedClient::new(client, CacheSettings::default()).above(Arc::new(Never));
    let options = CallOptions::default().timeout(Duration::from_secs(1)).space("s".to_owned());
    let model: Slug = "m".parse().unwrap();
    let call = cached.embed(&model, EmbedRequest::new(["a"]), &options);
    // There are none.
    tokio::time::timeout(PATIENCE, call).await.expect("it ends").unwrap_err();
}
