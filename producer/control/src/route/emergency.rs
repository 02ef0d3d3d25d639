//! Everything to one variant, now: on every server that answers, whether it can be written down or not.
//!
//! The bucket needs a leader, and a leader needs a quorum; servers need neither to be told where their traffic goes. So the bucket is
//! asked for no longer than [`BUCKET`], and what it does not say is taken from what the servers hold. What it does not take is left on
//! the servers with a mark (see `wish.rs`), by which whoever looks at routes next knows it, and writes it down.

use std::time::{Duration, Instant};

use embed_schemas::{RouteRecord, Slug, routes::describe};
use tokio::time::timeout;

use super::{
    Applied, Change, Report, RouteError, Router,
    apply::{Unwritten, lanes},
    store::{Entry, Routes},
    wish::{self, Wishes},
};

/// How long the bucket is waited for: to be read, to be written, and to be told the end.
const BUCKET: Duration = Duration::from_secs(1);
/// How often a record is written that somebody else is faster with.
const TRIES: usize = 5;

/// What the bucket says, or why it says nothing.
struct Book {
    routes: Routes,
    known: Vec<String>,
    closed: Option<String>,
}

impl Router {
    /// Changes a route wherever that can be done.
    ///
    /// # Errors
    /// As [`Router::set`]; nothing is ever taken back.
    pub(super) async fn emergency(&self, model: &Slug, change: &Change) -> Result<Applied, RouteError> {
        let started = Instant::now();
        let (book, roll_call) = tokio::join!(self.open(), self.system.roll_call(&[]));
        let (Book { mut routes, known, mut closed }, roll_call) = (book?, roll_call?);
        let seen = self.ask(known, roll_call).await;
        self.check(model, change, &seen).await?;

        // What is in effect counts as wanted, where nobody can say what is.
        let found = Report::new(&self.account, routes.clone(), &Wishes::new(), &seen);
        let mut wishes = found.unwritten.clone();
        if closed.is_none() && !wishes.is_empty() {
            // Of emergencies before this one.
            let adopt = async {
                self.adopt(&routes, &seen).await?;
                self.store.all().await
            };
            match timeout(BUCKET, adopt).await {
                Ok(Ok(now)) => (routes, wishes) = (now, Wishes::new()),
                Ok(Err(error)) => closed = Some(error.to_string()),
                Err(_) => closed = Some(silent()),
            }
        }
        let base = if closed.is_some() && routes.is_empty() { held(&found) } else { routes };
        let mut base = wish::with(base, &wishes);
        wishes.remove(model);

        let mut revision = base.get(model).map_or(0, |entry| entry.revision);
        let mut record = change.record(base.get(model).map(|entry| entry.record.clone()));
        // A mark for the same is there already: another would only be another reload.
        if let (Some(_), Some(wish)) = (&closed, found.unwritten.get(model))
            && wish.lanes == record.lanes
        {
            record = wish.clone();
        }
        if closed.is_none() {
            match timeout(BUCKET, self.write_down(model, change, record.clone(), revision)).await {
                Ok(Ok(written)) => (revision, record) = written,
                Ok(Err(error)) if error.retryable() && !matches!(error, RouteError::Superseded { .. }) => {
                    closed = Some(error.to_string());
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => closed = Some(silent()),
            }
        }
        if closed.is_some() {
            wishes.insert(model.clone(), record.clone());
        }
        base.insert(model.clone(), Entry { revision, record: record.clone() });

        let mut report = self.bring(base.clone(), &wishes, seen).await?;
        if closed.is_none() {
            closed = match timeout(BUCKET, self.end(&base, &report)).await {
                Ok(Ok(ended)) => {
                    report = ended;
                    None
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(silent()),
            };
        }
        let entry = report.routes.get(model).map(|entry| entry.record.clone()).unwrap_or_else(|| record.clone());
        if entry.lanes != record.lanes {
            return Err(RouteError::superseded(model, Some(&entry)));
        }
        let mine = report.of(model);
        if !mine.is_applied() {
            let mut reasons: Vec<_> = mine.trouble().collect();
            reasons.extend(closed.map(|why| format!("and it could not be written down: {why}")));
            return Err(RouteError::HalfApplied { model: model.clone(), reasons: reasons.join("; ") });
        }
        let applied = Applied::new(model, entry, mine, started.elapsed());
        match closed {
            None => Ok(applied),
            Some(reason) => {
                let holding = applied.servers.into_iter().filter(|server| server.id.is_some());
                let servers = holding.map(|server| server.name).collect();
                Err(RouteError::Unwritten { model: model.clone(), servers, missing: applied.missing, reason })
            }
        }
    }

    /// Reads the bucket, if it can be read now.
    async fn open(&self) -> Result<Book, RouteError> {
        let read = async { Ok::<_, RouteError>((self.store.all().await?, self.store.servers().await?)) };
        let closed = match timeout(BUCKET, read).await {
            Ok(Ok((routes, known))) => return Ok(Book { routes, known, closed: None }),
            Ok(Err(error)) if error.retryable() => error.to_string(),
            Ok(Err(error)) => return Err(error),
            Err(_) => silent(),
        };
        Ok(Book { routes: Routes::new(), known: Vec::new(), closed: Some(closed) })
    }

    /// Writes the change down, over whatever somebody else writes at the same time.
    async fn write_down(
        &self,
        model: &Slug,
        change: &Change,
        mut record: RouteRecord,
        mut revision: u64,
    ) -> Result<(u64, RouteRecord), RouteError> {
        for _ in 0..TRIES {
            if change.only_after.is_some_and(|wanted| wanted != revision) {
                break;
            }
            if let Some(revision) = self.store.put(model, &record, revision).await? {
                return Ok((revision, record));
            }
            let (now, other) = self.store.get(model).await?;
            revision = now;
            record = change.record(other);
        }
        Err(RouteError::superseded(model, self.store.get(model).await?.1.as_ref()))
    }

    /// Writes down how it ended. What somebody else has changed meanwhile is brought to the servers, too, and reported.
    async fn end(&self, routes: &Routes, report: &Report) -> Result<Report, RouteError> {
        self.settle(report, &[]).await?;
        let now = self.store.all().await?;
        if lanes(&now) == lanes(routes) {
            // As it is written down now, and not as it was begun.
            return Ok(Report { routes: now, ..report.clone() });
        }
        let report = self.apply(Unwritten::Adopt).await?;
        self.settle(&report, &[]).await?;
        Ok(Report { routes: self.store.all().await?, ..report })
    }

    /// Goes on until what an emergency has left unwritten is written down, for so long.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn reconcile(&self, model: &Slug, who: &str, within: Duration) -> Result<Report, RouteError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let report = match tokio::time::timeout_at(deadline, self.sync(false, who, &[])).await {
                Ok(Ok(report)) if report.unwritten.is_empty() => return Ok(report.of(model)),
                Ok(Ok(report)) => report.unfinished().collect::<Vec<_>>().join("; "),
                Ok(Err(error)) if !error.retryable() => return Err(error),
                Ok(Err(error)) => error.to_string(),
                Err(_) => silent(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(RouteError::System { what: "it is not written down yet".to_owned(), reason: report });
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

fn silent() -> String {
    format!("the bucket of routes has not answered within {} s", BUCKET.as_secs())
}

/// The routes that servers hold: those of the one that has read them last.
fn held(found: &Report) -> Routes {
    let answering = found.servers.iter().filter(|server| server.id.is_some());
    let Some(server) = answering.max_by_key(|server| (server.since.clone(), server.name.clone())) else {
        return Routes::new();
    };
    let record = |lanes: &embed_schemas::routes::Lanes| RouteRecord {
        lanes: lanes.clone(),
        from: lanes.clone(),
        state: embed_schemas::RouteState::Applied,
        who: format!("server {}", server.name),
        when: server.since.clone().unwrap_or_default(),
        note: Some(describe(lanes)),
        problem: None,
    };
    server.holds.iter().map(|(model, lanes)| (model.clone(), Entry { revision: 0, record: record(lanes) })).collect()
}
