//! What comes to streams later has as many copies as they have: an outage that leaves the jobs must not take the routes, nor what is known of
//! jobs that are delivered no more.

use async_nats::Client;
use embed_schemas::streams::EXHAUSTED_STREAMS;
use serde_json::{Map, Value};

use super::{Error, Object};

const FIELD: &str = "num_replicas";
/// What streams that hold buckets begin with.
const BUCKET: &str = "KV_";

/// Has the followers among these objects made with, or raised to, the copies that the streams have. Never fewer than one has.
///
/// # Errors
/// If the server cannot be asked.
pub(super) async fn as_the_streams(client: &Client, objects: &mut [Object]) -> Result<(), Error> {
    let mut most = 0;
    for stream in objects.iter().filter(|one| one.consumer.is_none() && !is_follower(one)) {
        most = most.max(stream.read(client).await?.map_or(0, |config| copies(&config)));
    }
    for follower in objects.iter_mut().filter(|one| is_follower(one)) {
        let now = follower.read(client).await?.map_or(0, |config| copies(&config));
        if now < most {
            follower.wanted.insert(FIELD.to_owned(), most.into());
            follower.left.retain(|field| *field != FIELD);
        }
    }
    Ok(())
}

/// Whether it is about the streams, and none of them: a bucket, or the advisories about jobs.
fn is_follower(object: &Object) -> bool {
    object.consumer.is_none() && [BUCKET, EXHAUSTED_STREAMS].iter().any(|begin| object.stream.starts_with(begin))
}

fn copies(config: &Map<String, Value>) -> u64 {
    config.get(FIELD).and_then(Value::as_u64).unwrap_or_default()
}
