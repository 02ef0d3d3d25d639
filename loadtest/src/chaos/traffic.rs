//! Clients of all lanes: calls, jobs and bulk jobs at steady rates, whatever happens to those who serve them.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client, Request, RequestErrorKind,
    jetstream::{
        Context,
        context::{PublishError, PublishErrorKind},
        message::PublishMessage,
    },
};
use embed_schemas::{EmbedRequest, Format, JobId, Lane, Outcome, Slug, subjects, wire::decode_outcome};
use tokio::task::JoinSet;

use super::{
    judge::{Expect, Job},
    ledger::{ACCEPTED, ANSWERED, Ledger, WRONG},
    vectors::References,
};
use crate::end::End;

/// For the answer to a call, and for an acknowledgement.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A job with an id is published again until it is acknowledged, for so long at most: its id makes it one job.
const PERSISTENCE: Duration = Duration::from_secs(30);
/// Before it is published again.
const PAUSE: Duration = Duration::from_millis(250);
/// Clients that wait at once, of each lane; beyond it, none is added until one is done.
const MOST_WAITING: usize = 256;
/// Texts in a bulk job, and in a job.
const BULK_TEXTS: usize = 16;
const JOB_TEXTS: usize = 2;
/// A prompt that no model has.
const NO_PROMPT: &str = "no-such-prompt";

/// One that everything is sent with.
#[derive(Debug, Clone)]
pub struct Clients {
    /// For calls.
    pub calls: Client,
    /// For jobs.
    pub jobs: Context,
    /// The model.
    pub model: Slug,
    /// What is in the ids of this run.
    pub run: String,
    /// The texts.
    pub references: Arc<References>,
    /// What was done and seen.
    pub ledger: Arc<Ledger>,
}

/// How often clients come, per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Calls of one text.
    pub calls: f64,
    /// Jobs of two texts.
    pub jobs: f64,
    /// Bulk jobs of sixteen.
    pub bulk: f64,
}

impl Rates {
    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { calls: self.calls * factor, jobs: self.jobs * factor, bulk: self.bulk * factor }
    }
}

/// What leaves two slow cores time for everything else.
pub const RATES: Rates = Rates { calls: 5.0, jobs: 5.0, bulk: 1.0 };

/// What kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// One like all others.
    Good,
    /// One whose prompt no model has.
    Bad,
}

impl Clients {
    /// Sends everything at these rates until the end, and then waits for what is under way.
    pub async fn run(self, rates: Rates, end: End) {
        let bulk = self.clone().every(rates.bulk, end.clone(), async |clients: Self, n: u64| {
            clients.publish(Lane::Bulk, n % 4 != 3, Sort::Good).await;
        });
        let jobs = self.clone().every(rates.jobs, end.clone(), async |clients: Self, n: u64| {
            // Odd and even ones of each, so that lanes, ids and kinds are mixed.
            let sort = if n % 50 == 49 || n % 50 == 20 { Sort::Bad } else { Sort::Good };
            clients.publish(Lane::Job, n % 4 != 3, sort).await;
        });
        let calls = self.every(rates.calls, end, async |clients: Self, n: u64| {
            clients.call(n).await;
        });
        tokio::join!(bulk, jobs, calls);
    }

    async fn every<F>(self, rate: f64, end: End, what: impl Fn(Self, u64) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut waiting = JoinSet::new();
        for n in 0.. {
            ticks.tick().await;
            if end.is_called() {
                break;
            }
            if waiting.len() >= MOST_WAITING {
                waiting.join_next().await;
            }
            while waiting.try_join_next().is_some() {}
            waiting.spawn(what(self.clone(), n));
        }
        while waiting.join_next().await.is_some() {}
    }

    /// Makes a call of one text. Whether it was answered with its vector.
    pub async fn call(&self, n: u64) -> bool {
        let how = self.ask(n).await;
        self.ledger.called(&how);
        how == ANSWERED
    }

