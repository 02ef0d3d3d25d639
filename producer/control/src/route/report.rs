//! What is wanted against what each server holds. Pure.

use std::collections::BTreeMap;

use embed_schemas::{
    Lane, RouteState, Slug,
    routes::{Lanes, RouteRecord, describe},
};
use serde::Serialize;

use super::{
    mapping::{self, MappingDifference, Mappings},
    store::{Entry, Routes},
    system::{Held, RollCall},
    wish::{self, Wishes},
};

/// How a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It holds what is wanted.
    AsWanted,
    /// It holds something else: see [`ServerView::differences`].
    Differs,
    /// It has refused to take what is wanted, or cannot say what it holds: see [`ServerView::problem`].
    Refused,
    /// It does not answer: it is down, or cut off.
    Silent,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// Its id; nothing if it does not answer.
    pub id: Option<String>,
    /// How it stands.
    pub state: ServerState,
    /// When it last read its configuration or the account's claims, RFC 3339.
    pub since: Option<String>,
    /// The shares that it holds, by model and lane.
    pub holds: BTreeMap<Slug, Lanes>,
    /// What it holds that is not as wanted.
    pub differences: Vec<MappingDifference>,
    /// What it says, in its words: the file and the line, if it has refused one.
    pub problem: Option<String>,
}

/// Stands for servers that do not answer and whose names nobody knows.
pub(super) const UNNAMED: &str = "of unknown name";

impl ServerView {
    fn silent(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: None,
            state: ServerState::Silent,
            since: None,
            holds: BTreeMap::new(),
            differences: Vec::new(),
            problem: Some("it does not answer".to_owned()),
        }
    }
}

/// Everything that is known of routes.
#[must_use = "a server may hold something else than is wanted, and a change may not be finished"]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The account.
    pub account: String,
    /// What is wanted, by model.
    pub routes: BTreeMap<Slug, Entry>,
    /// The servers, by name.
    pub servers: Vec<ServerView>,
    /// What could not be written for servers, beside what they say themselves: a file, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What an emergency has put onto servers and the bucket does not know, since it could not be written then.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unwritten: BTreeMap<Slug, RouteRecord>,
}

/// What servers were asked, and what they said.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The servers that have been there before, by name.
    pub(super) known: Vec<String>,
    /// Who answers now.
    pub(super) roll_call: RollCall,
    /// What each of those holds.
    pub(super) held: Vec<Result<Held, String>>,
    /// What servers said when they were to take something, by name.
    pub(super) refusals: BTreeMap<String, String>,
}

impl Seen {
    /// What each server holds that says it.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (&str, &Mappings)> {
        let named = self.roll_call.present.iter().zip(&self.held);
        named.filter_map(|(server, held)| Some((server.name.as_str(), &held.as_ref().ok()?.mappings)))
    }
}

impl Report {
    /// Puts together what is wanted, in effect or to be put into effect without having been written down, and what was found.
    pub(super) fn new(account: &str, routes: Routes, wishes: &Wishes, seen: &Seen) -> Self {
        let Seen { known, roll_call, held, refusals } = seen;
        let wanted = wanted(&routes, wishes);
        let unwritten = wish::unwritten(&routes, wish::marked(seen.mappings().map(|(_, mappings)| mappings)));
        let mut servers: Vec<ServerView> = Vec::new();
        for (server, held) in roll_call.present.iter().zip(held) {
            let (mappings, since, unreadable) = match held {
                Ok(held) => (held.mappings.clone(), held.since.clone(), None),
                Err(problem) => (Mappings::new(), None, Some(problem.clone())),
            };
            let problem = refusals.get(&server.name).cloned().or(unreadable);
            let differences = mapping::differences(&wanted, &mappings);
            let state = match (&problem, differences.is_empty()) {
                (Some(_), _) => ServerState::Refused,
                (None, true) => ServerState::AsWanted,
                (None, false) => ServerState::Differs,
            };
            let (name, id) = (server.name.clone(), Some(server.id.clone()));
            servers.push(ServerView { name, id, state, since, holds: shares(&mappings), differences, problem });
        }
        for name in known.iter().chain(&roll_call.missing) {
            if servers.iter().all(|server| server.name != *name) {
                servers.push(ServerView::silent(name));
            }
        }
        // Those that have been there before may be the same.
        let silent = servers.iter().filter(|server| server.state == ServerState::Silent).count();
        if roll_call.missing.len() + roll_call.unnamed > silent {
            servers.push(ServerView::silent(UNNAMED));
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        Self { account: account.to_owned(), routes, servers, problems: Vec::new(), unwritten }
    }

    /// Only what concerns one model.
    pub fn of(mut self, model: &Slug) -> Self {
        self.routes.retain(|m, _| m == model);
        self.unwritten.retain(|m, _| m == model);
        for server in &mut self.servers {
            server.holds.retain(|m, _| m == model);
            server.differences.retain(|d| concerns(d, model));
            if server.state == ServerState::Differs && server.differences.is_empty() {
                server.state = ServerState::AsWanted;
            }
        }
        self
    }

    /// Whether every server that answers holds what is wanted, and goes on doing so.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.problems.is_empty()
            && self.servers.iter().all(|s| matches!(s.state, ServerState::AsWanted | ServerState::Silent))
    }

