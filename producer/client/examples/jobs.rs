//! Stores texts as jobs, and waits for their results, which are stored as well: `cargo run --release -p embed-client --example jobs`.

use std::{
    env,
    error::Error,
    io::{self, Write},
    time::Duration,
};

use embed_client::{Client, ConnectSettings, EmbedRequest, JobId, Lane, Outcome, PublishOptions, Slug, new_id};
use futures::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = ConnectSettings { server: env::var("NATS_URL").ok(), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await?;
    let model: Slug = "all-minilm-l6-v2".parse()?;

    // Ids are ours to give: a job that is published again under the same one is served once.
    let jobs: Vec<EmbedRequest> = ["the sea", "a mountain", "a city at night"]
        .map(|text| EmbedRequest { id: Some(new_id()), ..EmbedRequest::new([text]) })
        .into();
    let ids: Vec<JobId> = jobs.iter().filter_map(|job| job.id.clone()).collect();

    // Listening begins before the first job is sent, so that no result is missed.
    let results = client.results(&model, ids, None).await?;
    for job in jobs {
        client.publish(&model, Lane::Job, job, &PublishOptions::default()).await?;
    }
    let mut results = std::pin::pin!(results);
    while let Some(result) = tokio::time::timeout(Duration::from_secs(30), results.next()).await? {
        match result? {
            (id, Outcome::Result(result)) => writeln!(io::stdout(), "{id}: {} dimensions", result.vector(0)?.len())?,
            (id, Outcome::Failure(failure)) => writeln!(io::stdout(), "{id}: {}", failure.error)?,
        }
    }
    Ok(())
}
