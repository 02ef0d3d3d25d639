//! Streams, buckets and consumers on a server: made, compared and updated to what `embed_schemas` defines. Idempotent.

mod compare;
mod former;
mod replicas;
mod retention;
mod variants;

use std::time::Duration;

use async_nats::Client;
use embed_schemas::{
    Slug,
    streams::{self, StreamSettings, StreamSpec},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use compare::Difference;
pub use retention::{Retention, retention};
pub(crate) use variants::Consumers;
pub use variants::{QueueDepth, variants, with_desired};

use embed_client::nats::api::{ApiError, CONSUMER_NOT_FOUND, STREAM_NOT_FOUND};

use crate::{Error, ready};

/// How long to wait for a JetStream that has just started, or that is choosing a leader.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// One call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The variants of one model. The first is the default: it takes what is sent without a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelVariants {
    /// The model.
    pub model: Slug,
    /// Its variants, the default first. Must not be empty.
    pub variants: Vec<Slug>,
}

/// What [`apply`] did.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Streams and consumers that were made, consumers as `stream/consumer`, buckets as the streams that hold them.
    pub created: Vec<String>,
    /// Fields that were changed.
    pub updated: Vec<Difference>,
    /// Streams and consumers that were right already.
    pub unchanged: Vec<String>,
}

impl Report {
    /// What was done, and afterwards something more to the same.
    pub(crate) fn and(mut self, later: Self) -> Self {
        let is_new = |name: &str| self.created.iter().any(|created| created == name);
        self.unchanged = later.unchanged.into_iter().filter(|name| !is_new(name)).collect();
        self.updated.extend(later.updated.into_iter().filter(|difference| !is_new(&difference.name)));
        self.created.extend(later.created);
        self
    }
}

/// Limits of what is there already that somebody has given. The others are left as they are; what is made anew has all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// [`StreamSettings::replicas`].
    pub replicas: bool,
    /// [`StreamSettings::jobs_max_bytes`].
    pub jobs_max_bytes: bool,
    /// [`StreamSettings::results_max_bytes`].
    pub results_max_bytes: bool,
    /// [`StreamSettings::results_max_age_s`].
    pub results_max_age: bool,
    /// [`StreamSettings::dead_max_bytes`].
    pub dead_max_bytes: bool,
    /// [`StreamSettings::dead_max_age_s`].
    pub dead_max_age: bool,
    /// [`StreamSettings::ack_wait_ms`].
    pub ack_wait: bool,
    /// All others.
    pub others: bool,
}

impl Given {
    /// All of them.
    pub const ALL: Self = Self {
        replicas: true,
        jobs_max_bytes: true,
        results_max_bytes: true,
        results_max_age: true,
        dead_max_bytes: true,
        dead_max_age: true,
        ack_wait: true,
        others: true,
    };

    /// The fields of an object that are left as they are.
    fn left(&self, object: &Object, model: Option<&Slug>) -> Vec<&'static str> {
        let is = |name: fn(&Slug) -> String| model.is_some_and(|model| object.stream == name(model));
        let (jobs, results, dead) = (is(streams::jobs_stream), is(streams::results_stream), is(streams::dead_stream));
        let bytes = match (jobs, results, dead) {
            (true, ..) => self.jobs_max_bytes,
            (_, true, _) => self.results_max_bytes,
            (.., true) => self.dead_max_bytes,
            _ => self.others,
        };
        let age = match (results, dead) {
            (true, _) => self.results_max_age,
            (_, true) => self.dead_max_age,
            _ => self.others,
        };
        let fields = match object.consumer {
            Some(_) => vec![("ack_wait", self.ack_wait), ("max_ack_pending", self.others)],
            None => vec![
                ("num_replicas", self.replicas),
                ("max_bytes", bytes),
                ("max_age", age),
                ("max_msgs_per_subject", self.others),
            ],
        };
        fields.into_iter().filter(|(_, given)| !given).map(|(field, _)| field).collect()
    }
}

/// Makes what is missing and updates what differs.
///
/// # Errors
/// [`Error::Provision`] naming the stream or consumer and the fields, if the server refuses: a stream's storage or
/// retention, for example, cannot be changed once it exists.
pub async fn apply(client: &Client, models: &[ModelVariants], settings: &StreamSettings) -> Result<Report, Error> {
    apply_given(client, models, settings, Given::ALL).await
}

/// As [`apply`], and leaves the limits that nobody has given as they are.
///
/// # Errors
/// As [`apply`].
pub async fn apply_given(
    client: &Client,
    models: &[ModelVariants],
    settings: &StreamSettings,
    given: Given,
) -> Result<Report, Error> {
    let mut report = Report::default();
    for object in objects_on(client, models, settings, given).await? {
        ensure(client, object, &mut report).await?;
    }
    Ok(report)
}

/// Makes one thing, or updates it, and notes what was done.
async fn ensure(client: &Client, object: Object, report: &mut Report) -> Result<(), Error> {
    let Some(found) = object.read(client).await? else {
        object.write(client, "create", object.wanted.clone(), "cannot create").await?;
        report.created.push(object.name());
        return Ok(());
    };
    let object = object.for_update();
    let differences = compare::differences(&object.name(), &object.wanted, &found);
    if differences.is_empty() {
        report.unchanged.push(object.name());
        return Ok(());
    }
    let fields = differences.iter().map(|d| d.field.as_str()).collect::<Vec<_>>().join(", ");
    let merged = compare::overlay(&object.wanted, &found);
    object.write(client, "update", merged, &format!("cannot update {fields} of")).await?;
    report.updated.extend(differences);
    Ok(())
}

