//! How much is to be done, as the streams know it: what waits for each consumer, how old the oldest of it is, and what no consumer takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use async_nats::Client;
use bytes::Bytes;
use embed_schemas::{Slug, metrics as names, streams};
use metrics::gauge;
use serde::Deserialize;

use crate::{
    connection::Connection,
    intake::JobIntake,
    jetstream::{
        ServerClock,
        api::{self, ApiError, ConsumerInfo},
        consumer_info,
    },
    serving::ServedVariants,
};

/// So often the streams are asked. Gauges that are not set for 30 s are forgotten.
const PERIOD: Duration = Duration::from_secs(10);

/// Asks again and again.
pub async fn watch(connection: Connection, clock: ServerClock, served: ServedVariants) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !connection.is_up() {
            continue;
        }
        let mut models = BTreeSet::new();
        for one in served.all() {
            models.insert(one.deployment.variant.model.clone());
            for intake in &one.jobs {
                if let Err(error) = consumer(&connection, &clock, &one.deployment.variant, intake).await {
                    // The intake says so itself, where somebody sees it.
                    tracing::debug!(%error, "the backlog of a consumer cannot be told");
                }
            }
        }
        for model in models {
            if let Err(error) = results(&connection.client, &model).await {
                tracing::debug!(%error, "how full the stream of results is cannot be told");
            }
            if let Err(error) = unclaimed(&connection.client, &model).await {
                tracing::debug!(%error, "the jobs that nobody takes cannot be told");
            }
        }
    }
}

async fn consumer(
    connection: &Connection,
    clock: &ServerClock,
    variant: &crate::variant::Variant,
    intake: &JobIntake,
) -> Result<(), ApiError> {
    let (stream, name) = intake.names();
    let info = consumer_info(connection, &stream, &name, clock).await?;
    let labels = variant.metrics.with(names::LANE, intake.lane().as_str());
    gauge!(names::CONSUMER_PENDING, &labels).set(info.num_pending as f64);
    gauge!(names::CONSUMER_ACK_PENDING, &labels).set(info.num_ack_pending as f64);
    let oldest = oldest(&connection.client, &stream, &info).await?;
    let age = oldest.map(|published| clock.age(published)).unwrap_or_default();
    gauge!(names::OLDEST_JOB_AGE_SECONDS, &labels).set(age.as_secs_f64());
    Ok(())
}

/// When the oldest job was published that a consumer has not got acknowledged.
async fn oldest(client: &Client, stream: &str, info: &ConsumerInfo) -> Result<Option<SystemTime>, ApiError> {
    if info.num_pending + info.num_ack_pending == 0 {
        return Ok(None);
    }
    let one = info.config.filter_subject.iter().filter(|subject| !subject.is_empty());
    let mut oldest: Option<SystemTime> = None;
    for subject in one.chain(&info.config.filter_subjects) {
        let request = serde_json::json!({"seq": info.ack_floor.stream_seq + 1, "next_by_subj": subject});
        let payload: Bytes = request.to_string().into();
        let answer =
            api::request(client, embed_connect::api_subject(client, &format!("DIRECT.GET.{stream}")), None, payload)
                .await?;
        // The last: what the server adds comes after what the job's sender has written.
        let stored = answer.headers.as_ref().and_then(|headers| headers.get_last("Nats-Time-Stamp"));
        if let Some(published) = stored.and_then(|when| humantime::parse_rfc3339(when.as_str()).ok()) {
            oldest = Some(oldest.map_or(published, |other| other.min(published)));
        }
    }
    Ok(oldest)
}

/// What the server says of a stream.
#[derive(Deserialize)]
struct Stream {
    config: StreamConfig,
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamConfig {
    #[serde(default = "no_bound")]
    max_bytes: i64,
}

#[derive(Deserialize)]
struct StreamState {
    bytes: u64,
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

const fn no_bound() -> i64 {
    -1
}

impl Stream {
    /// Tells how full it is.
    fn tell(&self, model: &Slug, kind: &'static str) {
        let labels = [(names::MODEL, model.to_string()), (names::STREAM, kind.to_owned())];
        gauge!(names::STREAM_BYTES, &labels).set(self.state.bytes as f64);
        // A server may name no bound with 0 as well.
        let bound = if self.config.max_bytes > 0 { self.config.max_bytes } else { no_bound() };
        gauge!(names::STREAM_MAX_BYTES, &labels).set(bound as f64);
    }
}

/// How full a model's stream of results is.
async fn results(client: &Client, model: &Slug) -> Result<(), ApiError> {
    let stream = format!("STREAM.INFO.{}", streams::results_stream(model));
    let info: Stream = api::call(client, &stream, "{}".into()).await?;
    info.tell(model, "results");
    Ok(())
}

/// Counts the jobs of a model whose subject no consumer takes, and tells how full their stream is.
async fn unclaimed(client: &Client, model: &Slug) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    struct Consumers {
        #[serde(default)]
        consumers: Option<Vec<ConsumerInfo>>,
    }
    let stream = streams::jobs_stream(model);
    let all: Stream = api::call(client, &format!("STREAM.INFO.{stream}"), r#"{"subjects_filter":">"}"#.into()).await?;
    all.tell(model, "jobs");
    let consumers: Consumers = api::call(client, &format!("CONSUMER.LIST.{stream}"), "{}".into()).await?;
    let taken: BTreeSet<String> = consumers
        .consumers
        .into_iter()
        .flatten()
        .flat_map(|info| info.config.filter_subject.into_iter().chain(info.config.filter_subjects))
        .collect();
    let waiting = all.state.subjects.iter().filter(|(subject, _)| !taken.contains(*subject)).map(|(_, count)| count);
    gauge!(names::UNCLAIMED_JOBS, &[(names::MODEL, model.to_string())]).set(waiting.sum::<u64>() as f64);
    Ok(())
}