    /// Whether all servers answer and hold what is wanted, and no change is left unfinished.
    #[must_use]
    pub fn is_as_wanted(&self) -> bool {
        self.problems.is_empty()
            && self.unwritten.is_empty()
            && self.servers.iter().all(|server| server.state == ServerState::AsWanted)
            && self.routes.values().all(|entry| entry.record.state == RouteState::Applied)
    }

    /// Whether the server with this id answers and holds what is wanted.
    pub(super) fn is_as_wanted_on(&self, id: &str) -> bool {
        let as_wanted = |server: &ServerView| server.state == ServerState::AsWanted;
        self.servers.iter().any(|server| server.id.as_deref() == Some(id) && as_wanted(server))
    }

    /// The servers that do not hold what is wanted, each with its reason, and what could not be written for them.
    pub fn trouble(&self) -> impl Iterator<Item = String> {
        let servers = self.servers.iter().filter_map(|server| {
            let name = &server.name;
            match (server.state, &server.problem) {
                (ServerState::AsWanted, _) => None,
                (_, Some(problem)) => Some(format!("server {name}: {problem}")),
                (_, None) => {
                    let list: Vec<_> = server.differences.iter().map(ToString::to_string).collect();
                    Some(format!("server {name} holds {}", list.join("; ")))
                }
            }
        });
        servers.chain(self.problems.iter().cloned())
    }

    /// Changes that were begun and not finished, as sentences.
    pub fn unfinished(&self) -> impl Iterator<Item = String> {
        let open = self.routes.iter().filter(|(_, entry)| entry.record.state != RouteState::Applied);
        let begun = open.map(|(model, entry)| {
            let RouteRecord { lanes, from, who, when, state, problem, .. } = &entry.record;
            let how = match state {
                RouteState::Incomplete => "is not in effect everywhere",
                _ => "was begun and not finished",
            };
            let problem = problem.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
            format!(
                "{model}: the change from {} to {} by {who} at {when} {how}{problem}; `embed route sync` finishes it, \
                 `embed route sync --undo` takes it back",
                describe(from),
                describe(lanes)
            )
        });
        let unwritten = self.unwritten.iter().map(|(model, RouteRecord { lanes, who, when, .. })| {
            format!(
                "{model}: {who} has put {} onto the servers at {when}, in an emergency in which it could not be written down; \
                 `embed route sync` writes it down, `embed route sync --undo` takes it back",
                describe(lanes)
            )
        });
        begun.chain(unwritten)
    }
}

/// The mappings that all routes together make, with the marks of those that are not written down.
pub(super) fn wanted(routes: &Routes, wishes: &Wishes) -> Mappings {
    let mut mappings = mapping::of_routes(routes.iter().map(|(model, entry)| (model, &entry.record.lanes)));
    wish::mark(&mut mappings, wishes);
    mappings
}

/// The shares that mappings give, by model and lane.
pub(super) fn shares(mappings: &Mappings) -> BTreeMap<Slug, Lanes> {
    let mut held: BTreeMap<Slug, Lanes> = BTreeMap::new();
    let targets = mappings.keys().filter_map(|source| embed_schemas::subjects::parse(source));
    for target in targets.filter(|target| target.variant.is_none()) {
        let lane: Lane = target.lane;
        if let Some(weights) = mapping::shares(mappings, lane, &target.model) {
            held.entry(target.model).or_default().insert(lane, weights);
        }
    }
    held
}

fn concerns(difference: &MappingDifference, model: &Slug) -> bool {
    mapping::model_of(&difference.source).is_some_and(|of| of == *model)
}

#[cfg(test)]
mod tests {
    use embed_schemas::Weights;

    use super::*;
    use crate::route::system::Server;

