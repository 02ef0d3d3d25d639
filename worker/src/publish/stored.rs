//! Results are stored once: the first publication on a result's subject wins, and later ones are recognized. Dead letters are stored if
//! that can be done within a bound of time.
//!
//! They are published on `embed.store.…`; the stream stores them as `embed.result.…` and sends them there itself, so that nobody hears
//! what was not stored. A stream that an older `embed init` made takes `embed.result.…` alone: there nobody answers on
//! `embed.store.…`, and the result is published as it was before. Likewise, one stream held all dead letters. So workers are replaced
//! first, and `embed init` follows.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{Slug, metrics as names, streams, subjects};
use metrics::counter;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    encoded::{Encoded, header_bytes},
    job_identity::JobIdentity,
    trouble::{Kind, StoreTrouble},
};
use crate::jetstream::{StoreClient, StoreError, api};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The server refuses a message whose subject holds one in the stream.
const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The server refuses what another stream would store.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// A dead letter is given up when none could be stored for so long: the job ends with its failure as its outcome, and holds up no other.
const BURY_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// A stream that may not even hold so much has been closed by somebody, who will open it again. What is smaller than this has room in any
/// other.
const LEAST_ROOM: i64 = 4096;

/// How an attempt to store ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is in the stream now.
    New,
    /// The stream had a result for this job already.
    Before,
    /// The worker had to give up, since it stops.
    No,
    /// The server will never take it.
    Never(String),
    /// It could not be stored for too long.
    GivenUp(String),
    /// The worker's user may not store it. Another worker may have one that may.
    Forbidden(String),
}

/// Something that is to be stored.
struct Publication<'a> {
    kind: Kind,
    model: &'a Slug,
    stream: String,
    subject: String,
    /// For a stream that an older `embed init` made.
    former_subject: Option<String>,
    headers: HeaderMap,
    payload: &'a Bytes,
}

/// Stores messages, and tries again as long as that can help.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    client: StoreClient,
    give_up: CancellationToken,
    trouble: StoreTrouble,
}

impl Storage {
    pub(super) fn new(client: StoreClient, give_up: CancellationToken, trouble: StoreTrouble) -> Self {
        Self { client, give_up, trouble }
    }

    /// Stores an outcome, and waits for the server to say that it did. While it cannot be stored (no leader, a full stream,
    /// no connection) it is tried again: that holds the job's permit, and so slows down what is pulled.
    pub(super) async fn outcome(&self, model: &Slug, job: &JobIdentity, outcome: &Encoded) -> Stored {
        let mut headers = outcome.headers.clone();
        headers.insert(EXPECTED_LAST_SEQUENCE, "0");
        let publication = Publication {
            kind: Kind::Results,
            model,
            stream: streams::results_stream(model),
            subject: subjects::store_for(model, job.tenant.as_ref(), &job.id),
            // A stream of before holds nothing of tenants.
            former_subject: job.tenant.is_none().then(|| subjects::result(model, &job.id)),
            headers,
            payload: &outcome.payload,
        };
        self.keep_trying(&publication).await
    }

    /// Stores a dead letter, or gives it up.
    pub(super) async fn dead_letter(
        &self,
        model: &Slug,
        subject: String,
        headers: HeaderMap,
        payload: &Bytes,
    ) -> Stored {
        let (kind, stream) = (Kind::DeadLetters, streams::dead_stream(model));
        let publication = Publication { kind, model, stream, subject, former_subject: None, headers, payload };
        self.keep_trying(&publication).await
    }

    /// No dead letter of this model could be stored.
    pub(super) fn no_letter(&self, model: &Slug, reason: String) {
        self.trouble.met(Kind::DeadLetters, model, reason, Instant::now());
    }

    /// A job ends without a dead letter.
    pub(super) fn ended_without_letter(&self, model: &Slug) {
        self.trouble.gave_up(Kind::DeadLetters, model);
    }

