//! Results that are written are removed from their stream, so that a stream with a bound never fills under a backfill.
//! Only what is durable in the output is removed. What cannot be removed expires with the stream's age.
//!
//! Workers remove, for the key that the jobs' ids prove: it takes no permission with which the results of others could be removed. Where no
//! worker does, as those of before do not, they are purged one by one, if that is permitted.

use std::{collections::BTreeSet, time::Duration};

use embed_schemas::{
    JobId, Slug,
    removal::{MAX_REMOVALS, RemovalKey, Removed},
    streams, subjects,
};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use embed_client::{Client, Error, nats::api, part_id};

use crate::State;

/// Removals at once, where no worker removes.
const AT_ONCE: usize = 8;
/// For what is left at the end of a run.
const LAST_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two attempts at what is left.
const AGAIN: Duration = Duration::from_millis(500);
/// For one page of the list of what is left.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Workers that did not answer are not asked for so long, where there is another way.
const UNASKED: Duration = Duration::from_secs(60);
/// A server that has answered no removal for so long is not choosing a leader: it is not asked, or may not be.
const SILENCE: Duration = Duration::from_secs(10);

/// Rows after those that are done, whose results are removed when a backfill is cancelled: as a rule, more than are under way.
const PERHAPS: u64 = 16_384;

/// The jobs that may have a result although nothing of them is written.
pub(crate) fn perhaps_stored(state: &State) -> Vec<JobId> {
    let (rows, jobs) = (state.done.rows..state.done.rows + PERHAPS, state.jobs());
    rows.filter_map(|row| part_id(&jobs, row).ok()).collect()
}

/// Removes results behind the driver's back.
#[derive(Debug)]
pub(crate) struct Purger {
    ids: mpsc::UnboundedSender<Vec<JobId>>,
    task: AbortOnDropHandle<Remover>,
    /// In place of the task's, if that does not come to its end.
    fresh: Remover,
}

impl Purger {
    /// For this backfill, whose id all its jobs' ids begin with.
    pub(crate) fn start(client: &Client, state: &State) -> Self {
        // Unbounded, but no faster than rows are written: an id is far smaller than the rows that it stands for.
        let (ids, mut received) = mpsc::unbounded_channel::<Vec<JobId>>();
        let fresh = Remover {
            client: client.clone(),
            model: state.parameters.model.clone(),
            tenant: state.parameters.tenant.clone(),
            backfill: state.id.clone(),
            by_worker: false,
            unasked_until: None,
            key: state.removal_key.clone(),
            left: Vec::new(),
            silent_since: None,
            blocked: false,
            denied: false,
            said: false,
        };
        let mut remover = fresh.clone();
        let task = tokio::spawn(async move {
            while let Some(mut ids) = received.recv().await {
                while let Ok(more) = received.try_recv() {
                    ids.extend(more);
                }
                remover.remove(ids, None).await;
            }
            remover
        });
        Self { ids, task: AbortOnDropHandle::new(task), fresh }
    }

    /// Removes the results of these jobs, sometime.
    pub(crate) fn remove(&self, ids: Vec<JobId>) {
        // It fails only if the task has panicked; results expire anyway.
        let _ = self.ids.send(ids);
    }

    /// Waits for the removals, a bounded time. If the backfill is over, nothing of it is to stay: what a worker has stored again since, or a
    /// server brought back, is removed as well. Returns how many results are left, as far as that is known. `perhaps`: jobs whose
    /// results are removed, if there are any, where it cannot be listed what there is.
    pub(crate) async fn finish(self, over: bool, perhaps: Vec<JobId>) -> u64 {
        drop(self.ids);
        let mut remover = match tokio::time::timeout(LAST_TIMEOUT, self.task).await {
            Ok(Ok(remover)) => remover,
            // What it would have removed is found again, now or at the end of a resumed run.
            _ => self.fresh,
        };
        remover.sweep(over, perhaps).await;
        remover.left.len() as u64
    }
}

