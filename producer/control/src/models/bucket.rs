//! The bucket `embed_models`.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{self, kv};
use embed_schemas::{
    Slug,
    serving::{DesiredVariant, MODELS_BUCKET, models_key, parse_models_key},
    streams,
};
use futures::TryStreamExt;
use serde_json::Value;

use embed_client::{
    Client,
    nats::api::{self, STREAM_NOT_FOUND},
};

use crate::Error;

/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The bucket, which exists.
#[derive(Debug)]
pub(super) struct Bucket(kv::Store);

impl Bucket {
    /// # Errors
    /// [`Error::NoBucket`] if it does not exist.
    pub(super) async fn open(client: &Client) -> Result<Self, Error> {
        let info = format!("STREAM.INFO.{}", streams::bucket_stream(MODELS_BUCKET));
        if let Err(error) = api::call(client.nats(), &info, &Value::Null, CALL_TIMEOUT).await {
            return Err(match error.is(STREAM_NOT_FOUND) {
                true => Error::NoBucket { bucket: MODELS_BUCKET.to_owned() },
                false => failed("read", error),
            });
        }
        let store = jetstream::new(client.nats().clone()).get_key_value(MODELS_BUCKET).await;
        store.map(Self).map_err(|error| failed("read", error))
    }

    /// All entries, by model and variant.
    ///
    /// # Errors
    /// [`Error::BadAnswer`] for an entry that is none: workers would leave it out, and nobody would know why.
    pub(super) async fn all(&self) -> Result<BTreeMap<(Slug, Slug), DesiredVariant>, Error> {
        let keys = self.0.keys().await.map_err(|error| failed("list", error))?;
        let keys: Vec<String> = keys.try_collect().await.map_err(|error| failed("list", error))?;
        let mut all = BTreeMap::new();
        for key in keys {
            // It may have been removed meanwhile.
            let Some(value) = self.0.get(&key).await.map_err(|error| failed("read", error))? else { continue };
            let bad = |reason: String| Error::bad_answer(format!("{MODELS_BUCKET}/{key}"), reason);
            let target =
                parse_models_key(&key).ok_or_else(|| bad("the key is not `<model>.<variant>`; delete it".into()))?;
            all.insert(target, serde_json::from_slice(&value).map_err(|error| bad(error.to_string()))?);
        }
        Ok(all)
    }

    pub(super) async fn put(&self, (model, variant): &(Slug, Slug), desired: &DesiredVariant) -> Result<(), Error> {
        let value = serde_json::to_vec(desired).expect("its keys are strings");
        let put = self.0.put(models_key(model, variant), value.into()).await;
        put.map(|_| ()).map_err(|error| failed("write to", error))
    }

    pub(super) async fn remove(&self, (model, variant): &(Slug, Slug)) -> Result<(), Error> {
        self.0.delete(models_key(model, variant)).await.map_err(|error| failed("write to", error))
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::nats(format!("cannot {what} the bucket {MODELS_BUCKET}"), error)
}