/// Compares without changing anything. Empty if all is as it should be.
///
/// # Errors
/// If the server cannot be asked.
pub async fn check(
    client: &Client,
    models: &[ModelVariants],
    settings: &StreamSettings,
) -> Result<Vec<Difference>, Error> {
    check_given(client, models, settings, Given::ALL).await
}

/// As [`check`]; limits that nobody has given are as they should be.
///
/// # Errors
/// As [`check`].
pub async fn check_given(
    client: &Client,
    models: &[ModelVariants],
    settings: &StreamSettings,
    given: Given,
) -> Result<Vec<Difference>, Error> {
    let mut out = Vec::new();
    for object in objects_on(client, models, settings, given).await? {
        match object.read(client).await? {
            Some(found) => {
                let object = object.for_update();
                out.extend(compare::differences(&object.name(), &object.wanted, &found));
            }
            None => out.push(Difference {
                name: object.name(),
                field: compare::ALL.to_owned(),
                wanted: Value::Object(object.wanted),
                found: Value::Null,
            }),
        }
    }
    Ok(out)
}

/// A stream, or a consumer of one.
struct Object {
    stream: String,
    consumer: Option<String>,
    wanted: Map<String, Value>,
    /// Fields that stay as they are if it is there already.
    left: Vec<&'static str>,
}

/// As they are to be on this server.
async fn objects_on(
    client: &Client,
    models: &[ModelVariants],
    settings: &StreamSettings,
    given: Given,
) -> Result<Vec<Object>, Error> {
    let mut objects = objects(models, settings, given);
    // Before the streams that take its subjects.
    if let Some(former) = former::dead_letters(client, models).await? {
        objects.insert(0, former);
    }
    if !given.replicas {
        replicas::as_the_streams(client, &mut objects).await?;
    }
    Ok(objects)
}

/// In an order in which they can be made. A work queue refuses two consumers of one subject, so the bare subjects must
/// leave a former default before the new one takes them: the default comes last.
fn objects(models: &[ModelVariants], settings: &StreamSettings, given: Given) -> Vec<Object> {
    let stream = |spec: StreamSpec| Object {
        stream: spec.name.clone(),
        consumer: None,
        wanted: as_map(&spec),
        left: Vec::new(),
    };
    let shared = streams::buckets(settings).into_iter().chain([streams::stats_stream(settings)]);
    let mut out: Vec<Object> = shared.map(stream).collect();
    for ModelVariants { model, variants } in models {
        for spec in streams::streams(model, settings) {
            if !out.iter().any(|o| o.consumer.is_none() && o.stream == spec.name) {
                out.push(stream(spec));
            }
        }
        for (i, variant) in variants.iter().enumerate().rev() {
            out.extend(consumers(model, variant, i == 0, settings));
        }
    }
    for object in &mut out {
        let own =
            |model: &Slug| [streams::jobs_stream(model), streams::results_stream(model), streams::dead_stream(model)];
        let model = models.iter().map(|one| &one.model).find(|model| own(model).contains(&object.stream));
        object.left = given.left(object, model);
    }
    out
}

fn consumers(model: &Slug, variant: &Slug, is_default: bool, settings: &StreamSettings) -> [Object; 2] {
    streams::consumers(model, variant, is_default, settings).map(|spec| {
        let mut wanted = as_map(&spec);
        wanted.insert("name".to_owned(), spec.durable_name.clone().into());
        Object { stream: streams::jobs_stream(model), consumer: Some(spec.durable_name), wanted, left: Vec::new() }
    })
}

fn as_map(spec: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        other => unreachable!("a definition is a JSON object: {other:?}"),
    }
}

impl Object {
    /// What is to be changed of one that is there.
    fn for_update(mut self) -> Self {
        self.wanted.retain(|field, _| !self.left.contains(&field.as_str()));
        self
    }

    fn name(&self) -> String {
        match &self.consumer {
            Some(consumer) => format!("{}/{consumer}", self.stream),
            None => self.stream.clone(),
        }
    }

    fn error(&self, what: &str, error: &ApiError) -> Error {
        let kind = if self.consumer.is_some() { "consumer" } else { "stream" };
        Error::Provision { what: format!("{what} {kind} {}", self.name()), reason: error.to_string() }
    }

    /// The configuration on the server, or `None` if there is none.
    async fn read(&self, client: &Client) -> Result<Option<Map<String, Value>>, Error> {
        let subject = match &self.consumer {
            Some(consumer) => format!("CONSUMER.INFO.{}.{consumer}", self.stream),
            None => format!("STREAM.INFO.{}", self.stream),
        };
        match call_when_ready(client, &subject, &Value::Null).await {
            Ok(mut info) => match info["config"].take() {
                Value::Object(config) => Ok(Some(config)),
                _ => Err(Error::bad_answer(subject, "no configuration in it")),
            },
            Err(error) if error.is(STREAM_NOT_FOUND) || error.is(CONSUMER_NOT_FOUND) => Ok(None),
            Err(error) => Err(self.error("cannot read", &error)),
        }
    }

    async fn write(&self, client: &Client, action: &str, config: Map<String, Value>, what: &str) -> Result<(), Error> {
        let (subject, body) = match &self.consumer {
            Some(consumer) => (
                format!("CONSUMER.CREATE.{}.{consumer}", self.stream),
                json!({"stream_name": self.stream, "config": config, "action": action}),
            ),
            None => (format!("STREAM.{}.{}", action.to_uppercase(), self.stream), Value::Object(config)),
        };
        call_when_ready(client, &subject, &body).await.map_err(|error| self.error(what, &error))?;
        Ok(())
    }
}

/// Calls again while JetStream does not answer, for a bounded time.
async fn call_when_ready(client: &Client, subject: &str, body: &Value) -> Result<Value, ApiError> {
    ready::call(client, subject, body, CALL_TIMEOUT, READY_WITHIN).await
}
