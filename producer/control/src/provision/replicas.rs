//! Buckets have as many copies as the streams that they are about: an outage that leaves the jobs must not take the routes.

use async_nats::Client;
use serde_json::{Map, Value};

use super::{Error, Object};

const FIELD: &str = "num_replicas";
/// What streams that hold buckets begin with.
const BUCKET: &str = "KV_";

/// Has the buckets of these objects made with, or raised to, the copies that the streams have. Never fewer than a bucket has.
///
/// # Errors
/// If the server cannot be asked.
pub(super) async fn as_the_streams(client: &Client, objects: &mut [Object]) -> Result<(), Error> {
    let mut most = 0;
    for stream in objects.iter().filter(|one| one.consumer.is_none() && !is_bucket(one)) {
        most = most.max(stream.read(client).await?.map_or(0, |config| copies(&config)));
    }
    for bucket in objects.iter_mut().filter(|one| is_bucket(one)) {
        let now = bucket.read(client).await?.map_or(0, |config| copies(&config));
        if now < most {
            bucket.wanted.insert(FIELD.to_owned(), most.into());
            bucket.left.retain(|field| *field != FIELD);
        }
    }
    Ok(())
}

fn is_bucket(object: &Object) -> bool {
    object.stream.starts_with(BUCKET)
}

fn copies(config: &Map<String, Value>) -> u64 {
    config.get(FIELD).and_then(Value::as_u64).unwrap_or_default()
}
