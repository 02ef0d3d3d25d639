//! Dead letters: jobs that could not be served, looked at, sent once more, or thrown away.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_client::{
    Client,
    nats::{
        api,
        scan::{Scan, Stored},
        stored::{self, Which},
    },
    new_id,
};
use embed_schemas::{
    ErrorCode, JobId, Outcome, Slug, headers,
    streams::{self, DEAD_STREAM},
    subjects::{self, Target},
    wire,
};
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Error, outcomes};

/// For one answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A dead letter.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its sequence in the stream of dead letters: what it is called by.
    pub sequence: u64,
    /// When it was written, RFC 3339.
    pub time: String,
    /// The job's model.
    pub model: Slug,
    /// The variant whose worker gave up.
    pub variant: Slug,
    /// The job's id, where it could be read.
    pub id: Option<JobId>,
    /// The stable code of the error.
    pub code: String,
    /// What went wrong.
    pub reason: String,
    /// How often the job had been tried. Only what failed in an engine, or killed a worker, is an attempt.
    pub attempts: u64,
    /// How often it had been delivered.
    pub deliveries: u64,
    /// The worker that gave up, if it is new enough to say so.
    pub worker: Option<String>,
    /// The subject that the job's producer published on, as far as it is known; otherwise that on which the job was stored.
    pub subject: String,
    /// Bytes of the job.
    pub bytes: u64,
    /// Whether only a part of the job is in the letter, since the whole did not fit.
    pub cut: bool,
    #[serde(skip)]
    headers: HeaderMap,
    /// The job as it was published.
    #[serde(skip)]
    pub payload: Bytes,
}

/// Which dead letters. All that are set must be so.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this model.
    pub model: Option<Slug>,
    /// That workers of this variant wrote.
    pub variant: Option<Slug>,
    /// With this code.
    pub code: Option<String>,
    /// Written at this moment or later.
    pub since: Option<OffsetDateTime>,
    /// Written before this moment.
    pub until: Option<OffsetDateTime>,
    /// With one of these sequences, or of a job with one of these ids. Both empty: all.
    pub sequences: Vec<u64>,
    /// See [`Filter::sequences`].
    pub ids: Vec<String>,
}

/// What became of a letter that was to be retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Retried {
    /// The job is in its stream again.
    Published {
        /// Its id.
        id: JobId,
        /// The subject.
        subject: String,
        /// The sequence in the stream.
        sequence: u64,
    },
    /// It would have been.
    Would {
        /// Its id.
        id: JobId,
        /// The subject.
        subject: String,
    },
    /// It has its result already; the letter is removed.
    Done {
        /// Its id.
        id: JobId,
    },
    /// It cannot be, and the letter stays.
    Refused {
        /// Why, and what can be done.
        reason: String,
    },
}

impl Filter {
    fn subject(&self) -> String {
        let token = |slug: &Option<Slug>| slug.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        format!("embed.dead.{}.{}", token(&self.model), token(&self.variant))
    }

    /// Whether a letter is one of these.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<Slug>, slug: &Slug| wanted.as_ref().is_none_or(|wanted| wanted == slug);
        let time = OffsetDateTime::parse(&letter.time, &Rfc3339).ok();
        let named = self.sequences.contains(&letter.sequence)
            || letter.id.as_ref().is_some_and(|id| self.ids.iter().any(|name| name == id.as_str()));
        is(&self.model, &letter.model)
            && is(&self.variant, &letter.variant)
            && self.code.as_ref().is_none_or(|code| *code == letter.code)
            && self.since.zip(time).is_none_or(|(since, time)| time >= since)
            && self.until.zip(time).is_none_or(|(until, time)| time < until)
            && (self.sequences.is_empty() && self.ids.is_empty() || named)
    }
}

