//! Variants that are to be served no longer: who takes what is sent to them, and what waits for them.

use embed_client::Client;
use embed_schemas::{RouteRecord, Slug, serving::DesiredVariant};

use super::{bucket::Wanted, refresh};
use crate::{
    Error,
    provision::Consumers,
    route::{RouteError, RouteStore},
};

/// What is to be served no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserve {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// Who takes what is sent to the model without a variant from now on, if this one does: another variant, or the same one if
    /// workers' configuration has it.
    pub default: Option<Slug>,
    /// Even if a route sends traffic to it.
    pub force: bool,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unserved {
    /// Whether it was wanted before.
    pub was_wanted: bool,
    /// Jobs that have been sent to it and are not done. They stay in their stream, until somebody serves it.
    pub waiting: u64,
}

/// Does not want a variant to be served any more; workers whose configuration names it go back to that.
///
/// # Errors
/// [`Error::Settings`] if it is the default and no other is named, or has a share of its model's traffic; [`Error::NoBucket`];
/// [`Error::Nats`].
pub async fn unserve(client: &Client, what: &Unserve) -> Result<Unserved, Error> {
    let Unserve { model, variant, default, force } = what;
    let bucket = Wanted::new(client.nats().clone());
    let target = (model.clone(), variant.clone());
    let mut all = bucket.all().await?;
    let Some(found) = all.remove(&target) else {
        return Ok(Unserved { was_wanted: false, waiting: waiting(client, what).await? });
    };
    if !force {
        let route = match RouteStore::new(client.nats().clone()).get(model).await {
            Ok((_, route)) => route,
            Err(RouteError::Common(Error::NoBucket { .. })) => None,
            Err(RouteError::Common(error)) => return Err(error),
            Err(error) => return Err(Error::Settings(error.to_string())),
        };
        if let Some(share) = route.and_then(|route| share(&route, variant)) {
            return Err(Error::Settings(format!(
                "variant {variant} gets {share} of {model}: give its traffic to others first, such as with `embed route set {model} \
                 --all-to NAME`, or unserve it with --force, if workers' configuration serves it"
            )));
        }
    }
    if let Some(consumers) =
        consumers(client, model).await?.filter(|consumers| consumers.default.as_ref() == Some(variant))
    {
        let Some(default) = default else {
            return Err(Error::Settings(format!(
                "variant {variant} takes what is sent to {model} without a variant: say with --default NAME which variant \
                 takes it from now on ({variant} itself, if the workers' configuration serves it)"
            )));
        };
        let heir = (model.clone(), default.clone());
        if let Some(entry) = all.get(&heir).filter(|_| default != variant) {
            let desired = DesiredVariant { default: Some(true), ..entry.desired.clone() };
            let revision = bucket.put(&heir, &desired, entry.revision).await?;
            if let Err(error) = bucket.only_default(&heir, revision, &all, Some(&target)).await {
                if matches!(error, Error::Contended { .. }) {
                    bucket.put(&heir, &DesiredVariant { default: None, ..entry.desired.clone() }, revision).await?;
                }
                return Err(error);
            }
        }
        consumers.add(client.nats(), model, default, true).await?;
    }
    bucket.remove(&target, found.revision).await?;
    refresh(client, None).await?;
    Ok(Unserved { was_wanted: true, waiting: waiting(client, what).await? })
}

/// The shares that a route gives a variant, in words. `None` if it gives it nothing.
fn share(route: &RouteRecord, variant: &Slug) -> Option<String> {
    let lanes = route.lanes.iter();
    let shares = lanes.filter_map(|(lane, weights)| {
        weights.iter().find(|(name, _)| *name == variant).map(|(_, percent)| format!("{percent} % of lane {lane}"))
    });
    let shares: Vec<_> = shares.collect();
    (!shares.is_empty()).then(|| shares.join(", "))
}

async fn waiting(client: &Client, Unserve { model, variant, .. }: &Unserve) -> Result<u64, Error> {
    Ok(consumers(client, model).await?.map_or(0, |consumers| consumers.waiting(variant)))
}

/// The model's consumers. What has no stream has no work.
async fn consumers(client: &Client, model: &Slug) -> Result<Option<Consumers>, Error> {
    match Consumers::of(client.nats(), model).await {
        Err(Error::Client(embed_client::Error::NoStream { .. })) => Ok(None),
        other => other.map(Some),
    }
}
