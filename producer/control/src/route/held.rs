//! What is in effect, as the servers tell it, where nobody can read what is wanted. Pure.

use std::{collections::BTreeSet, time::SystemTime};

use embed_schemas::{
    RouteRecord, RouteState, Slug,
    routes::{Lanes, describe},
};

use super::{
    RouteError,
    mapping::Mappings,
    report::{ServerView, shares},
    store::{Entry, Routes},
};
use crate::times;

/// One of several states in which servers hold a model.
struct Vote<'a> {
    /// The shares; none if the model has no route there.
    lanes: Option<&'a Lanes>,
    servers: usize,
    /// When the last of them read it, and which that is.
    last: (Option<SystemTime>, &'a ServerView),
}

/// The routes that most servers hold. One that half of them hold counts: to lose a route is worse than to keep one too many.
///
/// # Errors
/// If nothing is found, and a server cannot say what it holds: its routes would be lost.
pub(super) fn agreed(servers: &[ServerView]) -> Result<Routes, RouteError> {
    let (telling, failed): (Vec<_>, Vec<_>) =
        servers.iter().filter(|server| server.id.is_some()).partition(|server| server.problem.is_none());
    let models: BTreeSet<&Slug> = telling.iter().flat_map(|server| server.holds.keys()).collect();
    let routes: Routes = models.into_iter().filter_map(|model| Some((model.clone(), most(model, &telling)?))).collect();
    match failed.first() {
        Some(server) if routes.is_empty() => Err(RouteError::System {
            what:
                "neither the bucket nor the servers say which routes there are, and a change would take all others away"
                    .to_owned(),
            reason: format!("server {}: {}", server.name, server.problem.as_deref().unwrap_or_default()),
        }),
        _ => Ok(routes),
    }
}

/// The routes that mappings make, as those of which nothing else is known.
pub(super) fn of_mappings(mappings: &Mappings) -> Routes {
    shares(mappings).iter().map(|(model, lanes)| (model.clone(), entry(lanes, "the account's claims", ""))).collect()
}

fn most(model: &Slug, telling: &[&ServerView]) -> Option<Entry> {
    let mut votes: Vec<Vote<'_>> = Vec::new();
    for server in telling {
        let lanes = server.holds.get(model);
        let since = server.since.as_deref().and_then(times::parse);
        match votes.iter_mut().find(|vote| vote.lanes == lanes) {
            Some(vote) => {
                vote.servers += 1;
                if since > vote.last.0 {
                    vote.last = (since, server);
                }
            }
            None => votes.push(Vote { lanes, servers: 1, last: (since, server) }),
        }
    }
    let most = votes.into_iter().max_by_key(|vote| (vote.servers, vote.lanes.is_some(), vote.last.0))?;
    let server = most.last.1;
    Some(entry(most.lanes?, &format!("server {}", server.name), server.since.as_deref().unwrap_or_default()))
}

fn entry(lanes: &Lanes, who: &str, when: &str) -> Entry {
    let record = RouteRecord {
        lanes: lanes.clone(),
        from: lanes.clone(),
        state: RouteState::Applied,
        who: who.to_owned(),
        when: when.to_owned(),
        note: Some(describe(lanes)),
        problem: None,
    };
    Entry { revision: 0, record }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Lane, Weights};

    use super::*;
    use crate::route::{ServerState, mapping};

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    fn lanes(to: &str) -> Lanes {
        Lanes::from([(Lane::Rpc, Weights::all_to(slug(to)))])
    }

    fn server(name: &str, since: &str, holds: &[(&str, &str)]) -> ServerView {
        ServerView {
            name: name.into(),
            id: Some(name.into()),
            state: ServerState::AsWanted,
            since: Some(since.into()),
            holds: holds.iter().map(|(model, to)| (slug(model), lanes(to))).collect(),
            differences: Vec::new(),
            problem: None,
        }
    }

    fn told(servers: &[ServerView]) -> Vec<String> {
        let routes = agreed(servers).unwrap();
        routes.iter().map(|(model, entry)| format!("{model} {}", entry.record.note.as_ref().unwrap())).collect()
    }

    #[test]
    fn what_most_servers_hold_is_in_effect() {
        // The last one has just been started, with an old file.
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z");
        let one = server("n1", old, &[("m", "b"), ("o", "x")]);
        let two = server("n2", old, &[("m", "b"), ("o", "x")]);
        let stale = server("n3", new, &[("m", "a"), ("gone", "x")]);
        assert_eq!(told(&[one.clone(), two.clone(), stale.clone()]), ["m rpc: b=100", "o rpc: x=100"]);
        // Where they are even, nothing is lost, and the later of two wins, by time and not by text.
        assert_eq!(told(&[one.clone(), stale]), ["gone rpc: x=100", "m rpc: a=100", "o rpc: x=100"]);
    }

    #[test]
    fn a_server_that_cannot_say_what_it_holds_does_not_count() {
        let failed = |name: &str| ServerView { problem: Some("no answer".into()), ..server(name, "", &[]) };
        let one = server("n1", "", &[("m", "b")]);
        assert_eq!(told(&[one, failed("n2"), failed("n3")]), ["m rpc: b=100"]);
        let error = agreed(&[server("n1", "", &[]), failed("n2")]).unwrap_err().to_string();
        assert!(error.contains("server n2: no answer"), "{error}");
        assert!(agreed(&[server("n1", "", &[])]).unwrap().is_empty());
    }

    #[test]
    fn claims_read_back() {
        let (m, held) = (slug("m"), lanes("b"));
        let mappings = mapping::of_routes([(&m, &held)]);
        let claims: serde_json::Map<_, _> =
            mappings.iter().map(|(source, to)| (source.clone(), mapping::to_claims(to))).collect();
        let read = mapping::from_claims(&claims.into());
        assert_eq!(read, mappings);
        assert_eq!(of_mappings(&read)[&m].record.lanes, held);
    }
}