    async fn keep_trying(&self, publication: &Publication<'_>) -> Stored {
        let &Publication { kind, model, ref subject, .. } = publication;
        let (mut delay, mut attempt) = (FIRST_DELAY, 0u32);
        loop {
            let error = match self.publish(publication).await {
                Ok(()) => {
                    self.trouble.over(kind, model);
                    return Stored::New;
                }
                Err(StoreError::Exists) => {
                    self.trouble.over(kind, model);
                    return Stored::Before;
                }
                Err(StoreError::Unacceptable(reason)) => return Stored::Never(reason),
                Err(error) => error,
            };
            if self.give_up.is_cancelled() {
                return Stored::No;
            }
            // Not each time: while a stream is full, all who wait would ask.
            attempt += 1;
            if matches!(error, StoreError::Full(_))
                && attempt.is_power_of_two()
                && let Some(reason) = self.never_fits(publication).await
            {
                return Stored::Never(reason);
            }
            let lasts = self.trouble.met(kind, model, error.to_string(), Instant::now());
            counter!(names::STORE_RETRIES_TOTAL, &[(names::STREAM, kind.as_str())]).increment(1);
            match error {
                StoreError::Forbidden(_) => return Stored::Forbidden(error.to_string()),
                _ if kind == Kind::DeadLetters && lasts >= BURY_WITHIN => return Stored::GivenUp(error.to_string()),
                _ => tracing::warn!(%error, subject, "a message could not be stored; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                () = self.give_up.cancelled() => return Stored::No,
            }
        }
    }

    /// Publishes once, into the stream that is there: of now, or of before.
    async fn publish(&self, publication: &Publication<'_>) -> Result<(), StoreError> {
        let Publication { kind, stream, subject, former_subject, headers, payload, .. } = publication;
        let into = |stream: &str| {
            let mut headers = headers.clone();
            headers.insert(EXPECTED_STREAM, stream);
            headers
        };
        let stored = self.once(subject.clone(), into(stream), payload).await;
        match (&stored, kind, former_subject) {
            (Err(StoreError::NoStream), _, Some(former)) if self.is_of_before(publication).await => {
                self.once(former.clone(), into(stream), payload).await
            }
            (Err(StoreError::OtherStream(_)), Kind::DeadLetters, _) => {
                self.once(subject.clone(), into(streams::FORMER_DEAD_STREAM), payload).await
            }
            _ => stored,
        }
    }

    async fn once(&self, subject: String, headers: HeaderMap, payload: &Bytes) -> Result<(), StoreError> {
        tokio::select! {
            stored = self.client.store(subject, headers, payload.clone()) => stored,
            () = self.give_up.cancelled() => Err(StoreError::Unanswered("the worker stops".to_owned())),
        }
    }

    /// Why the stream would not take this even if it were empty.
    async fn never_fits(&self, publication: &Publication<'_>) -> Option<String> {
        let bytes = publication.payload.len() + header_bytes(&publication.headers);
        let limit = self.config(&publication.stream).await.ok()?.max_bytes;
        let fits = limit < LEAST_ROOM || usize::try_from(limit).is_ok_and(|limit| bytes <= limit);
        (!fits).then(|| format!("it has {bytes} bytes, and all of stream {} may have {limit}", publication.stream))
    }

    /// Whether the stream is there and takes results on their own subject. Without this look, a stream that is between leaders would be
    /// taken for one of before, and those who listen would hear a result that nobody stores.
    async fn is_of_before(&self, publication: &Publication<'_>) -> bool {
        let config = self.config(&publication.stream).await;
        config.is_ok_and(|config| config.subjects.contains(&streams::former_result_subject(publication.model)))
    }

    async fn config(&self, stream: &str) -> Result<StreamConfig, api::ApiError> {
        #[derive(Deserialize)]
        struct Info {
            config: StreamConfig,
        }
        let info: Info = api::call(self.client.client(), &format!("STREAM.INFO.{stream}"), Bytes::new()).await?;
        Ok(info.config)
    }
}

/// The part of a stream's configuration that is looked at.
#[derive(Deserialize)]
struct StreamConfig {
    #[serde(default)]
    subjects: Vec<String>,
    /// -1: as many as there is room for.
    #[serde(default)]
    max_bytes: i64,
}

#[cfg(test)]
mod tests {
    use async_nats::Client;
    use embed_schemas::streams::{StreamSettings, StreamSpec};
    use embed_testkit::NatsServer;

