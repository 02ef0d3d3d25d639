//! Changing a route: checked, written down, applied, verified, and taken back if a server refuses.

use std::time::{Instant, SystemTime};

use embed_schemas::{
    Lane, RouteRecord, RouteState, Slug, Weights,
    routes::{Lanes, describe},
};
use serde::Serialize;

use super::{
    Applied, Outcome, Report, RouteError, Router,
    apply::{Unwritten, unended},
    checks, mapping,
    record::{in_effect, is_abandoned, is_same_change, undone},
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

/// A change that was written down and not applied yet.
struct Intent {
    revision: u64,
    record: RouteRecord,
}

impl Router {
    /// Changes a route on every server, and verifies that each holds it. Servers that do not answer are no failure: see [`Applied::missing`].
    ///
    /// # Errors
    /// Before anything is changed: [`RouteError::NotServed`], [`RouteError::Spaces`], [`RouteError::NoConsumer`],
    /// [`RouteError::Overlap`], or whatever keeps it from beginning. Once it has begun, however it ends is an [`Outcome`].
    pub async fn set(&self, model: &Slug, change: &Change) -> Result<Outcome, RouteError> {
        self.can_put().await?;
        let ended = match change.on_failure {
            OnFailure::Keep => self.emergency(model, change).await,
            OnFailure::Undo => self.everywhere_or_nowhere(model, change).await,
        };
        match ended {
            // Somebody else was faster before it had begun.
            Err(RouteError::Ended(outcome)) => Ok(*outcome),
            ended => ended,
        }
    }

    async fn everywhere_or_nowhere(&self, model: &Slug, change: &Change) -> Result<Outcome, RouteError> {
        let started = Instant::now();
        let intent = self.intend(model, change).await?;
        let report = match self.apply(Unwritten::Adopt).await {
            Ok(report) => report,
            // Whatever was done, if anything: see that all is as before.
            Err(error) => {
                let why = (error.to_string(), error.retryable());
                return Ok(self.take_back(model, &intent, &change.who, why).await);
            }
        };
        let now = async {
            self.settle(&report, &[]).await?;
            self.store.get(model).await
        };
        let record = match now.await {
            Ok((_, record)) => record.unwrap_or_else(|| intent.record.clone()),
            // The servers have been told: what the bucket does not take now changes nothing about that.
            Err(error) => {
                unended(model, error);
                intent.record.clone()
            }
        };
        if record.lanes != intent.record.lanes {
            return Ok(Outcome::superseded(model, Some(&record)));
        }
        let mine = report.of(model);
        if !mine.is_applied() {
            let reasons = mine.trouble().collect::<Vec<_>>().join("; ");
            return Ok(self.take_back(model, &intent, &change.who, (reasons, false)).await);
        }
        Ok(Outcome::Applied(Applied::new(model, record, mine, started.elapsed())))
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
            return Err(RouteError::ended(Outcome::superseded(model, before.as_ref())));
        }
        self.check(model, change, &seen).await?;
        let record = change.record(before);
        match self.store.put(model, &record, revision).await? {
            Some(revision) => Ok(Intent { revision, record }),
            None => Err(RouteError::ended(Outcome::superseded(model, self.store.get(model).await?.1.as_ref()))),
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

    /// Goes back to what was before a change that failed, for the reasons in `why`, which may pass by themselves or not.
    async fn take_back(&self, model: &Slug, intent: &Intent, who: &str, why: (String, bool)) -> Outcome {
        let (reasons, passing) = why;
        let back = undone(&intent.record, who, &format!("undone: {reasons}"));
        let taken_back = async {
            let mut revision = intent.revision;
            while self.store.put(model, &back, revision).await?.is_none() {
                let (now, other) = self.store.get(model).await?;
                if !other.as_ref().is_some_and(|other| is_same_change(other, &intent.record)) {
                    // Theirs is what holds, and theirs to see through.
                    return Ok(Some(Outcome::superseded(model, other.as_ref())));
                }
                // Somebody has written down how it stands; it is still this change.
                revision = now;
            }
            let report = self.apply(Unwritten::Adopt).await?;
            // A server that refuses to read its files again still holds what it held before.
            let holds_it = report.clone().of(model).servers.iter().all(|server| server.differences.is_empty());
            if !holds_it {
                let reasons = report.of(model).trouble().collect::<Vec<_>>().join("; ");
                return Ok(Some(Outcome::HalfApplied { model: model.clone(), reasons }));
            }
            self.settle(&unrefused(report), &[]).await.unwrap_or_else(|error| unended(model, error));
            Ok::<_, RouteError>(None)
        };
        match taken_back.await {
            Ok(None) => Outcome::Undone { model: model.clone(), reasons, passing },
            Ok(Some(outcome)) => outcome,
            Err(error) => Outcome::HalfApplied { model: model.clone(), reasons: format!("{reasons}; {error}") },
        }
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
