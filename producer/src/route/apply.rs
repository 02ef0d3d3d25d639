//! Bringing the servers to what is wanted, and seeing that they are there. Safe to repeat.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use embed_schemas::{RouteRecord, RouteState, Slug, routes::Lanes};
use tokio::time::Instant;

use super::{
    Backend, Report, RouteError, Router, ServerState,
    claims::{Claims, ClaimsError},
    files, mapping,
    report::wanted,
    store::{Entry, Routes},
    system::RollCall,
};

/// How often it is begun anew because somebody else has changed what is wanted meanwhile.
const ROUNDS: usize = 5;
/// How long servers may take to make use of claims that they have accepted.
const CLAIMS_TAKE: Duration = Duration::from_secs(2);

impl Router {
    /// Brings all servers to what is wanted for all models. Whoever changes routes at the same time writes to the bucket
    /// first: the bucket is read again at the end, and if it says something else now, so must the servers.
    pub(super) async fn apply(&self) -> Result<Report, RouteError> {
        let mut round = 1;
        loop {
            let routes = self.store.all().await?;
            let roll_call = self.roll_call().await?;
            let before = self.look(routes.clone(), &roll_call, &BTreeMap::new()).await?;
            let refusals = self.put(&routes, &roll_call, &before).await?;
            let report = self.look_until_applied(&routes, &roll_call, &refusals).await?;
            let now = self.store.all().await?;
            if lanes(&now) == lanes(&routes) || round == ROUNDS {
                return Ok(report);
            }
            round += 1;
        }
    }

    pub(super) async fn roll_call(&self) -> Result<RollCall, RouteError> {
        self.system.roll_call(&self.store.servers().await?).await
    }

    /// Gives what is wanted to the servers that did not hold it before. Returns what those say that refuse it, by name.
    async fn put(
        &self,
        routes: &Routes,
        roll_call: &RollCall,
        before: &Report,
    ) -> Result<BTreeMap<String, String>, RouteError> {
        let wanted = wanted(routes);
        match &self.backend {
            Backend::Files(paths) => {
                let text = mapping::render(&wanted);
                paths.iter().try_for_each(|path| files::write(path, &text))?;
                // Not the others: a reload reads a server's whole configuration, and does no good while its routes are being made.
                let differ = roll_call.present.iter().filter(|server| !before.is_as_wanted_on(&server.id));
                let reload = differ.map(async |server| {
                    let refusal = self.system.reload(server).await.err()?;
                    Some((server.name.clone(), format!("it refuses to reload: {refusal}")))
                });
                Ok(futures::future::join_all(reload).await.into_iter().flatten().collect())
            }
            Backend::Claims(key) => {
                let mut claims = Claims::decode(&self.system.claims(&self.account).await?)?;
                if !claims.set_mappings(&wanted) {
                    return Ok(BTreeMap::new());
                }
                let key = key.as_ref().ok_or_else(no_key)?;
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                self.system.update_claims(claims.encode(key, now)?, roll_call.present.len()).await
            }
        }
    }

