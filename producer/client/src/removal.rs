//! Results that nobody needs any more are removed: by a worker, for whoever has the key of their ids, or by whoever may purge their stream.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use embed_schemas::{
    Format, JobId, Slug,
    removal::{Removal, RemovalKey, Removed},
    streams, subjects, wire,
};
use serde_json::json;

use super::{Client, Fill};
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
        let what = "results could not be removed";
        let removal = Removal { key: key.clone(), ids };
        let Some(removed) = self.ask_to_remove(what, model, tenant, &removal).await? else { return Ok(None) };
        match &removed.error {
            Some(reason) if removed.left.is_empty() => {
                Err(Error::Rejected { what: what.to_owned(), reason: reason.clone() })
            }
            _ => Ok(Some(removed)),
        }
    }

    /// Asks a worker how full the stream of a model's results is: whoever may have results removed may ask that, and need not be permitted to
    /// look at everybody's. `None`: no worker takes such requests.
    ///
    /// # Errors
    /// [`Error::NotPermitted`] if the server refuses; [`Error::Nats`] if nobody answers, or a worker does not say, as those of before do not.
    pub async fn results_fill_by_worker(&self, model: &Slug, tenant: Option<&Slug>) -> Result<Option<Fill>, Error> {
        let stream = streams::results_stream(model);
        let what = format!("cannot ask a worker how full the stream {stream} is");
        let Some(answer) = self.ask_to_remove(&what, model, tenant, &Removal::none()).await? else { return Ok(None) };
        match answer.results {
            Some(said) => Ok(Some(Fill::said(stream, said))),
            None => Err(Error::nats(what, answer.error.unwrap_or_else(|| "it does not say".to_owned()))),
        }
    }

    /// One request and its answer. `None`: nobody takes such requests.
    async fn ask_to_remove(
        &self,
        what: &str,
        model: &Slug,
        tenant: Option<&Slug>,
        removal: &Removal,
    ) -> Result<Option<Removed>, Error> {
        let payload = Format::MessagePack.encode(removal);
        let subject = subjects::remove(model, tenant);
        let answer = nats::request(&self.nats, subject.clone(), HeaderMap::new(), payload, WORKER_TIMEOUT).await;
        match answer {
            Ok(answer) => {
                let bad = |error: wire::DecodeError| Error::BadAnswer { from: subject, reason: error.to_string() };
                wire::decode_removed(&answer.payload).map(Some).map_err(bad)
            }
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(Error::request(what, &error)),
        }
    }
}
