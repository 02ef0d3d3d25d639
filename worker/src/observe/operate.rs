//! What an operator asks of a worker by name: how it stands, that it looks at the registry now, that it drains. Endpoints of the micro service.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_nats::{Client, Subject, SubscribeError};
use embed_schemas::{
    control::{self, ServedStatus, WorkerState, WorkerStatus},
    headers,
};
use futures::{StreamExt, stream::select_all};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Health;
use crate::{
    metrics::EndpointStats,
    replies::{Refused, Replies},
    serving::{ServedVariant, ServedVariants},
    variant::Variant,
};

/// What an operator may set going. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Levers {
    /// The registry is looked at now.
    pub reload: Arc<Notify>,
    /// The worker ends as a signal has it end.
    pub drain: CancellationToken,
}

/// Answers operators until dropped.
#[derive(Debug)]
pub struct Operation {
    client: Client,
    worker: String,
    served: ServedVariants,
    health: Arc<Health>,
    replies: Replies,
    drain_timeout: Duration,
    levers: Levers,
    started: SystemTime,
    endpoints: Endpoints,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Status,
    Reload,
    Drain,
}

type Endpoints = Vec<(Question, Arc<EndpointStats>)>;

impl Operation {
    /// For this worker.
    pub fn new(
        client: Client,
        worker: String,
        served: ServedVariants,
        health: Arc<Health>,
        replies: Replies,
        drain_timeout: Duration,
        levers: Levers,
    ) -> Self {
        let endpoint = |question, name: &str, subject: String| {
            // In no queue group: each worker answers for itself.
            (question, Arc::new(EndpointStats::new(name.to_owned(), subject, String::new())))
        };
        let endpoints = vec![
            endpoint(Question::Status, "status", control::status(&worker)),
            endpoint(Question::Status, "status-all", control::STATUS_SUBJECT.to_owned()),
            endpoint(Question::Reload, "reload", control::reload(&worker)),
            endpoint(Question::Reload, "reload-all", control::RELOAD_SUBJECT.to_owned()),
            endpoint(Question::Drain, "drain", control::drain(&worker)),
        ];
        Self { client, worker, served, health, replies, drain_timeout, levers, started: SystemTime::now(), endpoints }
    }

    /// The endpoints, for the micro service.
    pub fn endpoints(&self) -> Vec<Arc<EndpointStats>> {
        self.endpoints.iter().map(|(_, stats)| Arc::clone(stats)).collect()
    }

    /// Subscribes, and answers for ever.
    ///
    /// # Errors
    /// If a subscription fails.
    pub async fn serve(self) -> Result<(), SubscribeError> {
        let mut questions = Vec::new();
        for (question, stats) in &self.endpoints {
            let messages = self.client.subscribe(stats.subject().to_owned()).await?;
            questions.push(messages.map(move |message| (*question, stats, message)).boxed());
        }
        let mut questions = select_all(questions);
        while let Some((question, stats, message)) = questions.next().await {
            let asked = Instant::now();
            // Who may ask has an inbox. What the server publishes for somebody who named this subject as the place of an answer has none: NATS does
            // not look whether they may publish there.
            let Some(reply) = message.reply.filter(|reply| self.replies.allow(Refused::Discovery, reply).is_ok())
            else {
                continue;
            };
            if question == Question::Reload {
                self.levers.reload.notify_one();
            }
            self.answer(question, reply).await;
            stats.answered(asked.elapsed(), None);
            // After the answer, which leaves with the last messages of a worker that drains.
            if question == Question::Drain {
                tracing::info!("an operator has this worker drain");
                self.levers.drain.cancel();
            }
        }
        Ok(())
    }

    async fn answer(&self, question: Question, reply: Subject) {
        let status = serde_json::to_vec(&self.status(question)).expect("a status has string keys");
        let mut header = async_nats::HeaderMap::new();
        header.insert(headers::CONTENT_TYPE, embed_schemas::Format::Json.content_type());
        if let Err(error) = self.client.publish_with_headers(reply, header, status.into()).await {
            tracing::debug!(%error, "an operator could not be answered");
        }
    }

    fn status(&self, question: Question) -> WorkerStatus {
        let state = match question {
            Question::Drain => WorkerState::Draining,
            Question::Status | Question::Reload => WorkerState::Serving,
        };
        let describe = |one: Arc<ServedVariant>| {
            let Variant { model, name, .. } = &*one.deployment.variant;
            ServedStatus { model: model.clone(), variant: name.clone(), status: one.deployment.status() }
        };
        WorkerStatus {
            worker: self.worker.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            started: humantime::format_rfc3339_seconds(self.started).to_string(),
            state,
            drain_timeout_ms: u64::try_from(self.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            texts_in_flight: self.health.texts_in_flight() as u64,
            notes: self.health.notes(),
            variants: self.served.all().into_iter().map(describe).collect(),
        }
    }
}
