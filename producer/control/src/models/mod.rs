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
    times,
};
use bucket::Wanted;

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
/// If the bucket cannot be read, or an entry of it, which is named.
pub async fn desired(client: &Client) -> Result<BTreeMap<(Slug, Slug), DesiredVariant>, Error> {
    match Wanted::new(client.nats().clone()).all().await {
        Ok(all) => Ok(all.into_iter().map(|(target, entry)| (target, entry.desired)).collect()),
        Err(Error::NoBucket { .. }) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// Wants a variant to be served: makes its consumers, writes it into the bucket, and asks workers to look.
///
/// # Errors
/// [`Error::NoBucket`], or that there is no stream, if `embed init` has not been run; [`Error::Provision`]; [`Error::Contended`] if somebody
/// else changes the same, or becomes the default, at the same time: then theirs is what holds.
pub async fn serve(client: &Client, Serve { model, variant, desired }: &Serve) -> Result<Serving, Error> {
    want(client, (model.clone(), variant.clone()), |found| {
        let default = desired.default.or(found.and_then(|found| found.default));
        Ok(DesiredVariant { default, ..desired.clone() })
    })
    .await
}

/// Makes a variant the default of its model, and leaves whatever else is wanted of it as it is.
///
/// # Errors
/// [`Error::Settings`] if the bucket does not want it; otherwise as [`serve`].
pub async fn make_default(client: &Client, model: &Slug, variant: &Slug, who: &str) -> Result<Serving, Error> {
    want(client, (model.clone(), variant.clone()), |found| match found {
        Some(found) => {
            let (who, when) = (who.to_owned(), times::now());
            Ok(DesiredVariant { default: Some(true), who, when, ..found.clone() })
        }
        None => Err(Error::Settings(format!("variant {variant} of model {model} is not wanted any more"))),
    })
    .await
}

/// Wants what `change` makes of what was wanted before, if that is still so when it is written.
async fn want(
    client: &Client,
    target: (Slug, Slug),
    change: impl FnOnce(Option<&DesiredVariant>) -> Result<DesiredVariant, Error>,
) -> Result<Serving, Error> {
    let (model, variant) = &target;
    let bucket = Wanted::new(client.nats().clone());
    let all = bucket.all().await?;
    let found = all.get(&target).map(|entry| &entry.desired);
    let desired = change(found)?;
    let consumers = Consumers::of(client.nats(), model).await?;
    let default = desired.default == Some(true);
    // Before anybody serves it.
    let mut report = consumers.add(client.nats(), model, variant, false).await?;
    let before = settle::failures(&client.workers().await?, &target);
    let after = match all.get(&target) {
        Some(entry) => entry.revision,
        None => bucket.revision(&target).await?,
    };
    let revision = bucket.put(&target, &desired, after).await?;
    if default {
        if let Err(error) = bucket.only_default(&target, revision, &all, None).await {
            if matches!(error, Error::Contended { .. }) {
                match found {
                    // As it was, but for the default: if it was that before, somebody else has taken it.
                    Some(found) => {
                        bucket.put(&target, &DesiredVariant { default: None, ..found.clone() }, revision).await?;
                    }
                    None => bucket.remove(&target, revision).await?,
                }
            }
            return Err(error);
        }
        report = report.and(consumers.add(client.nats(), model, variant, true).await?);
    }
    refresh(client, None).await?;
    Ok(Serving { desired, consumers: report, target, before })
}

impl Serving {
    /// Waits until every worker that answers serves it, or cannot. `on_progress` hears of each look.
    ///
    /// # Errors
    /// [`Error::NotLive`] with each worker's reason; a time-out if some worker needs longer, or none answers.
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
/// If the connection is gone.
pub async fn refresh(client: &Client, model: Option<&Slug>) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::nats("cannot ask workers to look at the registry", error);
    let payload = model.map(ToString::to_string).unwrap_or_default();
    client.nats().publish(REFRESH_SUBJECT, payload.into()).await.map_err(|e| failed(&e))?;
    client.nats().flush().await.map_err(|e| failed(&e))
}
