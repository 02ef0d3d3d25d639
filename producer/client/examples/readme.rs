//! What stands in README.md and in that of the client: a test of `deploy/tests` compares them, line by line.

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use embed_client::{
    CallOptions, Client, ConnectSettings, EmbedRequest, Lane, PublishOptions, Slug, StreamOptions,
    cache::{CacheSettings, CacheStats, CachedClient},
};
use futures::{StreamExt, stream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let texts = stream::iter(["hello".to_owned(), "world".to_owned()]);

    let client = Client::connect(&ConnectSettings::default()).await?;
    let model: Slug = "all-minilm-l6-v2".parse()?;
    let result = client.embed(&model, EmbedRequest::new(["hello"]), &CallOptions::default()).await?;
    let vector: Vec<f32> = result.vector(0)?;
    let jobs = client.publish(&model, Lane::Job, EmbedRequest::new(["hello"]), &PublishOptions::default()).await?;
    let outcome = client.result(&model, &jobs[0].id, Duration::from_secs(10)).await?;
    let rows = client.embed_stream(&model, texts, StreamOptions::default());

    writeln!(io::stdout(), "{} dimensions, {outcome:?}, {} rows", vector.len(), rows.count().await)?;

    let client = CachedClient::new(client, CacheSettings::default().max_bytes(64 << 20));
    let result = client.embed(&model, EmbedRequest::new(["hello"]), &CallOptions::default()).await?;
    let CacheStats { hits, misses, joined, entries, bytes, .. } = client.stats();

    writeln!(io::stdout(), "{} texts: {hits} {misses} {joined} {entries} {bytes}", result.items.len())?;
    Ok(())
}