impl DeadLetter {
    /// Reads a message of the stream. `None` if it is none.
    #[must_use]
    pub fn read(stored: Stored) -> Option<Self> {
        let Stored { sequence, subject, time, headers: all, payload } = stored;
        let mut tokens = subject.strip_prefix("embed.dead.")?.split('.');
        let (model, variant) = (tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
        let text = |name: &str| all.get(name).map(|value| value.as_str().to_owned());
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let content_type = text(headers::CONTENT_TYPE);
        let size = number(headers::DEAD_SIZE);
        let id = text(headers::DEAD_ID).and_then(|id| id.parse().ok());
        Some(Self {
            sequence,
            time,
            model,
            variant,
            id: id.or_else(|| wire::readable_id(&payload, content_type.as_deref())),
            code: text(headers::DEAD_CODE).unwrap_or_default(),
            reason: text(headers::DEAD_REASON).unwrap_or_default(),
            attempts: number(headers::DEAD_ATTEMPTS).unwrap_or_default(),
            deliveries: number(headers::DEAD_DELIVERIES).unwrap_or_default(),
            worker: text(headers::DEAD_WORKER),
            subject: published_on(text(headers::SUBJECT), text(headers::DEAD_SUBJECT)),
            bytes: size.unwrap_or(payload.len() as u64),
            cut: size.is_some(),
            headers: all,
            payload,
        })
    }
}

/// The subject that a producer says it used, if the job can have come from there to where it was stored; otherwise the latter. What a producer
/// says must not send its job to another model, or to another tenant, with the permissions of whoever sends it once more.
fn published_on(said: Option<String>, stored: Option<String>) -> String {
    let place = |subject: &String| {
        let Target { lane, model, tenant, .. } = subjects::parse(subject)?;
        Some((lane, model, tenant))
    };
    let stored_at = stored.as_ref().and_then(place);
    said.filter(|said| stored_at.is_some() && place(said) == stored_at).or(stored).unwrap_or_default()
}

/// Reads dead letters, in the order in which they were written.
#[derive(Debug)]
pub struct DeadLetters {
    scan: Scan,
    filter: Filter,
}

impl DeadLetters {
    /// Those that a filter lets through.
    #[must_use]
    pub fn new(client: &Client, filter: Filter) -> Self {
        Self { scan: Scan::new(client.nats(), DEAD_STREAM, filter.subject()), filter }
    }

    /// The next few; `None` after the last. May be empty before.
    ///
    /// # Errors
    /// [`Error::Provision`] if the stream cannot be read.
    pub async fn page(&mut self) -> Result<Option<Vec<DeadLetter>>, Error> {
        let page = self.scan.page(TIMEOUT).await.map_err(|error| Error::Provision {
            what: format!("cannot read dead letters from stream {DEAD_STREAM}"),
            reason: error.to_string(),
        })?;
        let letters = page.into_iter().filter_map(DeadLetter::read);
        let end = letters.size_hint().1 == Some(0);
        let letters = letters.filter(|letter| self.filter.matches(letter)).collect();
        Ok((!end).then_some(letters))
    }
}

/// Sends a job once more: under its id, on the subject that its producer used, with a failure that was stored for it out of the way. Then
/// the letter is removed. Whatever fails between, the letter is still there, and it can be done again.
///
/// # Errors
/// If the server does not answer, or refuses.
pub async fn retry(client: &Client, letter: &DeadLetter, as_new: bool, dry_run: bool) -> Result<Retried, Error> {
    let refused = |reason: &str| Ok(Retried::Refused { reason: reason.to_owned() });
    if letter.cut {
        return refused(
            "the letter holds only a part of the job, which was too large: publish it anew, in smaller pieces",
        );
    }
    let content_type = letter.headers.get(headers::CONTENT_TYPE).map(|value| value.as_str());
    let (mut request, format) = match wire::decode_request(&letter.payload, content_type) {
        Ok(decoded) => decoded,
        Err(refusal) => {
            return Ok(Retried::Refused { reason: format!("it is no job, and would fail again: {}", refusal.error) });
        }
    };
    let Some(Target { model, tenant, .. }) = subjects::parse(&letter.subject) else {
        return refused("it cannot be told on which subject it was published");
    };
    let digest = request.digest();
    let id = match (&letter.id, as_new) {
        (Some(id), false) => id.clone(),
        _ => new_id(),
    };
    let stored = outcomes::outcome(client, &model, tenant.as_ref(), &id).await?;
    if let Some(stored) = &stored {
        // Vectors that do not say what they are of may be anybody's.
        let unsaid = stored.digest.is_none() && matches!(stored.outcome, Outcome::Result(_));
        if unsaid || stored.digest.as_ref().is_some_and(|of| *of != digest) {
            return refused("its id is another job's: give it a new one with --new-id");
        }
        if is_success(&stored.outcome) {
            if !dry_run {
                remove(client, letter.sequence).await?;
            }
            return Ok(Retried::Done { id });
        }
        if matches!(&stored.outcome, Outcome::Failure(failure) if failure.error.code == ErrorCode::Cancelled) {
            return refused("it was cancelled: to have it all the same, give it a new id with --new-id");
        }
    } else if is_held(client, &model, letter).await? {
        return refused("its worker has not ended it yet, as while the stream of results is full: try again later");
    }
    if dry_run {
        return Ok(Retried::Would { id, subject: letter.subject.clone() });
    }
    if let Some(stored) = stored
        && !delete(client, &streams::results_stream(&model), stored.sequence).await?
    {
        return refused("somebody else sends it once more at this moment");
    }
    request.id = Some(id.clone());
    let mut header = HeaderMap::new();
    for name in [headers::REPLY_TO, headers::TRACEPARENT] {
        if let Some(value) = letter.headers.get(name) {
            header.insert(name, value.as_str());
        }
    }
    header.insert(headers::SUBJECT, letter.subject.as_str());
    header.insert(headers::CONTENT_TYPE, format.content_type());
    // Another than the first time, or the server would drop it. No job has an id with a dot.
    header.insert(headers::MSG_ID, format!("{id}.retry-{}", letter.sequence).as_str());
    let published = client.publish_encoded(&letter.subject, id, header, format.encode(&request), TIMEOUT * 3).await?;
    remove(client, letter.sequence).await?;
    Ok(Retried::Published { id: published.id, subject: letter.subject.clone(), sequence: published.sequence })
}

/// Whether nothing of it failed: such an outcome is kept.
fn is_success(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Result(result) if result.items.iter().all(|item| item.error.is_none()))
}

