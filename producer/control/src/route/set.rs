//! Changing a route: checked, written down, applied, verified, and taken back if a server refuses.

use std::time::{Duration, Instant};

use embed_schemas::{
    Lane, RouteRecord, RouteState, Slug, Weights,
    routes::{Lanes, describe},
    subjects,
};
use serde::Serialize;

use super::{
    Report, RouteError, Router, ServerView, checks, mapping,
    record::{in_effect, now, undone},
};

/// What to do if a server does not take a change that others have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Take it back everywhere.
    #[default]
    Undo,
    /// Leave it where it is in effect: what an emergency wants.
    Keep,
}

/// A change of a model's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The shares; `None` for no route at all: everything goes to the default variant.
    pub weights: Option<Weights>,
    /// The lanes that change. The others stay as they are.
    pub lanes: Vec<Lane>,
    /// Who wants it.
    pub who: String,
    /// Why.
    pub note: Option<String>,
    /// Whether to set it although a variant is not served, or the variants are in different embedding spaces.
    pub force: bool,
    /// What to do if a server does not take it.
    pub on_failure: OnFailure,
    /// Only if the route still has this revision (0: there never was one), see [`Router::current`].
    pub only_after: Option<u64>,
}

impl Change {
    /// These shares in all lanes.
    #[must_use]
    pub fn to(weights: Weights, who: &str) -> Self {
        Self {
            weights: Some(weights),
            lanes: Lane::ALL.to_vec(),
            who: who.to_owned(),
            note: None,
            force: false,
            on_failure: OnFailure::default(),
            only_after: None,
        }
    }

    /// Everything to one variant, wherever that can be done: the way out of trouble.
    #[must_use]
    pub fn all_to(variant: Slug, who: &str) -> Self {
        Self { on_failure: OnFailure::Keep, ..Self::to(Weights::all_to(variant), who) }
    }

    /// No route: everything to the default variant.
    #[must_use]
    pub fn clear(who: &str) -> Self {
        Self { weights: None, ..Self::to(Weights::all_to(Slug::from_name("default").expect("a slug")), who) }
    }
}

/// A change that is in effect.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The model.
    pub model: Slug,
    /// What was written down.
    pub record: RouteRecord,
    /// What each server holds.
    pub servers: Vec<ServerView>,
    /// The servers that do not answer, by name. They are expected to hold it once they are back; `embed route sync` makes sure.
    pub missing: Vec<String>,
    /// How long it took.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A change that was written down and not applied yet.
struct Intent {
    revision: u64,
    record: RouteRecord,
}

impl Router {
    /// Changes a route on every server, and verifies that each holds it.
    ///
    /// # Errors
    /// Before anything is changed: [`RouteError::NotServed`], [`RouteError::Spaces`], [`RouteError::NoConsumer`],
    /// [`RouteError::Overlap`], [`RouteError::Superseded`]. [`RouteError::Undone`] if a server refused it and all are as
    /// before; [`RouteError::HalfApplied`] if that could not be brought about, or was not wanted. Servers that do not answer
    /// are no error: see [`Applied::missing`].
    pub async fn set(&self, model: &Slug, change: &Change) -> Result<Applied, RouteError> {
        let started = Instant::now();
        self.can_put().await?;
        let intent = self.intend(model, change).await?;
        let report = match self.apply().await {
            Ok(report) => report,
            // Wherever it is in effect, there it stays; what is written down says what is still to be done.
            Err(error) if change.on_failure == OnFailure::Keep => {
                return Err(RouteError::HalfApplied { model: model.clone(), reasons: error.to_string() });
            }
            // Whatever was done, if anything: see that all is as before.
            Err(error) => {
                self.take_back(model, &intent, &change.who, &error.to_string()).await?;
                return Err(error);
            }
        };
        self.settle(&report, &[]).await?;
        let (_, record) = self.store.get(model).await?;
        let record = record.unwrap_or_else(|| intent.record.clone());
        if record.lanes != intent.record.lanes {
            let (who, to) = (record.who, describe(&record.lanes));
            return Err(RouteError::Superseded { model: model.clone(), who, to });
        }
        let mine = report.of(model);
        if !mine.is_applied() {
            let reasons = mine.trouble().collect::<Vec<_>>().join("; ");
            if change.on_failure == OnFailure::Keep {
                return Err(RouteError::HalfApplied { model: model.clone(), reasons });
            }
            self.take_back(model, &intent, &change.who, &reasons).await?;
            return Err(RouteError::Undone { model: model.clone(), reasons });
        }
        let silent = mine.servers.iter().filter(|server| server.id.is_none());
        let missing = silent.map(|server| server.name.clone()).collect();
        Ok(Applied { model: model.clone(), record, servers: mine.servers, missing, took: started.elapsed() })
    }

