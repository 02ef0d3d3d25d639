//! Dead letters: jobs that could not be served, looked at, sent once more, or thrown away.

mod newest;

use std::{collections::VecDeque, fmt, str::FromStr, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_client::{
    Client,
    nats::{
        api::{self, ApiError},
        scan::{Scan, Stored},
        stored::{self, Which},
    },
    new_id,
};
use embed_schemas::{
    ErrorCode, JobId, Outcome, Slug, headers,
    streams::{self, FORMER_DEAD_STREAM},
    subjects::{self, Target},
    trace::traceparent,
    wire,
};
use serde::Serialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub use newest::{LetterLine, Newest};

use crate::{Error, outcomes, stream_names};

/// For one answer of the server.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a letter is called by: `<model>:<sequence>`, or `EMBED_DEAD:<sequence>` for one that was written before each model had a stream of
/// its own. The sequence alone will do where only one letter has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterName {
    /// The stream that holds it, if it is said.
    pub stream: Option<String>,
    /// Its sequence there.
    pub sequence: u64,
}

impl LetterName {
    /// Whether it is the name of this letter.
    #[must_use]
    pub fn is_of(&self, letter: &DeadLetter) -> bool {
        self.sequence == letter.sequence && self.stream.as_ref().is_none_or(|stream| *stream == letter.stream)
    }
}

impl FromStr for LetterName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (stream, sequence) = match text.split_once(':') {
            Some((FORMER_DEAD_STREAM, sequence)) => (Some(FORMER_DEAD_STREAM.to_owned()), sequence),
            Some((model, sequence)) => (Some(streams::dead_stream(&model.parse().map_err(|_| ())?)), sequence),
            None => (None, text),
        };
        Ok(Self { stream, sequence: sequence.parse().map_err(|_| ())? })
    }
}

impl fmt::Display for LetterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stream {
            Some(stream) => {
                let model = stream.strip_prefix(FORMER_DEAD_STREAM).and_then(|rest| rest.strip_prefix('_'));
                write!(f, "{}:{}", model.unwrap_or(stream), self.sequence)
            }
            None => write!(f, "{}", self.sequence),
        }
    }
}

/// A dead letter.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The stream that holds it.
    pub stream: String,
    /// Its sequence there.
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
    /// With one of these names, or of a job with one of these ids. Both empty: all.
    pub letters: Vec<LetterName>,
    /// See [`Filter::letters`].
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
        let time = letter.written();
        let named = self.letters.iter().any(|name| name.is_of(letter))
            || letter.id.as_ref().is_some_and(|id| self.ids.iter().any(|name| name == id.as_str()));
        is(&self.model, &letter.model)
            && is(&self.variant, &letter.variant)
            && self.code.as_ref().is_none_or(|code| *code == letter.code)
            && self.since.zip(time).is_none_or(|(since, time)| time >= since)
            && self.until.zip(time).is_none_or(|(until, time)| time < until)
            && (self.letters.is_empty() && self.ids.is_empty() || named)
    }
}

impl DeadLetter {
    /// What it is called by.
    #[must_use]
    pub fn name(&self) -> LetterName {
        LetterName { stream: Some(self.stream.clone()), sequence: self.sequence }
    }

    /// When it was written.
    #[must_use]
    pub fn written(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(&self.time, &Rfc3339).ok()
    }

