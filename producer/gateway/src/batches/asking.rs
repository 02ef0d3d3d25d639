//! A group of lines, asked for: which model it is for, whether anybody serves it, and what became of its texts.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::http::StatusCode;
use embed_client::{EmbedRequest, EmbedResult, Error, JobId, RESTART, Slug, part_id};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    lines::{Request, Target},
    now,
    plan::Group,
    queue::{Answer, Part, Queue},
};
use crate::{
    Gateway,
    access::{Caller, Charge, estimate},
    error::ApiError,
    metrics,
};

/// Between two looks whether a key has something left: calls may take less than it seemed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks for a model that is not served.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What all groups of a batch share.
pub(super) struct Asking {
    pub(super) gateway: Gateway,
    /// Whose batch it is; what it may not ask is not there for it.
    pub(super) caller: Caller,
    /// The beginning of all jobs' ids.
    pub(super) job: JobId,
    /// When nobody needs a vector any more, in seconds since 1970.
    pub(super) expires_at: u64,
    /// Part of the message ids of what this run publishes again.
    pub(super) run: String,
    /// Where each model's jobs go, or why nowhere, by the name that lines have for it.
    pub(super) queues: Mutex<HashMap<Option<String>, Found>>,
    /// Whose turn it is to take from the limits of the key.
    pub(super) turn: tokio::sync::Mutex<()>,
}

type Found = Arc<OnceCell<Result<Queue, ApiError>>>;

/// A group, and what became of it.
pub(super) struct Done {
    pub(super) group: Group,
    /// Of the texts of all lines that ask for some, in order; or why there is nothing of them.
    pub(super) answer: Result<Answer, ApiError>,
    /// Whose jobs those of the answer are.
    pub(super) model: Option<Slug>,
}

impl Asking {
    /// Asks for the vectors of a group's texts, until there are some or it is known that there will be none.
    pub(super) async fn group(&self, group: Group) -> Done {
        let Some(target) = group.target() else {
            return Done { group, answer: Ok(Answer::default()), model: None };
        };
        match self.queue(&target.model).await {
            Ok(queue) => {
                let answer = self.ask(&queue, target, &group).await;
                Done { group, answer, model: Some(queue.model) }
            }
            Err(error) => Done { group, answer: Err(error), model: None },
        }
    }

    async fn ask(&self, queue: &Queue, target: &Target, group: &Group) -> Result<Answer, ApiError> {
        let id = part_id(&self.job, group.first).map_err(Error::from)?;
        let requests = group.lines.iter().filter_map(|line| line.request.as_ref().ok());
        let charge = self.charge(requests.clone()).await;
        let request = EmbedRequest {
            id: Some(id),
            prompt: target.prompt.clone(),
            truncate: target.truncate,
            dimensions: target.dimensions,
            deadline_ms: Some(self.expires_at.saturating_sub(now()).max(1).saturating_mul(1000)),
            ..EmbedRequest::new(requests.flat_map(|request| request.texts.iter().cloned()))
        };
        let answer = match queue.embed(request).await {
            Ok(answer) => answer,
            Err(error) => {
                // What is refused costs nothing.
                charge.settle(0);
                return Err(error.into());
            }
        };
        let mut tokens = 0;
        for part in &answer.parts {
            if let Part::Vectors(result) = part {
                let of_part = result.items.iter().map(|item| u64::from(item.tokens)).sum();
                metrics::embedded(
                    &self.caller.name(),
                    queue.model.as_str(),
                    result.items.len(),
                    of_part,
                    &result.timing,
                );
                tokens += of_part;
            }
        }
        charge.settle(tokens);
        Ok(answer)
    }

    /// Takes what lines ask for from the limits of the key: they wait until it is there, in their order, and leave half of a minute's worth to calls.
    async fn charge<'a>(&self, requests: impl Iterator<Item = &'a Request> + Clone) -> Charge {
        let tokens = requests.clone().map(|request| estimate(&request.texts)).sum();
        let count = requests.count() as u64;
        let _turn = self.turn.lock().await;
        self.caller.take_spare(count, tokens, LONGEST_PAUSE).await
    }

    /// Where a model's jobs go: looked up once for each model of a run.
    async fn queue(&self, name: &Option<String>) -> Result<Queue, ApiError> {
        let found = Arc::clone(self.queues.lock().entry(name.clone()).or_default());
        found.get_or_init(|| self.find(name.as_deref())).await.clone()
    }

    /// Workers of a model that is provisioned are waited for while they are restarted. While there are none at all, nothing is known of what there
    /// should be.
    async fn find(&self, name: Option<&str>) -> Result<Queue, ApiError> {
        let mut is_new = true;
        loop {
            match self.gateway.models().find(&self.caller, name, None).await {
                Ok(target) => {
                    let client = self.gateway.client().clone();
                    return Ok(Queue { client, model: target.model, run: self.run.clone() });
                }
                Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE => {}
                Err(error) if error.status == StatusCode::NOT_FOUND && is_new => {
                    is_new = false;
                    let Ok(model) = Slug::from_name(name.unwrap_or_default()) else { return Err(error) };
                    if self.gateway.client().check_served(&model, None, RESTART).await.is_err() {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Answer {
    /// What became of each text: its row, or why it has none.
    pub(super) fn texts(&self) -> impl Iterator<Item = Result<(&EmbedResult, usize), ApiError>> {
        self.parts.iter().flat_map(|part| {
            let count = match part {
                Part::Vectors(result) => result.items.len(),
                Part::Failed(count, _) => *count,
            };
            (0..count).map(move |row| match part {
                Part::Vectors(result) => match &result.items[row].error {
                    None => Ok((result, row)),
                    Some(error) => Err(ApiError::from(error)),
                },
                Part::Failed(_, error) => Err(ApiError::from(error)),
            })
        })
    }
}
