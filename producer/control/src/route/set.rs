//! Changing a route: checked, written down, applied, verified, and taken back if a server refuses.

use std::time::{Duration, Instant, SystemTime};

use embed_schemas::{
    Lane, RouteRecord, RouteState, Slug, Weights,
    routes::{Lanes, describe},
};
use serde::Serialize;

use super::{
    Report, RouteError, Router, ServerView,
    apply::Unwritten,
    checks, mapping,
    record::{in_effect, is_abandoned, undone},
    report::Seen,
    store::{Entry, Routes},
    wish,
};
use crate::times;

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
    /// Exactly these shares, lane by lane, whatever `weights` and `lanes` say.
    pub exactly: Option<Lanes>,
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
            exactly: None,
        }
    }

    /// Exactly these shares: a lane that is left out is not routed.
    #[must_use]
    pub fn exactly(lanes: Lanes, who: &str) -> Self {
        Self { exactly: Some(lanes), ..Self::clear(who) }
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

    /// The shares that this makes of those before.
    fn lanes(&self, before: &Lanes) -> Lanes {
        if let Some(exactly) = &self.exactly {
            return exactly.clone();
        }
        let mut lanes = before.clone();
        for lane in &self.lanes {
            match &self.weights {
                Some(weights) => lanes.insert(*lane, weights.clone()),
                None => lanes.remove(lane),
            };
        }
        lanes
    }

    /// The shares that it names.
    fn named(&self) -> Lanes {
        self.lanes(&Lanes::new())
    }

    /// The record of it, over the one before.
    pub(super) fn record(&self, before: Option<RouteRecord>) -> RouteRecord {
        let when = times::now_after(before.as_ref().map(|before| before.when.as_str()));
        let from = before.map(in_effect).unwrap_or_default();
        RouteRecord {
            lanes: self.lanes(&from),
            from,
            state: RouteState::Applying,
            who: self.who.clone(),
            when,
            note: self.note.clone(),
            problem: None,
        }
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

impl Applied {
    /// From what is known of the model in the end.
    pub(super) fn new(model: &Slug, record: RouteRecord, mine: Report, took: Duration) -> Self {
        let silent = mine.servers.iter().filter(|server| server.id.is_none());
        let missing = silent.map(|server| server.name.clone()).collect();
        Self { model: model.clone(), record, servers: mine.servers, missing, took }
    }
}

/// What a change would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The model.
    pub model: Slug,
    /// The shares now.
    pub from: Lanes,
    /// The shares afterwards.
    pub to: Lanes,
}

impl Plan {
    /// Whether anything changes.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.from != self.to
    }
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
    /// before; [`RouteError::HalfApplied`] if that could not be brought about, or was not wanted; [`RouteError::Unwritten`] if it is in
    /// effect, and could not be written down. Servers that do not answer are no error: see [`Applied::missing`].
    pub async fn set(&self, model: &Slug, change: &Change) -> Result<Applied, RouteError> {
        self.can_put().await?;
        match change.on_failure {
            OnFailure::Keep => self.emergency(model, change).await,
            OnFailure::Undo => self.everywhere_or_nowhere(model, change).await,
        }
    }

    async fn everywhere_or_nowhere(&self, model: &Slug, change: &Change) -> Result<Applied, RouteError> {
        let started = Instant::now();
        let intent = self.intend(model, change).await?;
        let report = match self.apply(Unwritten::Adopt).await {
            Ok(report) => report,
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
            return Err(RouteError::superseded(model, Some(&record)));
        }
        let mine = report.of(model);
        if !mine.is_applied() {
            let reasons = mine.trouble().collect::<Vec<_>>().join("; ");
            self.take_back(model, &intent, &change.who, &reasons).await?;
            return Err(RouteError::Undone { model: model.clone(), reasons });
        }
        Ok(Applied::new(model, record, mine, started.elapsed()))
    }

    /// What a change would do, and whether it would be refused. Changes nothing.
    ///
    /// # Errors
    /// As [`Router::set`], before anything is changed.
    pub async fn plan(&self, model: &Slug, change: &Change) -> Result<Plan, RouteError> {
        let (routes, seen) = self.see().await?;
        let found = Report::new(&self.account, routes, &Default::default(), &seen);
        // What an emergency has left unwritten is in effect, and will be written down first.
        let written = found.routes.get(model).map(|entry| entry.record.clone());
        let record = change.record(found.unwritten.get(model).map(wish::in_effect).or(written));
        self.check(model, change, &seen).await?;
        Ok(Plan { model: model.clone(), from: record.from, to: record.lanes })
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
        let (routes, seen) = self.see().await?;
        tell_abandoned(model, &routes);
        // What an emergency has left unwritten is part of what was before.
        self.adopt(&routes, &seen).await?;
        let (revision, before) = self.store.get(model).await?;
        if change.only_after.is_some_and(|wanted| wanted != revision) {
            return Err(RouteError::superseded(model, before.as_ref()));
        }
        self.check(model, change, &seen).await?;
        let record = change.record(before);
        match self.store.put(model, &record, revision).await? {
            Some(revision) => Ok(Intent { revision, record }),
            None => Err(RouteError::superseded(model, self.store.get(model).await?.1.as_ref())),
        }
    }

    /// Whether a change can be made at all.
    pub(super) async fn check(&self, model: &Slug, change: &Change, seen: &Seen) -> Result<(), RouteError> {
        let named = change.named();
        if named.is_empty() {
            return Ok(());
        }
        let served = async {
            if change.force {
                return Ok(());
            }
            let statuses = self.client.statuses().await?;
            checks::served(model, &named, &statuses)?;
            checks::one_space(model, &named, &statuses)
        };
        let (served, consumers) = tokio::join!(served, checks::consumers(&self.client, model, &named));
        served.and(consumers)?;
        let sources: Vec<_> = named.keys().flat_map(|lane| mapping::sources(*lane, model)).collect();
        for (server, mappings) in seen.mappings() {
            if let Some(other) = mapping::overlapping(&sources, mappings).first() {
                return Err(RouteError::Overlap {
                    server: server.to_owned(),
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
        let report = self.apply(Unwritten::Adopt).await.map_err(|error| half(format!("{why}; {error}")))?;
        // A server that refuses to read its files again still holds what it held before.
        let holds_it = report.clone().of(model).servers.iter().all(|server| server.differences.is_empty());
        if !holds_it {
            return Err(half(report.of(model).trouble().collect::<Vec<_>>().join("; ")));
        }
        self.settle(&unrefused(report), &[]).await
    }
}

/// Changes of other models that were written down, perhaps long after they were given up, and take effect with this one. Nobody else tells.
fn tell_abandoned(model: &Slug, routes: &Routes) {
    let now = SystemTime::now();
    for (other, Entry { record, .. }) in routes.iter().filter(|(other, _)| *other != model) {
        if is_abandoned(record, now) {
            let (to, who, when) = (describe(&record.lanes), &record.who, &record.when);
            tracing::warn!(
                "{other}: the change to {to} by {who} at {when} was begun and not finished, and takes effect now: to go back, set the \
                 route again"
            );
        }
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
