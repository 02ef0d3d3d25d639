//! Rollouts: a candidate gets a growing share of a model's traffic, as long as the evidence is for it.
//!
//! How it is decided is [`embed_rollout`]'s, which is pure. Here is what that needs and what is done about it:
//!
//! | module | does |
//! |---|---|
//! | `store` | the bucket `embed_rollouts`: the state, and what verdicts rest on |
//! | `controller` | one controller at a time carries a rollout on; when it dies another takes over |
//! | `gate` | what must be so before traffic moves |
//! | `shadow` | the step before any traffic moves: what workers are told, gathered, judged |
//! | `watch` | a stage's windows: gathered, kept, judged |
//! | `workers`, `known` | who serves the variants, and whose reports count |
//! | `finish` | what is left to do after a promotion |
//! | `server_time` | what time it is, for all who take part |
//! | `weights` | changes the route, never over somebody else's change |
//! | `statistics`, `probes` | the evidence: workers' windows, and calls of the same texts to both variants |
//!
//! Everything that decides is in the bucket, and every change of it is made only over what was read before. A controller that
//! was killed, or was asleep while another took over, finds out with its next write.

mod controller;
mod finish;
mod gate;
mod known;
mod means;
mod page;
mod probes;
mod server_time;
mod shadow;
mod shadow_page;
mod statistics;
mod store;
mod watch;
mod weights;
mod workers;

use std::time::Duration;

use embed_rollout::{ConfigError, NotNow, Rollout, record::Record, state::Start};
use embed_schemas::{Slug, WindowCounts};
use time::OffsetDateTime;

pub use controller::{Controller, Progress, Settings};
pub use finish::{Ending, end, endings};
pub use page::page;
pub use server_time::ServerTime;
pub(crate) use statistics::{From as ReadFrom, Reader};

use embed_client::Client;

use crate::{
    Error,
    route::{RouteError, RouteStore},
};
use store::Store;

/// Why a rollout could not be started, changed or carried on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// As elsewhere in this library.
    #[error(transparent)]
    Common(#[from] Error),
    /// The route could not be read or changed.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was asked for makes no sense now.
    #[error(transparent)]
    NotNow(#[from] NotNow),
    /// The model has no rollout.
    #[error("model {model} has no rollout{}: `embed rollout status` shows those that there are", .id.as_ref().map(|id| format!(" {id}")).unwrap_or_default())]
    None {
        /// The model.
        model: Slug,
        /// The rollout, if one was named.
        id: Option<String>,
    },
    /// The model has one already.
    #[error(
        "the rollout {id} of model {model} is {phase}: `embed rollout run {model}` carries it on, `embed rollout abort {model}` ends it"
    )]
    UnderWay {
        /// The model.
        model: Slug,
        /// The rollout that there is.
        id: String,
        /// What it is doing.
        phase: &'static str,
    },
    /// Somebody else changes it all the time.
    #[error("the rollout of model {0} is being changed by others: try again")]
    Contended(Slug),
}

impl From<embed_client::Error> for RolloutError {
    fn from(error: embed_client::Error) -> Self {
        Self::Common(error.into())
    }
}

impl RolloutError {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Common(error) => error.code(),
            Self::Route(error) => error.code(),
            Self::Config(_) => "settings",
            Self::NotNow(_) => "not_now",
            Self::None { .. } => "no_rollout",
            Self::UnderWay { .. } => "under_way",
            Self::Contended(_) => "contended",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Common(error) => error.retryable(),
            Self::Route(error) => error.retryable(),
            Self::Contended(_) => true,
            _ => false,
        }
    }
}

/// Times that a change is tried over another's.
const ATTEMPTS: u32 = 20;

/// Starts rollouts, and tells the controller what a person wants.
#[derive(Debug, Clone)]
pub struct Rollouts {
    client: Client,
    store: Store,
    time: ServerTime,
}

