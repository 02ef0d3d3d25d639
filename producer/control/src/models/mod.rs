//! Which variants workers are to serve, beside those of their configuration, and whether they do.
//!
//! | module | does |
//! |---|---|
//! | `bucket` | the bucket `embed_models`: what is wanted |
//! | `settle` | whether each worker serves it already, or cannot |
//! | `unserve` | the way back |
//!
//! Everything here also makes the consumers that a variant needs, so that it gets its work.

mod bucket;
mod settle;
mod unserve;

use std::{collections::BTreeMap, time::Duration};

use embed_schemas::{
    Slug,
    serving::{DesiredVariant, REFRESH_SUBJECT},
};
use tokio::time::Instant;

pub use settle::{Progress, WorkerProgress};
pub use unserve::{Unserve, Unserved, unserve};

use embed_client::Client;

use crate::{
    Error,
    provision::{Consumers, Report},
};
use bucket::Bucket;

/// What to change of a variant that is to be served, or how to add it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// What is wanted. `default: None` leaves it as it is.
    pub desired: DesiredVariant,
}

/// What is wanted by now, and what workers said before.
#[derive(Debug)]
pub struct Serving {
    /// What stands in the bucket.
    pub desired: DesiredVariant,
    /// What was done to the variant's consumers.
    pub consumers: Report,
    target: (Slug, Slug),
    before: settle::Failures,
}

/// The variants that are to be served, by model and variant. None if there is no bucket.
///
/// # Errors
/// [`Error::Nats`] if the bucket cannot be read; [`Error::BadAnswer`] naming an entry that cannot.
pub async fn desired(client: &Client) -> Result<BTreeMap<(Slug, Slug), DesiredVariant>, Error> {
    match Bucket::open(client).await {
        Ok(bucket) => bucket.all().await,
        Err(Error::NoBucket { .. }) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Wants a variant to be served: makes its consumers, writes it into the bucket, and asks workers to look.
///
/// # Errors
/// [`Error::NoBucket`] or [`Error::NoStream`] if `embed init` has not been run; [`Error::Provision`]; [`Error::Nats`].
pub async fn serve(client: &Client, wanted: &Serve) -> Result<Serving, Error> {
    let Serve { model, variant, desired } = wanted;
    let target = (model.clone(), variant.clone());
    let bucket = Bucket::open(client).await?;
    let consumers = Consumers::of(client.nats(), model).await?;
    let all = bucket.all().await?;
    let mut desired = desired.clone();
    desired.default = desired.default.or(all.get(&target).and_then(|before| before.default));
    let default = desired.default == Some(true);
    let report = consumers.add(client.nats(), model, variant, default).await?;
    let before = settle::failures(&client.workers().await?, &target);
    // One default for each model: who had it before gives it up.
    let others = all.into_iter().filter(|(key, _)| default && key.0 == *model && key.1 != *variant);
    for (key, other) in others.filter(|(_, other)| other.default == Some(true)) {
        bucket.put(&key, &DesiredVariant { default: None, ..other }).await?;
    }
    bucket.put(&target, &desired).await?;
    refresh(client, None).await?;
    Ok(Serving { desired, consumers: report, target, before })
}

impl Serving {
    /// Waits until every worker that answers serves it, or cannot. `on_progress` hears of each look.
    ///
    /// # Errors
    /// [`Error::NotLive`] with each worker's reason; [`Error::Timeout`] if some worker needs longer, or none answers.
    pub async fn wait(
        &self,
        client: &Client,
        timeout: Duration,
        mut on_progress: impl FnMut(&[WorkerProgress]),
    ) -> Result<Vec<WorkerProgress>, Error> {
        let name = format!("variant {} of model {}", self.target.1, self.target.0);
        let deadline = Instant::now() + timeout;
        loop {
            let workers = client.workers().await?;
            let seen = settle::look(&workers, &self.target, &self.desired, &self.before);
            on_progress(&seen);
            let waiting: Vec<_> =
                seen.iter().filter(|one| one.progress == Progress::Waiting).map(|one| one.worker.as_str()).collect();
            if waiting.is_empty() && !seen.is_empty() {
                let reasons: Vec<_> = seen.iter().filter_map(WorkerProgress::failure).collect();
                return if reasons.is_empty() { Ok(seen) } else { Err(Error::NotLive { target: name, reasons }) };
            }
            if Instant::now() >= deadline {
                let hint = match seen.is_empty() {
                    true => ": no worker answers; it will be served once one is started".to_owned(),
                    false => format!(": {} still load it; see `embed models list`", waiting.join(", ")),
                };
                let what = format!("{name} is not live");
                return Err(embed_client::Error::Timeout { what, after: timeout, hint }.into());
            }
            // A look takes a while by itself, unless nobody is there.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Asks all workers to look at the registry now, for one model or for all.
///
/// # Errors
/// [`Error::Nats`] if the connection is gone.
pub async fn refresh(client: &Client, model: Option<&Slug>) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::nats("cannot ask workers to look at the registry", error);
    let payload = model.map(ToString::to_string).unwrap_or_default();
    client.nats().publish(REFRESH_SUBJECT, payload.into()).await.map_err(|e| failed(&e))?;
    client.nats().flush().await.map_err(|e| failed(&e))
}