    /// Reads a message of such a stream. `None` if it is none.
    #[must_use]
    pub fn read(stream: &str, stored: Stored) -> Option<Self> {
        let Stored { sequence, subject, time, headers: all, payload } = stored;
        let mut tokens = subject.strip_prefix("embed.dead.")?.split('.');
        let (model, variant) = (tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
        let text = |name: &str| all.get(name).map(|value| value.as_str().to_owned());
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let content_type = text(headers::CONTENT_TYPE);
        let size = number(headers::DEAD_SIZE);
        let id = text(headers::DEAD_ID).and_then(|id| id.parse().ok());
        Some(Self {
            stream: stream.to_owned(),
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

/// Reads dead letters: those of one stream after those of another, each in the order in which they were written.
#[derive(Debug)]
pub struct DeadLetters {
    client: async_nats::Client,
    filter: Filter,
    /// Those that are still to be read. `None`: it is not known yet which there are.
    streams: Option<VecDeque<String>>,
    scan: Option<(String, Scan)>,
}

impl DeadLetters {
    /// Those that a filter lets through.
    #[must_use]
    pub fn new(client: &Client, filter: Filter) -> Self {
        Self { client: client.nats().clone(), filter, streams: None, scan: None }
    }

    /// The next few; `None` after the last. May be empty before.
    ///
    /// # Errors
    /// [`Error::Provision`] if a stream cannot be read, or there is none.
    pub async fn page(&mut self) -> Result<Option<Vec<DeadLetter>>, Error> {
        let left = match &mut self.streams {
            Some(left) => left,
            none => none.insert(dead_streams(&self.client, self.filter.model.as_ref()).await?),
        };
        loop {
            let (stream, scan) = match &mut self.scan {
                Some(scan) => scan,
                none => {
                    let Some(stream) = left.pop_front() else { return Ok(None) };
                    let scan = Scan::new(&self.client, stream.clone(), self.filter.subject());
                    none.insert((stream, scan))
                }
            };
            let page = scan.page(TIMEOUT).await.map_err(|error| Error::Provision {
                what: format!("cannot read dead letters from stream {stream}"),
                reason: error.to_string(),
            })?;
            if page.is_empty() {
                self.scan = None;
                continue;
            }
            let letters = page.into_iter().filter_map(|stored| DeadLetter::read(stream, stored));
            return Ok(Some(letters.filter(|letter| self.filter.matches(letter)).collect()));
        }
    }
}

/// The streams that hold dead letters, of one model or of all; that of before comes first.
async fn dead_streams(client: &async_nats::Client, model: Option<&Slug>) -> Result<VecDeque<String>, Error> {
    let failed = |reason: String| Error::Provision { what: "cannot look for dead letters".to_owned(), reason };
    let mut found = VecDeque::new();
    match model {
        Some(model) => {
            for stream in [FORMER_DEAD_STREAM.to_owned(), streams::dead_stream(model)] {
                if stream_names::exists(client, &stream).await.map_err(|error| failed(error.to_string()))? {
                    found.push_back(stream);
                }
            }
        }
        None => {
            let mut names = stream_names::all(client).await.map_err(|error| failed(error.to_string()))?;
            names.retain(|name| {
                let rest = name.strip_prefix(FORMER_DEAD_STREAM);
                rest.is_some_and(|rest| {
                    rest.is_empty() || rest.strip_prefix('_').is_some_and(|m| m.parse::<Slug>().is_ok())
                })
            });
            names.sort();
            found.extend(names);
        }
    }
    if found.is_empty() && model.is_none() {
        return Err(failed("there is no stream that holds them; run `embed init` if it was never made".to_owned()));
    }
    Ok(found)
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
    let model = &letter.model;
    // Whoever published the job wrote that down, and is not to have it sent anywhere else with an operator's permissions.
    if !subjects::is_job_of(&letter.subject, model) {
        return refused("it cannot be told on which subject it was published");
    }
    let digest = request.digest();
    let id = match (&letter.id, as_new) {
        (Some(id), false) => id.clone(),
        _ => new_id(),
    };
    let tenant = subjects::parse(&letter.subject).and_then(|target| target.tenant);
    let stored = outcomes::outcome(client, model, tenant.as_ref(), &id).await?;
    if let Some(stored) = &stored {
        // Vectors that do not say what they are of may be anybody's.
        let unsaid = stored.digest.is_none() && matches!(stored.outcome, Outcome::Result(_));
        if unsaid || stored.digest.as_ref().is_some_and(|of| *of != digest) {
            return refused("its id is another job's: give it a new one with --new-id");
        }
        if is_success(&stored.outcome) {
            if !dry_run {
                remove(client, letter).await?;
            }
            return Ok(Retried::Done { id });
        }
        if matches!(&stored.outcome, Outcome::Failure(failure) if failure.error.code == ErrorCode::Cancelled) {
            return refused("it was cancelled: to have it all the same, give it a new id with --new-id");
        }
    } else if is_held(client, letter).await? {
        return refused("its worker has not ended it yet, as while the stream of results is full: try again later");
    }
    if dry_run {
        return Ok(Retried::Would { id, subject: letter.subject.clone() });
    }
    if let Some(stored) = stored
        && !delete(client, &streams::results_stream(model), stored.sequence).await?
    {
        return refused("somebody else sends it once more at this moment");
    }
    request.id = Some(id.clone());
    let mut header = HeaderMap::new();
    let text = |name: &str| letter.headers.get(name).map(|value| value.as_str());
    if let Some(reply_to) = text(headers::REPLY_TO) {
        header.insert(headers::REPLY_TO, reply_to);
    }
    if let Some(trace) = text(headers::TRACEPARENT).and_then(traceparent) {
        header.insert(headers::TRACEPARENT, trace.as_str());
    }
    header.insert(headers::SUBJECT, letter.subject.as_str());
    header.insert(headers::CONTENT_TYPE, format.content_type());
    // Another than the first time, or the server would drop it. No job has an id with a dot.
    header.insert(headers::MSG_ID, format!("{id}.retry-{}", letter.name()).as_str());
    let published = client.publish_encoded(&letter.subject, id, header, format.encode(&request), TIMEOUT * 3).await?;
    remove(client, letter).await?;
    Ok(Retried::Published { id: published.id, subject: letter.subject.clone(), sequence: published.sequence })
}

/// Whether nothing of it failed: such an outcome is kept.
fn is_success(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Result(result) if result.items.iter().all(|item| item.error.is_none()))
}

/// Whether the message that a letter was written for is still in its stream: then there is more to come of it.
async fn is_held(client: &Client, letter: &DeadLetter) -> Result<bool, Error> {
    let Some(sequence) = letter.headers.get(headers::DEAD_SEQUENCE) else { return Ok(false) };
    let which = Which::Sequence(sequence.as_str().parse().unwrap_or_default());
    let found = stored::read(client.nats(), &streams::jobs_stream(&letter.model), which, TIMEOUT).await;
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
pub async fn remove(client: &Client, letter: &DeadLetter) -> Result<(), Error> {
    delete(client, &letter.stream, letter.sequence).await.map(|_| ())
}

/// Deletes one message. `false`: it is not there.
async fn delete(client: &Client, stream: &str, sequence: u64) -> Result<bool, Error> {
    let call = format!("STREAM.MSG.DELETE.{stream}");
    match api::call(client.nats(), &call, &json!({"seq": sequence, "no_erase": true}), TIMEOUT).await {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => {
            let what = format!("cannot delete message {sequence} of stream {stream}");
            Err(Error::Provision { what, reason: error.to_string() })
        }
    }
}

/// Whether a message could not be deleted because it is not there. Deleting fails with a code of its own, for any reason that the store has.
fn is_gone(error: &ApiError) -> bool {
    const NO_MESSAGE: [u64; 2] = [10037, 10043];
    const NOT_DELETED: u64 = 10057;
    match error {
        ApiError::Refused { code, description } => {
            NO_MESSAGE.contains(code) || *code == NOT_DELETED && description.contains("no message found")
        }
        ApiError::NotReady(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_called_by_its_stream_and_sequence() {
        let name = |stream: Option<&str>| LetterName { stream: stream.map(str::to_owned), sequence: 17 };
        for (text, meant) in
            [("17", name(None)), ("m:17", name(Some("EMBED_DEAD_m"))), ("EMBED_DEAD:17", name(Some("EMBED_DEAD")))]
        {
            assert_eq!(text.parse(), Ok(meant.clone()), "{text}");
            assert_eq!(meant.to_string(), text);
        }
        for other in ["", "my-id", "M:17", "m:", "m:x", ":17", "m:17:1"] {
            assert_eq!(other.parse::<LetterName>(), Err(()), "{other}");
        }
    }

    #[test]
    fn a_message_is_gone_only_if_the_server_says_so() {
        let refused = |code, description: &str| ApiError::Refused { code, description: description.to_owned() };
        for gone in [refused(10037, "no message found"), refused(10043, "deleted"), refused(10057, "no message found")]
        {
            assert!(is_gone(&gone), "{gone}");
        }
        for other in [refused(10057, "store is closed"), refused(10059, "no stream"), ApiError::NotReady("x".into())] {
            assert!(!is_gone(&other), "{other}");
        }
    }

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
