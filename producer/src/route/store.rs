//! The bucket of routes: what is wanted, and its history.
//!
//! Read and written on the stream's leader, by JetStream's own calls: two that change routes at the same time must see what
//! the other has written, which a read from any replica does not promise.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{Client, HeaderMap};
use data_encoding::BASE64;
use embed_schemas::{
    RouteRecord, Slug,
    routes::{ROUTES_BUCKET, SERVERS_KEY},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::RouteError;
use crate::{
    Error,
    nats::{
        self,
        api::{self, ApiError, STREAM_NOT_FOUND},
    },
};

const TIMEOUT: Duration = Duration::from_secs(2);
/// How long the bucket may be without a leader, as after the death of the server that was it.
const NO_LEADER: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);
/// JetStream's code for "no message found".
const NO_MESSAGE: u64 = 10037;
/// JetStream's code for "wrong last sequence".
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// A record and its place in the bucket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// The revision.
    pub revision: u64,
    /// The record.
    #[serde(flatten)]
    pub record: RouteRecord,
}

/// All routes.
pub(super) type Routes = BTreeMap<Slug, Entry>;

/// The bucket.
#[derive(Debug, Clone)]
pub(super) struct Store {
    client: Client,
}

impl Store {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// All routes.
    pub(super) async fn all(&self) -> Result<Routes, RouteError> {
        let filter = json!({"subjects_filter": format!("$KV.{ROUTES_BUCKET}.>")});
        let info = self.call("STREAM.INFO", &filter).await?.ok_or(RouteError::NoBucket)?;
        let mut routes = Routes::new();
        for subject in info["state"]["subjects"].as_object().into_iter().flat_map(|subjects| subjects.keys()) {
            let key = subject.rsplit('.').next().unwrap_or_default();
            if let Ok(model) = key.parse::<Slug>()
                && let (revision, Some(record)) = self.get(&model).await?
            {
                routes.insert(model, Entry { revision, record });
            }
        }
        Ok(routes)
    }

    /// The route of a model, if there is one, and the key's last revision; 0 if there never was one.
    pub(super) async fn get(&self, model: &Slug) -> Result<(u64, Option<RouteRecord>), RouteError> {
        let found = self.read::<RouteRecord>(&json!({"last_by_subj": subject(model.as_str())})).await?;
        Ok(found.unwrap_or_default())
    }

    /// How the route of a model came to be, oldest first.
    pub(super) async fn history(&self, model: &Slug) -> Result<Vec<Entry>, RouteError> {
        let mut entries = Vec::new();
        let mut next = 1;
        loop {
            let query = json!({"seq": next, "next_by_subj": subject(model.as_str())});
            let Some((revision, record)) = self.read::<RouteRecord>(&query).await? else { return Ok(entries) };
            entries.extend(record.map(|record| Entry { revision, record }));
            next = revision + 1;
        }
    }

    /// Writes a record if `after` is still the last revision (0: there is none), and returns the new one. `None` if
    /// somebody else was faster.
    pub(super) async fn put(&self, model: &Slug, record: &RouteRecord, after: u64) -> Result<Option<u64>, RouteError> {
        self.write(model.as_str(), record, Some(after)).await
    }

    /// The servers that routes have been applied to.
    pub(super) async fn servers(&self) -> Result<Vec<String>, RouteError> {
        let found = self.read::<Vec<String>>(&json!({"last_by_subj": subject(SERVERS_KEY)})).await?;
        Ok(found.and_then(|(_, names)| names).unwrap_or_default())
    }

    pub(super) async fn put_servers(&self, names: &[String]) -> Result<(), RouteError> {
        self.write(SERVERS_KEY, &names, None).await.map(drop)
    }

    /// One message of the bucket: its sequence, and its value unless it marks a deletion.
    async fn read<T: DeserializeOwned>(&self, query: &Value) -> Result<Option<(u64, Option<T>)>, RouteError> {
        let Some(answer) = self.call("STREAM.MSG.GET", query).await? else { return Ok(None) };
        let message = &answer["message"];
        let revision = message["seq"].as_u64().unwrap_or_default();
        let data = message["data"].as_str().unwrap_or_default();
        if data.is_empty() {
            return Ok(Some((revision, None)));
        }
        let broken =
            |reason: String| Error::BadAnswer { from: format!("{ROUTES_BUCKET}, revision {revision}"), reason };
        let bytes = BASE64.decode(data.as_bytes()).map_err(|error| broken(error.to_string()))?;
        let value = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        Ok(Some((revision, Some(value))))
    }

    async fn write(&self, key: &str, value: &impl Serialize, after: Option<u64>) -> Result<Option<u64>, RouteError> {
        let failed = |reason: String| Error::Nats { what: format!("cannot write {key} to {ROUTES_BUCKET}"), reason };
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, after.to_string());
        }
        let payload = serde_json::to_vec(value).map_err(|error| failed(error.to_string()))?;
        let answer = nats::request(&self.client, subject(key), headers, payload.into(), TIMEOUT).await;
        let answer = answer.map_err(|error| failed(error.to_string()))?.payload;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        match answer.get("error") {
            None => Ok(answer["seq"].as_u64()),
            Some(error) if error["err_code"].as_u64() == Some(WRONG_LAST_SEQUENCE) => Ok(None),
            Some(error) => Err(failed(error["description"].to_string()).into()),
        }
    }

    /// Calls JetStream. `None` if there is no such message.
    async fn call(&self, what: &str, body: &Value) -> Result<Option<Value>, RouteError> {
        let deadline = Instant::now() + NO_LEADER;
        let subject = format!("{what}.KV_{ROUTES_BUCKET}");
        let answer = loop {
            match api::call(&self.client, &subject, body, TIMEOUT).await {
                Err(ApiError::NotReady(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
                other => break other,
            }
        };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is(NO_MESSAGE) => Ok(None),
            Err(error) if error.is(STREAM_NOT_FOUND) => Err(RouteError::NoBucket),
            Err(error @ ApiError::NotReady(_)) => {
                Err(Error::nats(format!("cannot read {ROUTES_BUCKET}"), error).into())
            }
            Err(error) => {
                Err(Error::Rejected { what: format!("cannot read {ROUTES_BUCKET}"), reason: error.to_string() }.into())
            }
        }
    }
}

fn subject(key: &str) -> String {
    format!("$KV.{ROUTES_BUCKET}.{key}")
}