    use super::*;
    use crate::supervise::Supervisor;

    async fn make(client: &Client, spec: &StreamSpec) {
        let payload = serde_json::to_vec(spec).unwrap().into();
        let _: serde_json::Value = api::call(client, &format!("STREAM.CREATE.{}", spec.name), payload).await.unwrap();
    }

    async fn storage(client: &Client, supervisor: &Supervisor, give_up: &CancellationToken) -> Storage {
        let store = StoreClient::start(client.clone(), supervisor).await.unwrap();
        Storage::new(store, give_up.clone(), StoreTrouble::default())
    }

    fn job(id: &str, tenant: Option<&str>) -> JobIdentity {
        JobIdentity { id: id.parse().unwrap(), tenant: tenant.map(|tenant| tenant.parse().unwrap()), digest: None }
    }

    fn encoded() -> Encoded {
        Encoded { payload: "outcome".into(), headers: HeaderMap::new(), error: None }
    }

    #[tokio::test]
    async fn a_result_is_stored_once_under_its_own_subject_in_streams_of_now_and_of_before() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let (supervisor, _deaths) = Supervisor::new();
        let storage = storage(&client, &supervisor, &CancellationToken::new()).await;
        let (now, before): (Slug, Slug) = ("now".parse().unwrap(), "before".parse().unwrap());
        let [_, current, ..] = streams::streams(&now, &StreamSettings::default());
        make(&client, &current).await;
        let [_, former, ..] = streams::streams(&before, &StreamSettings::default());
        let subjects = vec![streams::former_result_subject(&before)];
        make(&client, &StreamSpec { subjects, subject_transform: None, republish: None, ..former }).await;
        for model in [now, before] {
            let job = job("x", None);
            assert_eq!(storage.outcome(&model, &job, &encoded()).await, Stored::New, "{model}");
            assert_eq!(storage.outcome(&model, &job, &encoded()).await, Stored::Before, "{model}");
            let stream = streams::results_stream(&model);
            let found = api::last_on_subject(&client, &stream, &subjects::result(&model, &job.id)).await.unwrap();
            assert_eq!(found.unwrap().payload, "outcome", "{model}");
        }
    }