impl Rollouts {
    /// Those on this connection's servers.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), store: Store::new(client.nats().clone()), time: ServerTime::default() }
    }

    /// Writes a rollout down, for a [`Controller`] to carry it on. `texts` are those that both variants are probed with; none
    /// for the library's own.
    ///
    /// # Errors
    /// [`RolloutError::Config`], [`RolloutError::UnderWay`].
    pub async fn start(&self, start: Start, texts: Option<&str>) -> Result<Rollout, RolloutError> {
        let texts = texts.map_or_else(probes::built_in, probes::lines);
        let settings = &start.config.probes;
        if settings.required && texts.len() < settings.min_probes {
            return Err(Error::Settings(format!(
                "{} texts to probe with, probes.min_probes asks for {}: add some, one a line",
                texts.len(),
                settings.min_probes
            ))
            .into());
        }
        let rollout = Rollout::begin(start, self.now_ms().await)?;
        let (revision, before) = self.store.get(&rollout.model).await?;
        let under_way = |other: &Rollout| RolloutError::UnderWay {
            model: other.model.clone(),
            id: other.id.clone(),
            phase: other.phase.as_str(),
        };
        if let Some(before) = &before {
            if before.outcome().is_none() {
                return Err(under_way(before));
            }
            self.store.keep_end(before).await?;
        }
        self.store.put_texts(&rollout, &texts).await?;
        if self.store.put(&rollout, revision).await?.is_none() {
            let other = self.store.get(&rollout.model).await?.1;
            return Err(other.map_or_else(|| RolloutError::Contended(rollout.model.clone()), |other| under_way(&other)));
        }
        self.store.forget_old(&rollout.model).await?;
        Ok(rollout)
    }

    /// The last rollout of each model.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn all(&self) -> Result<Vec<Rollout>, RolloutError> {
        Ok(self.store.all().await?)
    }

    /// The last rollout of a model.
    ///
    /// # Errors
    /// [`RolloutError::None`], or if the bucket cannot be read.
    pub async fn get(&self, model: &Slug) -> Result<Rollout, RolloutError> {
        let none = || RolloutError::None { model: model.clone(), id: None };
        self.store.get(model).await?.1.ok_or_else(none)
    }

    /// Everything that is known of a rollout of a model: the last, or that with this id.
    ///
    /// # Errors
    /// [`RolloutError::None`], or if the bucket cannot be read.
    pub async fn record(&self, model: &Slug, id: Option<&str>) -> Result<Record, RolloutError> {
        let none = || RolloutError::None { model: model.clone(), id: id.map(str::to_owned) };
        self.store.record(model, id).await?.ok_or_else(none)
    }

    /// A model's rollouts that are over and whose records are kept, oldest first.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn history(&self, model: &Slug) -> Result<Vec<Rollout>, RolloutError> {
        Ok(self.store.history(model).await?)
    }

    /// The ids of a model's rollouts whose records are kept, oldest first.
    ///
    /// # Errors
    /// If the bucket cannot be read.
    pub async fn ids(&self, model: &Slug) -> Result<Vec<String>, RolloutError> {
        Ok(self.store.ended(model).await?)
    }

    /// Leaves the weights as they are until somebody resumes, promotes or aborts it. Guardrails are still watched.
    ///
    /// # Errors
    /// [`RolloutError::NotNow`], [`RolloutError::None`].
    pub async fn pause(&self, model: &Slug, who: &str) -> Result<Rollout, RolloutError> {
        self.change(model, async |rollout| Ok(rollout.pause(who, self.now_ms().await)?)).await
    }

    /// Lets it go on: the step begins anew.
    ///
    /// # Errors
    /// As [`Rollouts::pause`].
    pub async fn resume(&self, model: &Slug, who: &str) -> Result<Rollout, RolloutError> {
        let revision = self.route_revision(model).await?;
        self.change(model, async |rollout| Ok(rollout.resume(who, revision, self.now_ms().await)?)).await
    }

    /// Goes on to the next step, or with `full` to the last, without waiting for evidence.
    ///
    /// # Errors
    /// As [`Rollouts::pause`].
    pub async fn promote(&self, model: &Slug, full: bool, who: &str) -> Result<Rollout, RolloutError> {
        let revision = self.route_revision(model).await?;
        self.change(model, async |rollout| {
            let baseline = match rollout.stage() {
                Some(stage) => self.store.stage(rollout, stage.clone()).await?.baseline(),
                None => WindowCounts::default(),
            };
            Ok(rollout.promote(who, full, revision, baseline, self.now_ms().await)?)
        })
        .await
    }

    /// Wants all traffic back at the baseline, which `controller` is to bring about at once.
    ///
    /// # Errors
    /// As [`Rollouts::pause`].
    pub async fn abort(&self, model: &Slug, who: &str, controller: &Controller) -> Result<Rollout, RolloutError> {
        self.change(model, async |rollout| {
            let now = self.now_ms().await;
            rollout.abort(who, now)?;
            if rollout.outcome().is_none() {
                rollout.holder = Some(controller.holder(now));
            }
            Ok(())
        })
        .await
    }

    /// The server's time, which all times of a rollout are in; Unix time in milliseconds.
    pub async fn now_ms(&self) -> u64 {
        self.time.asked(self.client.nats()).await
    }

    async fn route_revision(&self, model: &Slug) -> Result<u64, RolloutError> {
        Ok(RouteStore::new(self.client.nats().clone()).get(model).await?.0)
    }

    /// Changes a rollout, over whatever the controller writes meanwhile.
    async fn change(
        &self,
        model: &Slug,
        change: impl AsyncFn(&mut Rollout) -> Result<(), RolloutError>,
    ) -> Result<Rollout, RolloutError> {
        for _ in 0..ATTEMPTS {
            let (revision, rollout) = self.store.get(model).await?;
            let mut rollout = rollout.ok_or_else(|| RolloutError::None { model: model.clone(), id: None })?;
            change(&mut rollout).await?;
            if self.store.put(&rollout, revision).await?.is_some() {
                return Ok(rollout);
            }
        }
        Err(RolloutError::Contended(model.clone()))
    }
}

/// An id for a rollout that begins now: they sort by time.
#[must_use]
pub fn new_id() -> String {
    let now = OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    let (hour, minute, second) = time.as_hms();
    format!("{date}-{hour:02}{minute:02}{second:02}-{:04x}", rand::random::<u16>())
}

/// A time of a rollout, Unix time in milliseconds, for people, in UTC: `2026-03-14 09:26:53`.
#[must_use]
pub fn clock(ms: u64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000) else { return ms.to_string() };
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02}", time.date())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
