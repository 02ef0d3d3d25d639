//! Bringing the servers to what is wanted, and seeing that they are there. Safe to repeat.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use embed_schemas::{
    RouteState, Slug,
    routes::{Lanes, describe},
};
use tokio::time::Instant;

use super::{
    Backend, Report, RouteError, Router, ServerState,
    claims::{self, ClaimsError},
    files,
    mapping::{self, Mappings},
    record::{dropped, settled, undone},
    report::{Seen, UNNAMED, wanted},
    store::{Entry, Routes},
    system::RollCall,
    wish::{self, Wishes},
};

/// How often it is begun anew at least because somebody else has changed what is wanted meanwhile.
const ROUNDS: usize = 5;
/// And how long. So long it is also begun anew where a server holds something else though it has taken what is wanted: who writes the same file at the same
/// time may have given it what was wanted before.
const OTHERS_TAKE: Duration = Duration::from_secs(2);
/// The first pause in between; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How long servers may take to make use of claims that they have accepted.
const CLAIMS_TAKE: Duration = Duration::from_secs(2);

/// What came of giving servers what is wanted.
#[derive(Debug, Default)]
struct Given {
    /// What servers say that refuse it, by name.
    refusals: BTreeMap<String, String>,
    /// What could not be written for some.
    problems: Vec<String>,
}

/// What servers are brought to, and which: those that hold something else.
#[derive(Debug)]
struct Brought {
    wanted: Mappings,
    servers: BTreeSet<String>,
}

impl Brought {
    fn of(found: &Report) -> Self {
        let others = found.servers.iter().filter(|server| server.state != ServerState::AsWanted);
        Self {
            wanted: wanted(&found.routes, &Wishes::new()),
            servers: others.filter_map(|server| server.id.clone()).collect(),
        }
    }

    /// Whether this was brought to all of those already.
    fn covers(&self, again: &Self) -> bool {
        self.wanted == again.wanted && again.servers.is_subset(&self.servers)
    }
}

/// What becomes of what servers hold that could not be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// It is written down, and stays in effect.
    Adopt,
    /// It goes.
    Drop,
}