    #[tokio::test]
    async fn an_id_is_one_jobs_within_its_tenant() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let (supervisor, _deaths) = Supervisor::new();
        let storage = storage(&client, &supervisor, &CancellationToken::new()).await;
        let model: Slug = "m".parse().unwrap();
        let [_, results, ..] = streams::streams(&model, &StreamSettings::default());
        make(&client, &results).await;
        for tenant in [None, Some("a"), Some("b")] {
            let job = job("x", tenant);
            assert_eq!(storage.outcome(&model, &job, &encoded()).await, Stored::New, "{tenant:?}");
            assert_eq!(storage.outcome(&model, &job, &encoded()).await, Stored::Before, "{tenant:?}");
            let subject = subjects::result_for(&model, job.tenant.as_ref(), &job.id);
            assert!(api::last_on_subject(&client, &results.name, &subject).await.unwrap().is_some(), "{subject}");
        }
    }

    #[tokio::test]
    async fn a_dead_letter_is_stored_in_streams_of_now_and_of_before_and_given_up_where_there_is_none() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let (supervisor, _deaths) = Supervisor::new();
        let storage = storage(&client, &supervisor, &CancellationToken::new()).await;
        let (now, before, nowhere): (Slug, Slug, Slug) =
            ("now".parse().unwrap(), "before".parse().unwrap(), "nowhere".parse().unwrap());
        let [_, _, dead, ..] = streams::streams(&now, &StreamSettings::default());
        make(&client, &dead).await;
        let former = streams::former_dead_stream(std::slice::from_ref(&before));
        make(&client, &StreamSpec { name: streams::FORMER_DEAD_STREAM.to_owned(), subjects: former.subjects, ..dead })
            .await;
        let bury = async |model: &Slug| {
            let subject = subjects::dead(model, model);
            storage.dead_letter(model, subject, HeaderMap::new(), &"job".into()).await
        };
        for (model, stream) in [(&now, "EMBED_DEAD_now"), (&before, "EMBED_DEAD")] {
            assert_eq!(bury(model).await, Stored::New, "{model}");
            let found = api::last_on_subject(&client, stream, &subjects::dead(model, model)).await.unwrap();
            assert_eq!(found.unwrap().payload, "job", "{model}");
        }
        let begun = Instant::now();
        let Stored::GivenUp(reason) = bury(&nowhere).await else { panic!("it is given up") };
        assert!(reason.contains("embed init") && begun.elapsed() >= BURY_WITHIN, "{reason}");
        storage.ended_without_letter(&nowhere);
        let reasons = storage.trouble.reasons();
        assert!(reasons[0].contains("dead letters of nowhere") && reasons[0].contains("1 jobs"), "{reasons:?}");
        // Those that come then are not waited for.
        let begun = Instant::now();
        assert!(matches!(bury(&nowhere).await, Stored::GivenUp(_)));
        assert!(begun.elapsed() < BURY_WITHIN);
    }

    #[tokio::test]
    async fn what_a_stream_can_never_hold_is_known_and_what_is_closed_is_waited_for() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let (supervisor, _deaths) = Supervisor::new();
        let give_up = CancellationToken::new();
        let storage = storage(&client, &supervisor, &give_up).await;
        let (small, closed): (Slug, Slug) = ("small".parse().unwrap(), "closed".parse().unwrap());
        for (model, max_bytes) in [(&small, 8192), (&closed, 1)] {
            let [_, results, ..] = streams::streams(model, &StreamSettings::default());
            make(&client, &StreamSpec { max_bytes, ..results }).await;
        }
        let large = Encoded { payload: vec![b'x'; 10_000].into(), ..encoded() };
        let Stored::Never(reason) = storage.outcome(&small, &job("x", None), &large).await else {
            panic!("it never fits")
        };
        assert!(reason.contains("EMBED_RESULTS_small") && reason.contains("8192"), "{reason}");
        assert_eq!(storage.outcome(&small, &job("x", None), &encoded()).await, Stored::New);
        let x = job("x", None);
        let waits = storage.outcome(&closed, &x, &large);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut waits).await.is_err(), "somebody will open it");
        give_up.cancel();
        assert_eq!(waits.await, Stored::No);
    }

    #[tokio::test]
    async fn a_stream_that_is_not_there_is_trouble_until_it_is() {
        let server = NatsServer::start();
        let client = async_nats::connect(server.url()).await.unwrap();
        let (supervisor, _deaths) = Supervisor::new();
        let storage = storage(&client, &supervisor, &CancellationToken::new()).await;
        let model: Slug = "m".parse().unwrap();
        let storing = tokio::spawn({
            let (storage, model) = (storage.clone(), model.clone());
            async move { storage.outcome(&model, &job("x", None), &encoded()).await }
        });
        while storage.trouble.reasons().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(storage.trouble.reasons()[0].contains("embed init"), "{:?}", storage.trouble.reasons());
        let [_, results, ..] = streams::streams(&model, &StreamSettings::default());
        make(&client, &results).await;
        assert_eq!(storing.await.unwrap(), Stored::New);
        assert!(storage.trouble.reasons().is_empty());
    }
}