    async fn ask(&self, n: u64) -> String {
        let place = self.references.texts_of(n, 1)[0];
        let format = if n.is_multiple_of(2) { Format::Json } else { Format::MessagePack };
        let payload = format.encode(&EmbedRequest::new([self.references.text(place)]));
        let request = Request::new().payload(payload).timeout(Some(PATIENCE));
        let answer = match self.calls.send_request(subjects::bare(Lane::Rpc, &self.model), request).await {
            Ok(message) => decode_outcome(&message.payload).map(Outcome::into_result),
            Err(error) => {
                return match error.kind() {
                    RequestErrorKind::TimedOut => "timeout",
                    RequestErrorKind::NoResponders => "no_responders",
                    _ => "connection",
                }
                .to_owned();
            }
        };
        match answer {
            Ok(Ok(result)) => match result.vector(0) {
                Ok(row) if self.references.identify(&row) == Some(place) => ANSWERED.to_owned(),
                Ok(_) => WRONG.to_owned(),
                Err(error) => error.code.to_string(),
            },
            Ok(Err(error)) => error.code.to_string(),
            Err(_) => "not_an_answer".to_owned(),
        }
    }

    /// Publishes a job, and writes down what became of that. Whether it was accepted, and its id if it has one.
    pub async fn publish(&self, lane: Lane, with_id: bool, sort: Sort) -> (bool, Option<String>) {
        let number = self.ledger.number();
        let texts = self.references.texts_of(number, if lane == Lane::Bulk { BULK_TEXTS } else { JOB_TEXTS });
        let id = with_id.then(|| format!("{}-{number}", self.run));
        let request = EmbedRequest {
            id: id.as_ref().map(|id| id.parse().expect("letters, digits and dashes")),
            prompt: (sort == Sort::Bad).then(|| NO_PROMPT.to_owned()),
            ..EmbedRequest::new(texts.iter().map(|place| self.references.text(*place)))
        };
        let expect = if sort == Sort::Bad { Expect::DeadLetter } else { Expect::Vectors };
        let accepted = self.send(lane, &request).await;
        self.write_down(number, lane, id.clone(), texts, expect, accepted);
        (accepted, id)
    }

    /// Publishes a job whose text is one that no other job has, and that is not to be computed. Its id is told before it is sent.
    /// Whether it was accepted.
    pub async fn publish_poison(&self, text: &str, tell: impl FnOnce(JobId)) -> bool {
        let number = self.ledger.number();
        let id: JobId = format!("{}-{number}", self.run).parse().expect("letters, digits and dashes");
        tell(id.clone());
        let request = EmbedRequest { id: Some(id.clone()), ..EmbedRequest::new([text]) };
        let accepted = self.send(Lane::Job, &request).await;
        self.write_down(number, Lane::Job, Some(id.to_string()), Vec::new(), Expect::DeadLetter, accepted);
        accepted
    }

    fn write_down(&self, number: u64, lane: Lane, id: Option<String>, texts: Vec<u32>, expect: Expect, accepted: bool) {
        let lane = if lane == Lane::Bulk { "bulk" } else { "job" };
        self.ledger.add(Job { number, lane, id, texts, expect, accepted, at: self.ledger.now() });
    }

    /// Whether the server has acknowledged it.
    async fn send(&self, lane: Lane, request: &EmbedRequest) -> bool {
        let format = if request.id.is_some() { Format::MessagePack } else { Format::Json };
        let payload = format.encode(request);
        let begun = tokio::time::Instant::now();
        loop {
            let mut message = PublishMessage::build().payload(payload.clone());
            if let Some(id) = &request.id {
                message = message.message_id(id.to_string());
            }
            let sent = match self.jobs.send_publish(subjects::bare(lane, &self.model), message).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            self.ledger.published(&sent.as_ref().map_or_else(said, |_| ACCEPTED.to_owned()));
            // Without an id, a job that is published again is another.
            if sent.is_ok() || request.id.is_none() || begun.elapsed() > PERSISTENCE {
                return sent.is_ok();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// In a word, where there is one.
fn said(error: &PublishError) -> String {
    match error.kind() {
        PublishErrorKind::TimedOut => "timeout".to_owned(),
        PublishErrorKind::BrokenPipe => "connection".to_owned(),
        PublishErrorKind::StreamNotFound => "no_stream".to_owned(),
        _ => error.to_string(),
    }
}
