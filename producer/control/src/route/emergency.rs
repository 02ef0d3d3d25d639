//! Everything to one variant, now: on every server that answers, whether it can be written down or not.
//!
//! The bucket needs a leader, and a leader needs a quorum; servers need neither to be told where their traffic goes. So the bucket is
//! asked for no longer than [`BUCKET`], and what it does not say is taken from what the servers hold. What it does not take is left on
//! the servers with a mark (see `wish.rs`), by which whoever looks at routes next knows it, and writes it down.

use std::time::{Duration, Instant};

use embed_schemas::{RouteRecord, Slug};
use tokio::time::timeout;

use super::{
    Applied, Backend, Change, Outcome, Report, RouteError, Router,
    apply::{Unwritten, lanes, unended},
    claims, held,
    report::Seen,
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
    pub(super) async fn emergency(&self, model: &Slug, change: &Change) -> Result<Outcome, RouteError> {
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
                // One that somebody has changed the entry of meanwhile is not written down yet, and stays in effect.
                Ok(Ok(now)) => {
                    wishes = wish::unwritten(&now, wishes);
                    routes = now;
                }
                Ok(Err(error)) => closed = Some(error.to_string()),
                Err(_) => closed = Some(silent()),
            }
        }
        if closed.is_some() && routes.is_empty() {
            (routes, wishes) = self.in_effect(&found, &seen).await?;
        }
        let mut base = wish::with(routes, &wishes);
        let marked = wishes.remove(model);

        let mut revision = base.get(model).map_or(0, |entry| entry.revision);
        let mut record = change.record(base.get(model).map(|entry| entry.record.clone()));
        // A mark for the same is there already: another would only be another reload.
        if let (Some(_), Some(wish)) = (&closed, marked)
            && wish.lanes == record.lanes
        {
            record = wish;
        }
        if closed.is_none() {
            match timeout(BUCKET, self.write_down(model, change, record.clone(), revision)).await {
                Ok(Ok(written)) => (revision, record) = written,
                Ok(Err(error)) if error.retryable() && !matches!(error, RouteError::Ended(_)) => {
                    closed = Some(error.to_string());
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => closed = Some(silent()),
            }
        }
        if let Some(reason) = &closed {
            if change.only_after.is_some() {
                let what = format!("whether the route of model {model} has changed meanwhile is not known");
                return Err(RouteError::System { what, reason: reason.clone() });
            }
            wishes.insert(model.clone(), record.clone());
        }
        base.insert(model.clone(), Entry { revision, record: record.clone() });

        let mut report = match self.bring(base.clone(), &wishes, seen).await {
            Ok(report) => report,
            Err(error) if closed.is_some() => return Err(error),
            // It is written down that it was begun, and nobody knows how far it has come.
            Err(error) => return Ok(Outcome::HalfApplied { model: model.clone(), reasons: error.to_string() }),
        };
        if closed.is_none() {
            // It is written down that it was begun: whatever fails from here on, `sync` finishes it.
            match timeout(BUCKET, self.end(&base, &report)).await {
                Ok(Ok(Some(ended))) => report = ended,
                Ok(Ok(None)) => match self.follow().await {
                    Ok(ended) => report = ended,
                    Err(error) => unended(model, error),
                },
                Ok(Err(error)) => unended(model, error),
                Err(_) => unended(model, silent()),
            }
        }
        let entry = report.routes.get(model).map(|entry| entry.record.clone()).unwrap_or_else(|| record.clone());
        if entry.lanes != record.lanes {
            return Ok(Outcome::superseded(model, Some(&entry)));
        }
        let mine = report.of(model);
        if !mine.is_applied() {
            let mut reasons: Vec<_> = mine.trouble().collect();
            reasons.extend(closed.map(|why| format!("and it could not be written down: {why}")));
            return Ok(Outcome::HalfApplied { model: model.clone(), reasons: reasons.join("; ") });
        }
        let applied = Applied::new(model, entry, mine, started.elapsed());
        Ok(match closed {
            None => Outcome::Applied(applied),
            Some(reason) => Outcome::Unwritten { applied, reason },
        })
    }

    /// Reads the bucket, if it can be read now.
    async fn open(&self) -> Result<Book, RouteError> {
        let read = async { Ok::<_, RouteError>((self.store.all().await?, self.store.servers().await?.1)) };
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
        Err(RouteError::ended(Outcome::superseded(model, self.store.get(model).await?.1.as_ref())))
    }

    /// What is in effect where the bucket does not say what is wanted, and the marks in it.
    async fn in_effect(&self, found: &Report, seen: &Seen) -> Result<(Routes, Wishes), RouteError> {
        if let Backend::Files(_) = self.backend {
            return Ok((held::agreed(&found.servers)?, found.unwritten.clone()));
        }
        // All that servers hold comes from claims, and of those the newest count.
        let servers = seen.roll_call.present.len();
        let mappings = claims::newest(&self.system.claims(&self.account, servers).await?)?.claims.mappings();
        Ok((held::of_mappings(&mappings), wish::marked([&mappings])))
    }

    /// Writes down how it ended. `None` if somebody else has changed something meanwhile.
    async fn end(&self, routes: &Routes, report: &Report) -> Result<Option<Report>, RouteError> {
        self.settle(report, &[]).await?;
        let now = self.store.all().await?;
        // As it is written down now, and not as it was begun.
        Ok((lanes(&now) == lanes(routes)).then(|| Report { routes: now, ..report.clone() }))
    }

    /// Brings to the servers what somebody else has changed meanwhile, too.
    async fn follow(&self) -> Result<Report, RouteError> {
        let report = self.apply(Unwritten::Adopt).await?;
        self.settle(&report, &[]).await?;
        Ok(Report { routes: self.store.all().await?, ..report })
    }

    /// Goes on until what an emergency has left unwritten is written down, for so long. `applied` is what [`Outcome::Unwritten`] says.
    ///
    /// # Errors
    /// What will not pass by itself. That it could not be written down in time is an end.
    pub async fn reconcile(
        &self,
        model: &Slug,
        change: &Change,
        applied: &Applied,
        within: Duration,
    ) -> Result<Outcome, RouteError> {
        let deadline = tokio::time::Instant::now() + within;
        let mut applied = applied.clone();
        loop {
            let attempt = self.write_late(model, change, &mut applied);
            let reason = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(Late::Ended(outcome))) => return Ok(*outcome),
                Ok(Ok(Late::NotYet(reason))) => reason,
                Ok(Err(error)) if !error.retryable() => return Err(error),
                Ok(Err(error)) => error.to_string(),
                Err(_) => silent(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Ok(Outcome::Unwritten { applied, reason });
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Tries once to write down what an emergency has left unwritten, and looks whether it is so.
    async fn write_late(&self, model: &Slug, change: &Change, applied: &mut Applied) -> Result<Late, RouteError> {
        let report = self.sync(false, &change.who, &[]).await?;
        if !report.unwritten.is_empty() {
            return Ok(Late::NotYet(report.unfinished().collect::<Vec<_>>().join("; ")));
        }
        // No mark is left. That may also be since somebody has removed it.
        let now = report.routes.get(model).map(|entry| entry.record.clone());
        let record = &applied.record;
        let is_ours = |other: &RouteRecord| (&other.who, &other.when) == (&record.who, &record.when);
        let written = match &now {
            Some(now) if is_ours(now) => true,
            _ => self.store.history(model).await?.iter().any(|entry| is_ours(&entry.record)),
        };
        let is_over = written || now.as_ref().is_some_and(|now| !wish::is_newer(record, now));
        match now {
            Some(now) if is_over && (is_ours(&now) || now.lanes == record.lanes) => {
                let mine = report.of(model);
                if !mine.is_applied() {
                    let reasons = mine.trouble().collect::<Vec<_>>().join("; ");
                    return Late::ended(Outcome::HalfApplied { model: model.clone(), reasons });
                }
                Late::ended(Outcome::Applied(Applied::new(model, now, mine, applied.took)))
            }
            other if is_over => Late::ended(Outcome::superseded(model, other.as_ref())),
            _ => match self.set(model, change).await? {
                Outcome::Applied(again) => {
                    *applied = again;
                    Ok(Late::NotYet("its mark was gone, and it is done again".to_owned()))
                }
                Outcome::Unwritten { applied: again, reason } => {
                    *applied = again;
                    Ok(Late::NotYet(reason))
                }
                half @ Outcome::HalfApplied { .. } => Ok(Late::NotYet(half.to_string())),
                ended @ (Outcome::Undone { .. } | Outcome::Superseded { .. }) => Late::ended(ended),
            },
        }
    }
}

/// What came of an attempt to write something down late.
enum Late {
    Ended(Box<Outcome>),
    NotYet(String),
}

impl Late {
    fn ended(outcome: Outcome) -> Result<Self, RouteError> {
        Ok(Self::Ended(Box::new(outcome)))
    }
}

fn silent() -> String {
    format!("the bucket of routes has not answered within {} s", BUCKET.as_secs())
}