    async fn look_until_applied(
        &self,
        routes: &Routes,
        roll_call: &RollCall,
        refusals: &BTreeMap<String, String>,
    ) -> Result<Report, RouteError> {
        let deadline = Instant::now() + CLAIMS_TAKE;
        loop {
            let report = self.look(routes.clone(), roll_call, refusals).await?;
            let differs = report.servers.iter().any(|server| server.state == ServerState::Differs);
            if !differs || matches!(self.backend, Backend::Files(_)) || Instant::now() >= deadline {
                return Ok(report);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks every server what it holds.
    pub(super) async fn look(
        &self,
        routes: Routes,
        roll_call: &RollCall,
        refusals: &BTreeMap<String, String>,
    ) -> Result<Report, RouteError> {
        let ask = roll_call.present.iter().map(|server| self.system.held(server, &self.account));
        let held = futures::future::join_all(ask).await;
        let known = self.store.servers().await?;
        Ok(Report::new(&self.account, routes, roll_call, &held, &known, refusals))
    }

    /// Writes down how the changes ended that are not marked as applied, and which servers there are.
    pub(super) async fn settle(&self, report: &Report, forget: &[String]) -> Result<(), RouteError> {
        for (model, entry) in &report.routes {
            let Some(record) = settled(&entry.record, &report.clone().of(model)) else { continue };
            // Whoever was faster has looked later than we have.
            self.store.put(model, &record, entry.revision).await?;
        }
        let known = self.store.servers().await?;
        // A server without a name has a new id at every start: there would be no recognising it.
        let named = report.servers.iter().filter(|server| server.id.as_ref() != Some(&server.name));
        let mut names: Vec<String> =
            named.map(|server| server.name.clone()).filter(|name| !forget.contains(name)).collect();
        names.sort();
        if names != known {
            self.store.put_servers(&names).await?;
        }
        Ok(())
    }

    /// Finishes what was left unfinished, or takes it back, and repairs servers that hold something else than is wanted.
    /// Servers in `forget` are gone for good.
    ///
    /// # Errors
    /// If the bucket or the system account cannot be asked, or a file cannot be written. Servers that do not take it are part
    /// of the answer.
    pub async fn sync(&self, undo: bool, who: &str, forget: &[String]) -> Result<Report, RouteError> {
        if let Backend::Claims(_) = &self.backend {
            self.can_put().await?;
        }
        if undo {
            for (model, Entry { revision, record }) in self.store.all().await? {
                if record.state != RouteState::Applied {
                    let back = undone(&record, who, "taken back by `embed route sync --undo`");
                    self.store.put(&model, &back, revision).await?;
                }
            }
        }
        let report = self.apply().await?;
        self.settle(&report, forget).await?;
        self.actual().await
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
                let (claims, key) = (Claims::decode(&self.system.claims(&self.account).await?)?, key.public_key());
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

fn no_key() -> RouteError {
    RouteError::Settings(
        "accounts are JWTs on this server: pass the operator's seed, or that of one of its signing keys, with \
         --signing-seed-file or EMBED_ROUTE_SIGNING_SEED"
            .to_owned(),
    )
}

fn lanes(routes: &Routes) -> BTreeMap<&Slug, &Lanes> {
    routes.iter().map(|(model, entry)| (model, &entry.record.lanes)).collect()
}

/// The record that takes a change back.
pub(super) fn undone(record: &RouteRecord, who: &str, why: &str) -> RouteRecord {
    RouteRecord {
        lanes: record.from.clone(),
        from: record.lanes.clone(),
        state: RouteState::Applying,
        who: who.to_owned(),
        when: super::set::now(),
        note: None,
        problem: Some(why.to_owned()),
    }
}

/// The end of a change that is under way, as far as it can be told from what the servers hold of the model. Pure.
fn settled(record: &RouteRecord, report: &Report) -> Option<RouteRecord> {
    let mut after = record.clone();
    match (record.state, report.is_applied()) {
        (RouteState::Applied, _) | (_, false) => return None,
        (RouteState::Applying | RouteState::Incomplete, true) => {
            let silent: Vec<_> = report.trouble().collect();
            if silent.is_empty() {
                after.state = RouteState::Applied;
                // What a change undoes is part of its story; that a server was down is over.
                if record.state == RouteState::Incomplete {
                    after.problem = None;
                }
            } else {
                after.state = RouteState::Incomplete;
                after.problem = Some(silent.join("; "));
            }
        }
    }
    (after != *record).then_some(after)
}

#[cfg(test)]
mod tests {
    use embed_schemas::Weights;

    use super::*;
    use crate::route::system::{Held, Server};

    fn record(state: RouteState) -> RouteRecord {
        let lanes = |shares: &[&str]| Lanes::from([(embed_schemas::Lane::Rpc, Weights::parse(shares).unwrap())]);
        RouteRecord {
            lanes: lanes(&["a=95", "b=5"]),
            from: lanes(&["a=100"]),
            state,
            who: "me".into(),
            when: "then".into(),
            note: None,
            problem: (state == RouteState::Incomplete).then(|| "n2 was down".to_owned()),
        }
    }

    /// What is seen of one server that answers, holding what is wanted or not, and of one that does not.
    fn seen(record: &RouteRecord, holds: bool, silent: bool) -> Report {
        let routes = Routes::from([("m".parse().unwrap(), Entry { revision: 1, record: record.clone() })]);
        let mappings = if holds { wanted(&routes) } else { Default::default() };
        let roll_call = RollCall {
            present: vec![Server { name: "n1".into(), id: "N1".into() }],
            missing: silent.then(|| "n2".to_owned()).into_iter().collect(),
        };
        Report::new("$G", routes, &roll_call, &[Ok(Held { mappings, since: None })], &[], &BTreeMap::new())
    }

    #[test]
    fn a_change_ends_when_every_server_holds_it() {
        use RouteState::{Applied, Applying, Incomplete};
        let end = |state, holds, silent| settled(&record(state), &seen(&record(state), holds, silent)).map(|r| r.state);
        assert_eq!(end(Applying, true, false), Some(Applied));
        assert_eq!(end(Applying, true, true), Some(Incomplete));
        assert_eq!(end(Applying, false, false), None, "it stays begun");
        assert_eq!(end(Incomplete, true, false), Some(Applied));
        assert_eq!(end(Applied, true, true), None, "what is over is not begun again");
        let caught_up = settled(&record(Incomplete), &seen(&record(Incomplete), true, false)).unwrap();
        assert_eq!(caught_up.problem, None);
    }

    #[test]
    fn a_change_that_is_taken_back_says_why() {
        let back = undone(&record(RouteState::Applying), "you", "undone: no");
        assert_eq!((back.lanes.clone(), back.from.clone()), {
            let before = record(RouteState::Applying);
            (before.from, before.lanes)
        });
        let end = settled(&back, &seen(&back, true, false)).unwrap();
        assert_eq!((end.state, end.problem.as_deref()), (RouteState::Applied, Some("undone: no")));
    }
}