/// Whether the message that a letter was written for is still in its stream: then there is more to come of it.
async fn is_held(client: &Client, model: &Slug, letter: &DeadLetter) -> Result<bool, Error> {
    let Some(sequence) = letter.headers.get(headers::DEAD_SEQUENCE) else { return Ok(false) };
    let which = Which::Sequence(sequence.as_str().parse().unwrap_or_default());
    let found = stored::read(client.nats(), &streams::jobs_stream(model), which, TIMEOUT).await;
    let found = found.map_err(|error| Error::Provision {
        what: "cannot look whether the job is still in its stream".to_owned(),
        reason: error.to_string(),
    })?;
    // A stream that was made anew has other messages at the same sequences.
    Ok(found.is_some_and(|found| found.payload == letter.payload))
}

/// Throws a letter away.
///
/// # Errors
/// If the server does not answer, or refuses.
pub async fn remove(client: &Client, sequence: u64) -> Result<(), Error> {
    delete(client, DEAD_STREAM, sequence).await.map(|_| ())
}

/// Deletes one message. `false`: it is not there.
async fn delete(client: &Client, stream: &str, sequence: u64) -> Result<bool, Error> {
    /// JetStream's codes for a message that is not there.
    const NO_MESSAGE: [u64; 2] = [10037, 10043];
    let call = format!("STREAM.MSG.DELETE.{stream}");
    match api::call(client.nats(), &call, &json!({"seq": sequence, "no_erase": true}), TIMEOUT).await {
        Ok(_) => Ok(true),
        Err(error) if NO_MESSAGE.iter().any(|code| error.is(*code)) => Ok(false),
        Err(error) => {
            let what = format!("cannot delete message {sequence} of stream {stream}");
            Err(Error::Provision { what, reason: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_producer_says_sends_no_job_elsewhere() {
        let on = |said: &str, stored: &str| published_on(Some(said.to_owned()), Some(stored.to_owned()));
        // A route has led it to a variant.
        assert_eq!(on("embed.job.m", "embed.job.m.fp32"), "embed.job.m");
        assert_eq!(on("embed.job.m._.a", "embed.job.m.fp32.a"), "embed.job.m._.a");
        for elsewhere in
            ["embed.job.other", "embed.bulk.m", "embed.rpc.m", "embed.job.m._.b", "embed.job.m", "$KV.embed_models.m.v"]
        {
            assert_eq!(on(elsewhere, "embed.job.m.fp32.a"), "embed.job.m.fp32.a", "{elsewhere}");
        }
        assert_eq!(published_on(None, Some("embed.job.m.fp32".into())), "embed.job.m.fp32");
        assert_eq!(published_on(Some("embed.job.m".into()), None), "");
    }
}
