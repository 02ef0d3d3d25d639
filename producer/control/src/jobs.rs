//! Single jobs: where they are, what became of them, and how they are taken out of the queue.

use std::time::Duration;

use async_nats::HeaderMap;
use embed_client::{
    Client, Holder,
    nats::{
        self, api,
        scan::{Scan, Stored},
    },
};
use embed_schemas::{
    EmbedFailure, ErrorCode, Format, JobId, Lane, Outcome, Slug, WireError, headers, inbox, streams,
    subjects::{self, Target},
    wire,
};
use serde::Serialize;
use serde_json::json;

use crate::{
    Error, dead,
    outcomes::{StoredOutcome, outcome},
};

/// For one answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A job that waits, or is being worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueuedJob {
    /// Its id. `None` if it cannot be read, or names none and gets one from where it is stored.
    pub id: Option<JobId>,
    /// Its sequence in the model's stream of jobs.
    pub sequence: u64,
    /// The lane.
    pub lane: Lane,
    /// The variant, if it is bound to one.
    pub variant: Option<Slug>,
    /// Whose it is, if its subject says so.
    pub tenant: Option<Slug>,
    /// When it was published, RFC 3339.
    pub published: String,
    /// Texts, as far as it can be read.
    pub texts: Option<usize>,
    /// Bytes.
    pub bytes: usize,
    /// The workers that have it: one, or none if it waits; more for a moment if it was taken from one that was silent.
    pub held_by: Vec<String>,
    #[serde(skip)]
    reply_to: Option<String>,
    #[serde(skip)]
    digest: Option<String>,
    #[serde(skip)]
    format: Format,
}

/// Where a job is.
#[derive(Debug)]
pub enum JobState {
    /// It is done: there is an outcome.
    Ended(StoredOutcome),
    /// It waits, or is being worked on.
    Queued(QueuedJob),
    /// It is in no stream but that of dead letters.
    Dead(Box<dead::DeadLetter>),
    /// Nothing is known of it: it never was, or its outcome has expired.
    Unknown,
}

/// What became of a job that was to be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Cancelled {
    /// It has the outcome `cancelled`, and is out of its stream.
    Cancelled {
        /// Whether a worker had it: what it computes is thrown away.
        held: bool,
    },
    /// It had ended before.
    Ended,
    /// It is not in the stream.
    Unknown,
}

/// Reads the jobs that are in a model's stream, oldest first.
#[derive(Debug)]
pub struct Jobs {
    scan: Scan,
    holders: Vec<Holder>,
}

