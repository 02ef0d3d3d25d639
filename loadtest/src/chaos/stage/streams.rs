//! What is done to streams and consumers, through the API of JetStream, as an operator would.

use std::{collections::BTreeMap, time::Instant};

use anyhow::ensure;
use embed_schemas::{Lane, streams};
use serde_json::{Value, json};

use super::{PATIENCE, Stage};
use crate::chaos::{act::Stream, collector::Collector};

/// What streams could hold before they were made full, by name: bytes, and what gives way.
#[derive(Debug, Default)]
pub(super) struct Fills(BTreeMap<String, [Value; 2]>);

impl Stage {
    fn stream(&self, stream: Stream) -> String {
        match stream {
            Stream::Jobs => streams::jobs_stream(&self.setting.model),
            Stream::Results => streams::results_stream(&self.setting.model),
            Stream::Dead => streams::dead_stream(&self.setting.model),
        }
    }

    /// Asks until there is an answer that is no error: a cluster without a leader has none for a while.
    async fn ask(&mut self, subject: &str, request: &Value) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let answer = self.context.request::<_, _, Value>(subject.to_owned(), request).await;
            match answer {
                Ok(answer) if answer["error"].is_null() => return Ok(answer),
                // It is gone already, which is what was wanted.
                Ok(answer) if subject.contains(".DELETE.") && answer["error"]["code"] == 404 => return Ok(answer),
                Ok(answer) => ensure!(begun.elapsed() < PATIENCE, "{subject}: {}", answer["error"]),
                Err(error) => ensure!(begun.elapsed() < PATIENCE, "{subject}: {error}"),
            }
            self.pause().await;
        }
    }

    /// The server that leads the jobs stream, if it can be told.
    pub(super) async fn leader(&self) -> Option<usize> {
        let subject = format!("STREAM.INFO.{}", self.stream(Stream::Jobs));
        let info: Value = self.context.request(subject, &json!({})).await.ok()?;
        let number = info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse::<usize>().ok()?;
        number.checked_sub(1)
    }

    /// The stream takes no more.
    pub(super) async fn fill(&mut self, stream: Stream) -> anyhow::Result<()> {
        let name = self.stream(stream);
        let info = self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let mut config = info["config"].clone();
        // That of dead letters would forget its oldest otherwise, and never be full.
        let closed = [("max_bytes", json!(1)), ("discard", json!("new"))];
        let before = closed.map(|(field, value)| std::mem::replace(&mut config[field], value));
        self.fills.0.entry(name.clone()).or_insert(before);
        self.ask(&format!("STREAM.UPDATE.{name}"), &config).await.map(drop)
    }

    /// It takes as much as before.
    pub(super) async fn drain(&mut self, stream: Stream) -> anyhow::Result<()> {
        let name = self.stream(stream);
        let Some([max_bytes, discard]) = self.fills.0.remove(&name) else { return Ok(()) };
        let info = self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let mut config = info["config"].clone();
        (config["max_bytes"], config["discard"]) = (max_bytes, discard);
        self.ask(&format!("STREAM.UPDATE.{name}"), &config).await.map(drop)
    }

    /// Deletes the consumer of the job lane, of every variant.
    pub(super) async fn delete_consumer(&mut self) -> anyhow::Result<()> {
        let jobs = self.stream(Stream::Jobs);
        let names = self.ask(&format!("CONSUMER.NAMES.{jobs}"), &json!({})).await?;
        let lane = format!("-{}", Lane::Job);
        let names = names["consumers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<String> = names.filter(|name| name.ends_with(&lane)).map(str::to_owned).collect();
        ensure!(!names.is_empty(), "{jobs} has no consumer of the job lane");
        for name in names {
            self.ask(&format!("CONSUMER.DELETE.{jobs}.{name}"), &json!({})).await?;
        }
        Ok(())
    }

    /// Deletes the results stream. It is closed before, and read to its end: what goes with it was stored.
    pub(super) async fn delete_results(&mut self, collector: &Collector) -> anyhow::Result<()> {
        self.fill(Stream::Results).await?;
        collector.catch_up(PATIENCE).await?;
        let name = self.stream(Stream::Results);
        self.ask(&format!("STREAM.DELETE.{name}"), &json!({})).await?;
        self.fills.0.remove(&name);
        collector.begin_incarnation();
        Ok(())
    }

    /// How many jobs wait or are held by workers.
    ///
    /// # Errors
    /// If the server does not say.
    pub async fn backlog(&self) -> anyhow::Result<u64> {
        let subject = format!("STREAM.INFO.{}", self.stream(Stream::Jobs));
        let info: Value = self.context.request(subject, &json!({})).await?;
        ensure!(info["error"].is_null(), "{}", info["error"]);
        Ok(info["state"]["messages"].as_u64().unwrap_or_default())
    }
}
