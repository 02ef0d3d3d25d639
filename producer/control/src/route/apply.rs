//! Bringing the servers to what is wanted, and seeing that they are there. Safe to repeat.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use embed_schemas::{RouteState, Slug, routes::Lanes};
use tokio::time::Instant;

use super::{
    Backend, Report, RouteError, Router, ServerState,
    claims::{Claims, ClaimsError},
    files, mapping,
    record::{settled, undone},
    report::wanted,
    store::{Entry, Routes},
    system::RollCall,
};

/// How often it is begun anew because somebody else has changed what is wanted meanwhile.
const ROUNDS: usize = 5;
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

impl Router {
    /// Brings all servers to what is wanted for all models. Whoever changes routes at the same time writes to the bucket
    /// first: the bucket is read again at the end, and if it says something else now, so must the servers.
    pub(super) async fn apply(&self) -> Result<Report, RouteError> {
        let mut round = 1;
        loop {
            let routes = self.store.all().await?;
            let roll_call = self.roll_call().await?;
            let before = self.look(routes.clone(), &roll_call, &BTreeMap::new()).await?;
            let Given { refusals, problems } = self.put(&routes, &roll_call, &before).await?;
            let mut report = self.look_until_applied(&routes, &roll_call, &refusals).await?;
            report.problems = problems;
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

    /// Gives what is wanted to the servers that did not hold it before, whatever becomes of the others.
    async fn put(&self, routes: &Routes, roll_call: &RollCall, before: &Report) -> Result<Given, RouteError> {
        let wanted = wanted(routes);
        match &self.backend {
            Backend::Files(paths) => {
                let text = mapping::render(&wanted);
                let problems =
                    paths.iter().filter_map(|path| Some(files::write(path, &text).err()?.to_string())).collect();
                // Not the others: a reload reads a server's whole configuration, and does no good while its routes are being made.
                let differ = roll_call.present.iter().filter(|server| !before.is_as_wanted_on(&server.id));
                let reload = differ.map(async |server| {
                    let refusal = self.system.reload(server).await.err()?;
                    Some((server.name.clone(), format!("it refuses to reload: {refusal}")))
                });
                let refusals = futures::future::join_all(reload).await.into_iter().flatten().collect();
                Ok(Given { refusals, problems })
            }
            Backend::Claims(key) => {
                let mut claims = Claims::decode(&self.system.claims(&self.account).await?)?;
                if !claims.set_mappings(&wanted) {
                    return Ok(Given::default());
                }
                let key = key.as_ref().ok_or_else(no_key)?;
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                let refusals = self.system.update_claims(claims.encode(key, now)?, roll_call.present.len()).await?;
                Ok(Given { refusals, ..Given::default() })
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
    /// If the bucket or the system account cannot be asked. Servers that do not take it are part of the answer, and so are files that
    /// cannot be written.
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