impl Jobs {
    /// Of a model. Asks all workers what they hold, which takes some 300 milliseconds.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn new(client: &Client, model: &Slug) -> Result<Self, Error> {
        Ok(Self { holders: holders(client, model).await?, ..Self::unasked(client, model) })
    }

    fn unasked(client: &Client, model: &Slug) -> Self {
        Self { scan: Scan::new(client.nats(), streams::jobs_stream(model), ">"), holders: Vec::new() }
    }

    /// The next few; empty after the last.
    ///
    /// # Errors
    /// [`Error::Provision`] if the stream cannot be read.
    pub async fn page(&mut self) -> Result<Vec<QueuedJob>, Error> {
        let page = self.scan.page(TIMEOUT).await;
        let page = page.map_err(|error| Error::Provision {
            what: "cannot read the stream of jobs".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(page.into_iter().map(|stored| self.queued(stored)).collect())
    }

    fn queued(&self, stored: Stored) -> QueuedJob {
        let Stored { sequence, subject, time, headers: all, payload } = stored;
        let header = |name: &str| all.get(name).map(async_nats::HeaderValue::as_str);
        let target = subjects::parse(&subject);
        let tenant = target.as_ref().and_then(|target| target.tenant.clone());
        let content_type = header(headers::CONTENT_TYPE);
        let request = wire::decode_request(&payload, content_type).ok();
        let id = wire::readable_id(&payload, content_type).or_else(|| header(headers::MSG_ID)?.parse().ok());
        QueuedJob {
            id,
            sequence,
            lane: target.as_ref().map_or(Lane::Job, |target| target.lane),
            variant: target.and_then(|target: Target| target.variant),
            tenant,
            published: time,
            texts: request.as_ref().map(|(request, _)| request.texts.len()),
            bytes: payload.len(),
            held_by: held_by(&self.holders, sequence),
            reply_to: header(headers::REPLY_TO)
                .filter(|reply| inbox::check::<&str>(reply, &[]).is_ok())
                .map(str::to_owned),
            format: request.as_ref().map(|(_, format)| *format).unwrap_or_default(),
            digest: request.map(|(request, _)| request.digest()),
        }
    }
}

/// Looks for a job: among the outcomes, then in the stream of jobs from its beginning, then among the dead letters. `progress` hears how
/// many jobs have been looked at.
///
/// # Errors
/// If a stream cannot be read.
pub async fn find(client: &Client, model: &Slug, id: &JobId, progress: impl FnMut(u64)) -> Result<JobState, Error> {
    find_for(client, model, None, id, progress).await
}

/// The same for a job of a tenant.
///
/// # Errors
/// As [`find`].
pub async fn find_for(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
    progress: impl FnMut(u64),
) -> Result<JobState, Error> {
    if let Some(outcome) = outcome(client, model, tenant, id).await? {
        return Ok(JobState::Ended(outcome));
    }
    if let Some(job) = queued(client, model, tenant, id, progress).await? {
        return Ok(JobState::Queued(job));
    }
    // It may have ended meanwhile.
    if let Some(outcome) = outcome(client, model, tenant, id).await? {
        return Ok(JobState::Ended(outcome));
    }
    let filter = dead::Filter { model: Some(model.clone()), ids: vec![id.to_string()], ..dead::Filter::default() };
    let mut letters = dead::DeadLetters::new(client, filter);
    let mut last = None;
    while let Some(page) = letters.page().await? {
        let of_tenant = |letter: &dead::DeadLetter| subjects::parse(&letter.subject).and_then(|target| target.tenant);
        last = page.into_iter().rfind(|letter| of_tenant(letter).as_ref() == tenant).or(last);
    }
    Ok(last.map_or(JobState::Unknown, |letter| JobState::Dead(Box::new(letter))))
}

async fn holders(client: &Client, model: &Slug) -> Result<Vec<Holder>, Error> {
    let mut holders = client.holders().await?;
    holders.retain(|holder| holder.model == *model);
    Ok(holders)
}

fn held_by(holders: &[Holder], sequence: u64) -> Vec<String> {
    let held = holders.iter().filter(|holder| holder.held.contains(sequence));
    held.map(|holder| holder.worker.clone()).collect()
}

async fn queued(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
    mut progress: impl FnMut(u64),
) -> Result<Option<QueuedJob>, Error> {
    let mut jobs = Jobs::unasked(client, model);
    let mut looked_at = 0;
    loop {
        let page = jobs.page().await?;
        if page.is_empty() {
            return Ok(None);
        }
        looked_at += page.len() as u64;
        let is_it = |job: &QueuedJob| job.id.as_ref() == Some(id) && job.tenant.as_ref() == tenant;
        if let Some(mut job) = page.into_iter().find(is_it) {
            // Asked last: looking for it may have taken long.
            job.held_by = held_by(&holders(client, model).await?, job.sequence);
            return Ok(Some(job));
        }
        progress(looked_at);
    }
}

/// Takes a job out of the queue, with the outcome `cancelled`, so that whoever waits for it hears of it. A worker that has it finds that
/// outcome when it stores its own, and ends the job.
///
/// # Errors
/// If a stream cannot be read or written.
pub async fn cancel(client: &Client, model: &Slug, id: &JobId, progress: impl FnMut(u64)) -> Result<Cancelled, Error> {
    cancel_for(client, model, None, id, progress).await
}

/// The same for a job of a tenant.
///
/// # Errors
/// As [`cancel`].
pub async fn cancel_for(
    client: &Client,
    model: &Slug,
    tenant: Option<&Slug>,
    id: &JobId,
    progress: impl FnMut(u64),
) -> Result<Cancelled, Error> {
    if outcome(client, model, tenant, id).await?.is_some() {
        return Ok(Cancelled::Ended);
    }
    let Some(job) = queued(client, model, tenant, id, progress).await? else {
        let ended = outcome(client, model, tenant, id).await?.is_some();
        return Ok(if ended { Cancelled::Ended } else { Cancelled::Unknown });
    };
    if !store(client, model, id, &job).await? {
        return Ok(Cancelled::Ended);
    }
    let call = format!("STREAM.MSG.DELETE.{}", streams::jobs_stream(model));
    match api::call(client.nats(), &call, &json!({"seq": job.sequence, "no_erase": true}), TIMEOUT).await {
        // A worker may have ended it just now.
        Ok(_) | Err(api::ApiError::Refused { .. }) => Ok(Cancelled::Cancelled { held: !job.held_by.is_empty() }),
        Err(error) => Err(Error::Provision {
            what: format!("job {id} is cancelled, and could not be taken out of its stream (a worker will do it)"),
            reason: error.to_string(),
        }),
    }
}

/// Stores the outcome `cancelled`. `false` if there is one already.
async fn store(client: &Client, model: &Slug, id: &JobId, job: &QueuedJob) -> Result<bool, Error> {
    let error = WireError::new(
        ErrorCode::Cancelled,
        "an operator took the job out of the queue; publish it under another id if it is wanted",
    );
    let outcome = Outcome::Failure(EmbedFailure { id: Some(id.clone()), error });
    let mut header = HeaderMap::new();
    header.insert(headers::CONTENT_TYPE, job.format.content_type());
    header.insert(headers::SERVICE_ERROR_CODE, ErrorCode::Cancelled.status().to_string().as_str());
    if let Some(digest) = &job.digest {
        header.insert(headers::REQUEST_DIGEST, digest.as_str());
    }
    let copy = header.clone();
    header.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
    header.insert(async_nats::header::NATS_EXPECTED_STREAM, streams::results_stream(model).as_str());
    let what = format!("cannot store that job {id} is cancelled");
    let failed = |reason: String| Error::Provision { what: what.clone(), reason };
    let payload = job.format.encode(&outcome);
    let answer = nats::request(
        client.nats(),
        subjects::store_for(model, job.tenant.as_ref(), id),
        header,
        payload.clone(),
        TIMEOUT,
    );
    let answer = answer.await.map_err(|error| failed(error.to_string()))?;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.payload).map_err(|error| failed(format!("unreadable answer: {error}")))?;
    match &answer["error"] {
        serde_json::Value::Null => {
            // As a worker does: nothing depends on it. It goes to inboxes as all clients have them, whatever the job says.
            if let Some(reply_to) = job.reply_to.clone().filter(|subject| inbox::check::<&str>(subject, &[]).is_ok()) {
                let _ = client.nats().publish_with_headers(reply_to, copy, payload).await;
            }
            Ok(true)
        }
        error if error["err_code"].as_u64().is_some_and(|code| api::WRONG_LAST_SEQUENCE.contains(&code)) => Ok(false),
        error => Err(failed(error["description"].as_str().unwrap_or("no reason given").to_owned())),
    }
}