    #[test]
    fn every_server_that_ever_was_is_accounted_for() {
        let m: Slug = "m".parse().unwrap();
        let record = RouteRecord {
            lanes: Lanes::from([(Lane::Rpc, Weights::parse(&["a=95", "b=5"]).unwrap())]),
            from: Lanes::new(),
            state: RouteState::Applying,
            who: "me".into(),
            when: "then".into(),
            note: None,
            problem: None,
        };
        let routes = Routes::from([(m.clone(), Entry { revision: 1, record })]);
        let good = Held { mappings: wanted(&routes, &Wishes::new()), since: None };
        let bad = Held { mappings: Mappings::new(), since: None };
        let server = |name: &str| Server { name: name.into(), id: format!("N{name}") };
        let present = vec![server("n1"), server("n2"), server("n3")];
        let roll_call = RollCall { present, missing: vec!["n5".into()], unnamed: 0 };
        let refusals = BTreeMap::from([("n3".to_owned(), "x.conf:1:2: no".to_owned())]);
        let held = vec![Ok(good.clone()), Ok(bad.clone()), Ok(bad)];
        let known = vec!["n1".to_owned(), "n4".to_owned()];
        let report = Report::new("$G", routes, &Wishes::new(), &Seen { known, roll_call, held, refusals });
        use ServerState::{AsWanted, Differs, Refused, Silent};
        let states: Vec<_> = report.servers.iter().map(|s| (s.name.as_str(), s.state)).collect();
        assert_eq!(states, [("n1", AsWanted), ("n2", Differs), ("n3", Refused), ("n4", Silent), ("n5", Silent)]);
        assert_eq!(report.servers[0].holds[&m][&Lane::Rpc].to_string(), "a=95 b=5");
        let lost = |known: &[&str]| {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            let roll_call = RollCall { present: vec![server("n1")], unnamed: 2, ..RollCall::default() };
            let seen = Seen { known, roll_call, held: vec![Ok(good.clone())], ..Seen::default() };
            let report = Report::new("$G", Routes::new(), &Wishes::new(), &seen);
            report.servers.into_iter().map(|server| server.name).collect::<Vec<_>>()
        };
        assert_eq!(lost(&[]), ["n1", UNNAMED]);
        assert_eq!(lost(&["n1", "n2", "n3"]), ["n1", "n2", "n3"], "they are the same");
        let trouble: Vec<_> = report.trouble().collect();
        assert_eq!(trouble[0], "server n2 holds embed.rpc.m: not mapped, wanted: a=95 b=5");
        assert_eq!(trouble[1], "server n3: x.conf:1:2: no");
        assert!(!report.is_applied() && !report.is_as_wanted());
        let unfinished: Vec<_> = report.unfinished().collect();
        assert!(unfinished[0].contains("from default variant to rpc: a=95 b=5 by me"), "{unfinished:?}");
        let other = report.of(&"x".parse().unwrap());
        assert_eq!(other.servers[1].state, AsWanted, "nothing is wrong with that model");
    }

    #[test]
    fn what_is_in_effect_and_not_written_down_is_told() {
        let m: Slug = "m".parse().unwrap();
        let record = |to: &str, when: &str| RouteRecord {
            lanes: Lanes::from([(Lane::Rpc, Weights::all_to(to.parse().unwrap()))]),
            from: Lanes::new(),
            state: RouteState::Applied,
            who: "me".into(),
            when: when.into(),
            note: None,
            problem: None,
        };
        let entry = |record: RouteRecord| Routes::from([(m.clone(), Entry { revision: 1, record })]);
        let written = entry(record("a", "2026-01-01T00:00:00Z"));
        let wishes = Wishes::from([(m.clone(), record("b", "2026-01-01T00:00:01Z"))]);
        let mappings = wanted(&wish::with(written.clone(), &wishes), &wishes);
        let present = vec![Server { name: "n1".into(), id: "N1".into() }];
        let roll_call = RollCall { present, ..RollCall::default() };
        let held = vec![Ok(Held { mappings, since: None })];
        let seen = Seen { roll_call, held, ..Seen::default() };
        let report = Report::new("$G", written, &Wishes::new(), &seen);
        assert_eq!(report.unwritten, wishes);
        assert!(!report.is_as_wanted());
        assert!(report.unfinished().next().unwrap().contains("me has put rpc: b=100 onto the servers"));
        // Written down, it is over but for the mark.
        let report = Report::new("$G", entry(wishes[&m].clone()), &Wishes::new(), &seen);
        assert!(report.unwritten.is_empty() && report.unfinished().next().is_none());
        assert!(report.trouble().next().unwrap().contains("the mark of an emergency"), "{report:?}");
        let report = report.of(&m);
        assert_eq!(report.servers[0].state, ServerState::Differs);
    }
}