    /// Checks a change and writes it down, and returns the file of mappings with it. To be finished with [`Router::sync`],
    /// once that file is where the servers read it.
    ///
    /// # Errors
    /// As [`Router::set`], before anything is changed.
    pub async fn prepare(&self, model: &Slug, change: &Change) -> Result<String, RouteError> {
        self.intend(model, change).await?;
        self.render().await
    }

    async fn intend(&self, model: &Slug, change: &Change) -> Result<Intent, RouteError> {
        let (revision, before) = self.store.get(model).await?;
        if change.only_after.is_some_and(|wanted| wanted != revision) {
            return Err(self.superseded(model).await?);
        }
        let from = before.map(in_effect).unwrap_or_default();
        let mut lanes = from.clone();
        for lane in &change.lanes {
            match &change.weights {
                Some(weights) => lanes.insert(*lane, weights.clone()),
                None => lanes.remove(lane),
            };
        }
        self.check(model, change).await?;
        let record = RouteRecord {
            lanes,
            from,
            state: RouteState::Applying,
            who: change.who.clone(),
            when: now(),
            note: change.note.clone(),
            problem: None,
        };
        match self.store.put(model, &record, revision).await? {
            Some(revision) => Ok(Intent { revision, record }),
            None => Err(self.superseded(model).await?),
        }
    }

    async fn superseded(&self, model: &Slug) -> Result<RouteError, RouteError> {
        let (who, to) = match self.store.get(model).await?.1 {
            Some(other) => (other.who, describe(&other.lanes)),
            None => ("somebody".to_owned(), "nothing".to_owned()),
        };
        Ok(RouteError::Superseded { model: model.clone(), who, to })
    }

    async fn check(&self, model: &Slug, change: &Change) -> Result<(), RouteError> {
        let Some(weights) = &change.weights else { return Ok(()) };
        let changed: Lanes = change.lanes.iter().map(|lane| (*lane, weights.clone())).collect();
        let served = async {
            if change.force {
                return Ok(());
            }
            let statuses = self.client.statuses().await?;
            checks::served(model, &changed, &statuses)?;
            checks::one_space(model, &changed, &statuses)
        };
        let (served, consumers, overlap) =
            tokio::join!(served, checks::consumers(&self.client, model, &changed), self.check_overlap(model, change));
        served.and(consumers).and(overlap)
    }

    async fn check_overlap(&self, model: &Slug, change: &Change) -> Result<(), RouteError> {
        let sources: Vec<_> = change.lanes.iter().map(|lane| subjects::bare(*lane, model)).collect();
        for server in self.roll_call().await?.present {
            let Ok(held) = self.system.held(&server, &self.account).await else { continue };
            if let Some(other) = mapping::overlapping(&sources, &held.mappings).first() {
                return Err(RouteError::Overlap {
                    server: server.name,
                    source_subject: (*other).to_owned(),
                    subjects: sources.join(", "),
                });
            }
        }
        Ok(())
    }

    /// Goes back to what was before a change that failed.
    async fn take_back(&self, model: &Slug, intent: &Intent, who: &str, why: &str) -> Result<(), RouteError> {
        let half = |reasons: String| RouteError::HalfApplied { model: model.clone(), reasons };
        let back = undone(&intent.record, who, &format!("undone: {why}"));
        // If somebody else has changed the route since, theirs is what holds, and theirs to see through.
        let ours = self.store.put(model, &back, intent.revision).await.map_err(|e| half(format!("{why}; {e}")))?;
        if ours.is_none() {
            return Ok(());
        }
        let report = self.apply().await.map_err(|error| half(format!("{why}; {error}")))?;
        // A server that refuses to read its files again still holds what it held before.
        let holds_it = report.clone().of(model).servers.iter().all(|server| server.differences.is_empty());
        if !holds_it {
            return Err(half(report.of(model).trouble().collect::<Vec<_>>().join("; ")));
        }
        self.settle(&unrefused(report), &[]).await
    }
}

/// A report in which a server that holds what is wanted counts as such, whatever it refused on the way.
fn unrefused(mut report: Report) -> Report {
    report.problems.clear();
    for server in &mut report.servers {
        if server.state == super::ServerState::Refused && server.differences.is_empty() {
            server.state = super::ServerState::AsWanted;
            server.problem = None;
        }
    }
    report
}
