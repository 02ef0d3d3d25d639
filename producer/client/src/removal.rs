//! Results that nobody needs any more are removed: by a worker, for whoever has the key of their ids, or by whoever may purge their stream.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use embed_schemas::{
    Format, JobId, Slug,
    removal::{Removal, RemovalKey, Removed},
    streams, subjects, wire,
};
use serde_json::json;

use super::Client;
use crate::{
    Error,
    nats::{
        self,
        api::{self, ApiError},
    },
};

/// For one removal from the stream.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// For what a worker removes: as many as one request may name.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    /// Removes the outcome of a job from its stream, once nobody needs it there any more: a stream with a bound would fill up.
    /// What is not removed expires. `false`: nothing was there.
    ///
    /// It takes the permission to purge the stream, with which all results can be removed, those of others as well:
    /// [`Client::remove_results`] does without.
    ///
    /// # Errors
    /// [`Error::Nats`] if the server does not answer, as one does not that was not asked, for want of a permission; [`Error::Rejected`] if it
    /// refuses.
    pub async fn remove_result(&self, model: &Slug, id: &JobId) -> Result<bool, Error> {
        self.remove_result_for(model, None, id).await
    }

    /// The same for a job of a tenant.
    ///
    /// # Errors
    /// As [`Client::remove_result`].
    pub async fn remove_result_for(&self, model: &Slug, tenant: Option<&Slug>, id: &JobId) -> Result<bool, Error> {
        let call = format!("STREAM.PURGE.{}", streams::results_stream(model));
        let body = json!({ "filter": subjects::result_for(model, tenant, id) });
        let removed = api::call(&self.nats, &call, &body, REMOVE_TIMEOUT).await;
        let removed = removed.map_err(|error| {
            let (what, reason) = (format!("the result of job {id} could not be removed"), error.to_string());
            match error {
                ApiError::Refused { .. } => Error::Rejected { what, reason },
                ApiError::NotReady(_) => Error::Nats { what, reason },
            }
        })?;
        Ok(removed["purged"].as_u64() != Some(0))
    }

    /// Asks a worker to remove the outcomes of jobs whose ids were made with this key ([`crate::id_with_key`]), at most
    /// [`embed_schemas::removal::MAX_REMOVALS`]. `None`: no worker takes such requests, as those of before do not.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the worker refuses, [`Error::NotPermitted`] if the server does; [`Error::Nats`] if nobody answers.
    pub async fn remove_results(
        &self,
        model: &Slug,
        tenant: Option<&Slug>,
        key: &RemovalKey,
        ids: Vec<JobId>,
    ) -> Result<Option<Removed>, Error> {
        let what = || "results could not be removed".to_owned();
        let payload = Format::MessagePack.encode(&Removal { key: key.clone(), ids });
        let subject = subjects::remove(model, tenant);
        let answer = nats::request(&self.nats, subject.clone(), HeaderMap::new(), payload, WORKER_TIMEOUT).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
            Err(error) => return Err(Error::request(what(), &error)),
        };
        let removed = wire::decode_removed(&answer.payload)
            .map_err(|error| Error::BadAnswer { from: subject, reason: error.to_string() })?;
        match &removed.error {
            Some(reason) if removed.left.is_empty() => Err(Error::Rejected { what: what(), reason: reason.clone() }),
            _ => Ok(Some(removed)),
        }
    }
}