/// What removes, and what it has found out about that.
#[derive(Debug, Clone)]
struct Remover {
    client: Client,
    model: Slug,
    tenant: Option<Slug>,
    backfill: JobId,
    /// What proves that the ids are the backfill's.
    key: Option<RemovalKey>,
    /// Whether a worker removed the last that were removed: then many can be, in one request.
    by_worker: bool,
    /// Until when workers are not asked, since they were silent and the stream can be purged.
    unasked_until: Option<Instant>,
    /// Jobs whose results are still to be removed.
    left: Vec<JobId>,
    /// Since when no removal has been answered, if the last was not.
    silent_since: Option<Instant>,
    /// Whether only one at a time is tried, to see whether it can be done again.
    blocked: bool,
    /// Whether the server has refused the last that was tried.
    denied: bool,
    /// Whether it was said that results stay.
    said: bool,
}

impl Remover {
    /// Removes results; those that cannot be removed now are left for later.
    async fn remove(&mut self, mut ids: Vec<JobId>, deadline: Option<Instant>) {
        while !ids.is_empty() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let rest = ids.split_off(ids.len().min(self.at_once()));
            match self.remove_some(ids).await {
                Ok(()) => {
                    ids = rest;
                    if std::mem::take(&mut self.blocked) {
                        ids.append(&mut self.left);
                    }
                    self.silent_since = None;
                }
                Err(error) => {
                    ids = rest;
                    self.complain_of(&error);
                    break;
                }
            }
        }
        self.left.append(&mut ids);
    }

    const fn at_once(&self) -> usize {
        match (self.blocked, self.by_worker) {
            (true, _) => 1,
            (false, true) => MAX_REMOVALS,
            (false, false) => AT_ONCE,
        }
    }

    /// Fails if none could be removed.
    async fn remove_some(&mut self, ids: Vec<JobId>) -> Result<(), Error> {
        let key = self.key.as_ref().filter(|_| self.unasked_until.is_none_or(|until| Instant::now() >= until));
        let Some(key) = key else { return self.purge(ids).await };
        let removed = self.client.remove_results(&self.model, self.tenant.as_ref(), key, ids.clone()).await;
        self.by_worker = matches!(removed, Ok(Some(_)));
        match removed {
            Ok(Some(Removed { left, error, .. })) => {
                let failed = error.filter(|_| left.len() == ids.len());
                self.left.extend(left);
                failed.map_or(Ok(()), |reason| Err(Error::nats("results could not be removed", reason)))
            }
            // Workers are of before, or may not be asked.
            Err(Error::NotPermitted { .. }) => self.purge(ids).await,
            // Workers are of before, or away for a moment: whoever may not purge waits for them.
            Ok(None) => match self.purge(ids).await {
                Err(Error::Rejected { .. } | Error::NotPermitted { .. }) => {
                    Err(Error::nats("results could not be removed", "no worker answers"))
                }
                purged => purged,
            },
            // They are silent. Whoever may purge need not wait for that each time; whoever may not, waits for workers.
            Err(silent @ Error::Nats { .. }) => match self.purge(ids).await {
                Ok(()) => {
                    self.unasked_until = Some(Instant::now() + UNASKED);
                    Ok(())
                }
                Err(Error::Rejected { .. } | Error::NotPermitted { .. }) => Err(silent),
                Err(error) => Err(error),
            },
            Err(error) => {
                self.left.extend(ids);
                Err(error)
            }
        }
    }

    /// Fails if none could be removed.
    async fn purge(&mut self, ids: Vec<JobId>) -> Result<(), Error> {
        let (client, model, tenant) = (&self.client, &self.model, self.tenant.as_ref());
        let remove = async |id: JobId| {
            let removed = client.remove_result_for(model, tenant, &id).await;
            (id, removed)
        };
        let removed: Vec<_> = stream::iter(ids).map(remove).buffer_unordered(AT_ONCE).collect().await;
        let (mut failed, mut answered) = (None, false);
        for (id, removed) in removed {
            match removed {
                Ok(there) => {
                    answered = true;
                    if !there {
                        tracing::debug!(%id, "a result that is written is not in its stream");
                    }
                }
                Err(error) => {
                    self.left.push(id);
                    failed = Some(error);
                }
            }
        }
        failed.filter(|_| !answered).map_or(Ok(()), Err)
    }

    /// Nothing was removed. What passes is not worth a word.
    fn complain_of(&mut self, error: &Error) {
        self.blocked = true;
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        self.denied = matches!(error, Error::Rejected { .. } | Error::NotPermitted { .. });
        if matches!(error, Error::Rejected { .. }) || since.elapsed() >= SILENCE {
            self.say(error);
        } else {
            tracing::debug!(%error, "results that are written stay for now");
        }
    }

    fn say(&mut self, reason: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.said, true) {
            let (stream, remove) =
                (streams::results_stream(&self.model), subjects::remove(&self.model, self.tenant.as_ref()));
            tracing::warn!(
                "results that are written stay in the stream {stream} until they expire, and when it is full, workers wait: {reason}. Allow \
                 publishing on {remove} and have workers that answer there (those of before need $JS.API.STREAM.PURGE.{stream}), or say \
                 --keep-results if they are to stay"
            );
        }
    }

    /// The last attempt for what is left; for all that there is of the backfill if it is over.
    async fn sweep(&mut self, over: bool, perhaps: Vec<JobId>) {
        let deadline = Instant::now() + LAST_TIMEOUT;
        let mut ids = std::mem::take(&mut self.left);
        let mut listed = false;
        if over {
            match tokio::time::timeout_at(deadline, self.stored()).await {
                Ok(Ok(stored)) => (ids, listed) = (stored, true),
                Ok(Err(error)) => tracing::debug!(%error, "cannot look for results that are left"),
                Err(_) => tracing::debug!("no time to look for results that are left"),
            }
        }
        if !listed && !perhaps.is_empty() {
            self.remove(perhaps, Some(deadline)).await;
            // Nothing says that they were there.
            self.left.clear();
        }
        self.remove(ids, Some(deadline)).await;
        // A leader may have changed, or a few were not answered: there is time.
        while !self.left.is_empty() && !self.denied && Instant::now() + AGAIN < deadline {
            tokio::time::sleep(AGAIN).await;
            let ids = std::mem::take(&mut self.left);
            self.remove(ids, Some(deadline)).await;
        }
        if !self.left.is_empty() {
            self.say(&format_args!("{} could not be removed", self.left.len()));
        }
    }

    /// The jobs of the backfill that have a result in the stream.
    async fn stored(&self) -> Result<Vec<JobId>, api::ApiError> {
        let call = format!("STREAM.INFO.{}", streams::results_stream(&self.model));
        let prefix = format!("{}-", self.backfill);
        let all = subjects::results_for(&self.model, self.tenant.as_ref());
        let mut found = BTreeSet::new();
        let mut offset = 0;
        loop {
            // Page by page, since there may be results of others.
            let body = json!({ "subjects_filter": all, "offset": offset });
            let page = api::call(self.client.nats(), &call, &body, LIST_TIMEOUT).await?;
            let subjects = page["state"]["subjects"].as_object();
            let ids = subjects.into_iter().flat_map(|subjects| subjects.keys());
            let ids = ids.filter_map(|subject| subject.rsplit_once('.')?.1.parse::<JobId>().ok());
            let before = offset;
            offset += subjects.map_or(0, serde_json::Map::len);
            found.extend(ids.filter(|id| id.as_str().starts_with(&prefix)));
            if offset == before || page["total"].as_u64().is_none_or(|total| offset as u64 >= total) {
                return Ok(found.into_iter().collect());
            }
        }
    }
}
