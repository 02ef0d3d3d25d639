//! Results are stored once: the first publication on a result's subject wins, and later ones are recognized.
//!
//! They are published on `embed.store.…`; the stream stores them as `embed.result.…` and sends them there itself, so that nobody hears
//! what was not stored. A stream that an older `embed init` made takes `embed.result.…` alone: there nobody answers on
//! `embed.store.…`, and the result is published as it was before. So workers are replaced first, and `embed init` follows.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{JobId, Slug, metrics as names, streams, subjects};
use metrics::counter;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{encoded::Encoded, publisher::JobIdentity};
use crate::jetstream::{StoreClient, StoreError, api};

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// The server refuses a message whose subject holds one in the stream.
const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// The server refuses what another stream would store.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// How an attempt to store ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    /// It is in the stream now.
    New,
    /// The stream had a result for this job already.
    Before,
    /// The worker had to give up.
    No,
    /// The server will never take it.
    Never(String),
}

/// What cannot be stored at the moment, by kind of stream, for whoever asks why the worker is not ready. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct StoreTrouble(Arc<Mutex<BTreeMap<&'static str, (String, Instant)>>>);

impl StoreTrouble {
    /// Trouble is forgotten when nothing has met it for so long.
    const MEMORY: Duration = Duration::from_secs(5);

    fn met(&self, stream: &'static str, trouble: String) {
        self.0.lock().insert(stream, (trouble, Instant::now()));
    }

    fn over(&self, stream: &'static str) {
        self.0.lock().remove(stream);
    }

    /// What it is, if there is any.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let trouble = self.0.lock();
        let lately = trouble.iter().filter(|(_, (_, met))| met.elapsed() < Self::MEMORY);
        lately.map(|(stream, (reason, _))| format!("the stream of {}: {reason}", holds(stream))).collect()
    }
}

/// What a kind of stream holds, for people.
fn holds(stream: &str) -> &str {
    if stream == "dead" { "dead letters" } else { stream }
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
        headers.insert(EXPECTED_STREAM, streams::results_stream(model).as_str());
        headers.insert(EXPECTED_LAST_SEQUENCE, "0");
        let subject = subjects::store_for(model, job.tenant.as_ref(), &job.id);
        // A stream of before holds nothing of tenants.
        let former = Some((model, &job.id)).filter(|_| job.tenant.is_none());
        self.keep_trying("results", &subject, &headers, &outcome.payload, former).await
    }

    /// Stores a dead letter.
    pub(super) async fn dead_letter(&self, subject: String, headers: &HeaderMap, payload: &Bytes) -> Stored {
        self.keep_trying("dead", &subject, headers, payload, None).await
    }

    async fn keep_trying(
        &self,
        stream: &'static str,
        subject: &str,
        headers: &HeaderMap,
        payload: &Bytes,
        result_of: Option<(&Slug, &JobId)>,
    ) -> Stored {
        let mut delay = FIRST_DELAY;
        loop {
            let mut stored = self.once(subject.to_owned(), headers, payload).await;
            if let (Err(StoreError::NoStream), Some((model, id))) = (&stored, result_of)
                && self.is_of_before(model).await
            {
                stored = self.once(subjects::result(model, id), headers, payload).await;
            }
            let error = match stored {
                Ok(()) => {
                    self.trouble.over(stream);
                    return Stored::New;
                }
                Err(StoreError::Exists) => return Stored::Before,
                Err(StoreError::Unacceptable(reason)) => return Stored::Never(reason),
                Err(error) => error,
            };
            tracing::warn!(%error, subject, "a message could not be stored; trying again");
            self.trouble.met(stream, error.to_string());
            counter!(names::STORE_RETRIES_TOTAL, &[(names::STREAM, stream)]).increment(1);
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(LONGEST_DELAY),
                () = self.give_up.cancelled() => return Stored::No,
            }
        }
    }

    async fn once(&self, subject: String, headers: &HeaderMap, payload: &Bytes) -> Result<(), StoreError> {
        tokio::select! {
            stored = self.client.store(subject, headers.clone(), payload.clone()) => stored,
            () = self.give_up.cancelled() => Err(StoreError::Unanswered("the worker stops".to_owned())),
        }
    }

    /// Whether the stream is there and takes results on their own subject. Without this look, a stream that is between leaders would be
    /// taken for one of before, and those who listen would hear a result that nobody stores.
    async fn is_of_before(&self, model: &Slug) -> bool {
        #[derive(Deserialize)]
        struct Info {
            config: Config,
        }
        #[derive(Deserialize)]
        struct Config {
            #[serde(default)]
            subjects: Vec<String>,
        }
        let call = format!("STREAM.INFO.{}", streams::results_stream(model));
        let info: Result<Info, _> = api::call(self.client.client(), &call, Bytes::new()).await;
        info.is_ok_and(|info| info.config.subjects.contains(&streams::former_result_subject(model)))
    }
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