impl Router {
    /// Brings all servers to what is wanted for all models. Whoever changes routes at the same time writes to the bucket
    /// first: the bucket is read again at the end, and if it says something else now, so must the servers.
    pub(super) async fn apply(&self, unwritten: Unwritten) -> Result<Report, RouteError> {
        let (mut round, mut adoptions, mut pause, deadline) = (1, 0, FIRST_PAUSE, Instant::now() + OTHERS_TAKE);
        let mut last: Option<Brought> = None;
        loop {
            let (routes, seen) = self.see().await?;
            if unwritten == Unwritten::Adopt && self.adopt(&routes, &seen).await? {
                // What was read before is no more what is wanted.
                adoptions += 1;
                if adoptions >= ROUNDS {
                    let what = "emergencies are put onto the servers faster than they can be written down".to_owned();
                    return Err(RouteError::System { what, reason: format!("{ROUNDS} times in a row") });
                }
                continue;
            }
            adoptions = 0;
            let found = Report::new(&self.account, routes.clone(), &Wishes::new(), &seen);
            let brought = Brought::of(&found);
            let report = if last.as_ref().is_some_and(|last| self.is_still_given(last, &brought)) {
                found
            } else {
                last = Some(brought);
                self.bring(routes.clone(), &Wishes::new(), seen).await?
            };
            let now = self.store.all().await?;
            let late = Instant::now() >= deadline;
            if lanes(&now) == lanes(&routes) {
                let differs = report.servers.iter().any(|server| server.state == ServerState::Differs);
                // Nor does it help to wait where a file could not be written.
                if !differs || late || !report.problems.is_empty() {
                    return Ok(report);
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            } else if round >= ROUNDS && late {
                return Ok(report);
            } else {
                round += 1;
            }
        }
    }

    /// Whether all who would be brought to the same again have read it already, and nobody has written something else since: reading it once
    /// more would not help them.
    fn is_still_given(&self, last: &Brought, again: &Brought) -> bool {
        match &self.backend {
            Backend::Files(paths) => {
                let text = mapping::render(&again.wanted);
                last.covers(again) && paths.iter().all(|path| files::says(path, &text))
            }
            Backend::Claims(_) => false,
        }
    }

    /// What is wanted, and what each server says that it holds.
    pub(super) async fn see(&self) -> Result<(Routes, Seen), RouteError> {
        let routes = self.store.all().await?;
        let (_, known) = self.store.servers().await?;
        let roll_call = self.system.roll_call(&known).await?;
        Ok((routes, self.ask(known, roll_call).await))
    }

    /// Asks every server that is there what it holds.
    pub(super) async fn ask(&self, known: Vec<String>, roll_call: RollCall) -> Seen {
        let ask = roll_call.present.iter().map(|server| self.system.held(server, &self.account));
        let held = futures::future::join_all(ask).await;
        Seen { known, roll_call, held, refusals: BTreeMap::new() }
    }

    /// Writes down what emergencies have put onto servers while that was impossible. `false` if there was nothing.
    pub(super) async fn adopt(&self, routes: &Routes, seen: &Seen) -> Result<bool, RouteError> {
        let marks = wish::marked(seen.mappings().map(|(_, mappings)| mappings));
        let unwritten = wish::unwritten(routes, marks);
        for (model, wish) in &unwritten {
            let (revision, now) = self.store.get(model).await?;
            // Only over what the wish was compared with: whoever was faster has seen the same, or changes the route anyway.
            if !wish::is_as_compared(routes.get(model), revision, now.as_ref()) {
                continue;
            }
            if self.store.put(model, &wish::late(wish), revision).await?.is_some() {
                let (who, when, to) = (&wish.who, &wish.when, describe(&wish.lanes));
                tracing::warn!(
                    "{model}: what {who} did in an emergency at {when}, everything to {to}, is written down now"
                );
            }
        }
        Ok(!unwritten.is_empty())
    }

    /// Brings the servers that were seen to these routes, and asks each what it holds then. Touches no bucket.
    pub(super) async fn bring(&self, routes: Routes, wishes: &Wishes, seen: Seen) -> Result<Report, RouteError> {
        let before = Report::new(&self.account, routes.clone(), wishes, &seen);
        let Given { refusals, problems } = self.put(&wanted(&routes, wishes), &seen.roll_call, &before).await?;
        let Seen { known, roll_call, .. } = seen;
        let mut report = self.look_until_applied(routes, wishes, known, roll_call, &refusals).await;
        report.problems = problems;
        Ok(report)
    }

    /// Gives what is wanted to the servers that did not hold it before, whatever becomes of the others.
    async fn put(&self, wanted: &Mappings, roll_call: &RollCall, before: &Report) -> Result<Given, RouteError> {
        // Not the others: a reload reads a server's whole configuration, and does no good while its routes are being made.
        let differ = || roll_call.present.iter().filter(|server| !before.is_as_wanted_on(&server.id));
        match &self.backend {
            Backend::Files(paths) => {
                let text = mapping::render(wanted);
                let problems =
                    paths.iter().filter_map(|path| Some(files::write(path, &text).err()?.to_string())).collect();
                let reload = differ().map(async |server| {
                    let refusal = self.system.reload(server).await.err()?;
                    Some((server.name.clone(), format!("it refuses to reload: {refusal}")))
                });
                let refusals = futures::future::join_all(reload).await.into_iter().flatten().collect();
                Ok(Given { refusals, problems })
            }
            Backend::Claims(key) => {
                let servers = roll_call.present.len();
                let newest = claims::newest(&self.system.claims(&self.account, servers).await?)?;
                let mut claims = newest.claims;
                let token = if claims.set_mappings(wanted) {
                    let key = key.as_ref().ok_or_else(no_key)?;
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                    // Of two, servers keep the one that was issued later, whatever our clock says.
                    let issued = now.max(claims.issued_at() + 1);
                    claims.encode(key, issued)?
                } else if newest.differ || differ().next().is_some() {
                    newest.token
                } else {
                    return Ok(Given::default());
                };
                let refusals = self.system.update_claims(token, servers).await?;
                Ok(Given { refusals, ..Given::default() })
            }
        }
    }

    async fn look_until_applied(
        &self,
        routes: Routes,
        wishes: &Wishes,
        known: Vec<String>,
        roll_call: RollCall,
        refusals: &BTreeMap<String, String>,
    ) -> Report {
        let deadline = Instant::now() + CLAIMS_TAKE;
        loop {
            let seen = self.ask(known.clone(), roll_call.clone()).await;
            let seen = Seen { refusals: refusals.clone(), ..seen };
            let report = Report::new(&self.account, routes.clone(), wishes, &seen);
            let differs = report.servers.iter().any(|server| server.state == ServerState::Differs);
            if !differs || matches!(self.backend, Backend::Files(_)) || Instant::now() >= deadline {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes down how the changes ended that are not marked as applied, and which servers there are.
    pub(super) async fn settle(&self, report: &Report, forget: &[String]) -> Result<(), RouteError> {
        for (model, entry) in &report.routes {
            let Some(record) = settled(&entry.record, &report.clone().of(model)) else { continue };
            // Whoever was faster has looked later than we have.
            self.store.put(model, &record, entry.revision).await?;
        }
        // A server without a name has a new id at every start: there would be no recognising it.
        let named = report.servers.iter();
        let named = named.filter(|server| server.id.as_ref() != Some(&server.name) && server.name != UNNAMED);
        let names: BTreeSet<&String> = named.map(|server| &server.name).collect();
        for _ in 0..ROUNDS {
            let (revision, known) = self.store.servers().await?;
            // Somebody else may have found one that we have not.
            let all: BTreeSet<&String> = names.iter().copied().chain(&known).collect();
            let all: Vec<String> = all.into_iter().filter(|name| !forget.contains(name)).cloned().collect();
            if all == known || self.store.put_servers(&all, revision).await? {
                break;
            }
        }
        Ok(())
    }

    /// Finishes what was left unfinished, or takes it back, writes down what an emergency could not, and repairs servers that hold something else than is wanted.
    /// Servers in `forget` are gone for good.
    ///
    /// # Errors
    /// If the bucket or the system account cannot be asked. Servers that do not take it are part of the answer, and so are files that
    /// cannot be written.
    pub async fn sync(&self, undo: bool, who: &str, forget: &[String]) -> Result<Report, RouteError> {
        if let Backend::Claims(_) = &self.backend {
            self.can_put().await?;
        }
        if undo {
            let (routes, seen) = self.see().await?;
            let marks = wish::marked(seen.mappings().map(|(_, mappings)| mappings));
            let unwritten = wish::unwritten(&routes, marks);
            for (model, Entry { revision, record }) in &routes {
                if record.state != RouteState::Applied && !unwritten.contains_key(model) {
                    let back = undone(record, who, "taken back by `embed route sync --undo`");
                    self.store.put(model, &back, *revision).await?;
                }
            }
            for (model, wish) in &unwritten {
                let entry = routes.get(model);
                let back = dropped(wish, entry.map(|entry| &entry.record), who);
                self.store.put(model, &back, entry.map_or(0, |entry| entry.revision)).await?;
            }
        }
        let report = self.apply(if undo { Unwritten::Drop } else { Unwritten::Adopt }).await?;
        self.settle(&report, forget).await?;
        Ok(Report { problems: report.problems, ..self.actual().await? })
    }

    /// Says what is missing if nothing can be put onto the servers, before anything is changed.
    pub(crate) async fn can_put(&self) -> Result<(), RouteError> {
        match &self.backend {
            Backend::Files(paths) if paths.is_empty() => Err(RouteError::Settings(
                "nothing says where the servers' files of mappings are: name them with --mappings-file (and --remember), or, \
                 where they are distributed by other means, print the file with --render and run `embed route sync` when \
                 the servers have it"
                    .to_owned(),
            )),
            Backend::Files(_) => Ok(()),
            Backend::Claims(None) => Err(no_key()),
            Backend::Claims(Some(key)) => {
                // One answer is enough to see who has issued them.
                let claims = claims::newest(&self.system.claims(&self.account, 1).await?)?.claims;
                let key = key.public_key();
                if claims.issuer() == key {
                    return Ok(());
                }
                let trusted = self.system.operator_keys().await?;
                if trusted.contains(&key) {
                    return Ok(());
                }
                let (trusted, issuer) = (trusted.join(", "), claims.issuer().to_owned());
                Err(ClaimsError::Untrusted { key, trusted, issuer }.into())
            }
        }
    }
}

/// Says that what was done to the servers stays done, though nobody could write down how it ended.
pub(super) fn unended(model: &Slug, error: impl std::fmt::Display) {
    tracing::warn!("{model}: it cannot be written down how the change ended: {error}");
}

fn no_key() -> RouteError {
    RouteError::Settings(
        "accounts are JWTs on this server: pass the operator's seed, or that of one of its signing keys, with \
         --signing-seed-file or EMBED_ROUTE_SIGNING_SEED"
            .to_owned(),
    )
}

/// What is wanted, without who wants it.
pub(super) fn lanes(routes: &Routes) -> BTreeMap<&Slug, &Lanes> {
    routes.iter().map(|(model, entry)| (model, &entry.record.lanes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_brought_to_a_server_is_brought_to_it_once() {
        let brought = |servers: &[&str]| Brought {
            wanted: Mappings::new(),
            servers: servers.iter().map(|id| (*id).to_owned()).collect(),
        };
        assert!(brought(&["N1", "N2"]).covers(&brought(&["N2"])));
        // It was as wanted then, so it was not told: somebody has given it something else since. Or it was not there.
        assert!(!brought(&["N1"]).covers(&brought(&["N1", "N2"])));
    }
}
