//! What is written down of a change, from its beginning to its end. Pure, but for the time.

use std::time::{Duration, SystemTime};

use embed_schemas::{
    RouteRecord, RouteState,
    routes::{Lanes, describe},
};

use super::report::Report;
use crate::times;

/// How long a change may take. One that was begun longer ago has no author any more.
const TAKES: Duration = Duration::from_secs(60);
/// The note of a record that takes a change back.
const TAKEN_BACK: &str = "taken back";

/// Whether a change was begun, and whoever began it did not live to see the end.
pub(super) fn is_abandoned(record: &RouteRecord, now: SystemTime) -> bool {
    let begun = || times::parse(&record.when).and_then(|when| now.duration_since(when).ok());
    record.state == RouteState::Applying && begun().is_some_and(|age| age > TAKES)
}

/// Whether two records are of one change, whatever is written down of how it stands.
pub(super) fn is_same_change(one: &RouteRecord, other: &RouteRecord) -> bool {
    (&one.who, &one.when, &one.lanes) == (&other.who, &other.when, &other.lanes)
}

/// What was in effect when a change began: an unfinished one before it is in effect only here and there.
pub(super) fn in_effect(record: RouteRecord) -> Lanes {
    if record.state == RouteState::Applying { record.from } else { record.lanes }
}

/// The record that takes a change back.
pub(super) fn undone(record: &RouteRecord, who: &str, why: &str) -> RouteRecord {
    RouteRecord {
        lanes: record.from.clone(),
        from: record.lanes.clone(),
        state: RouteState::Applying,
        who: who.to_owned(),
        when: times::now_after([record.when.as_str()]),
        note: Some(TAKEN_BACK.to_owned()),
        problem: Some(why.to_owned()),
    }
}

/// The shares of the change that a record takes back, if it does.
pub(crate) fn taken_back(record: &RouteRecord) -> Option<&Lanes> {
    (record.note.as_deref() == Some(TAKEN_BACK)).then_some(&record.from)
}

/// The record that takes a wish back, and is newer: a server that was away and still has its mark must not bring it back.
pub(super) fn dropped(wish: &RouteRecord, before: Option<&RouteRecord>, who: &str) -> RouteRecord {
    let lanes = before.cloned().map(in_effect).unwrap_or_default();
    let (to, by, at) = (describe(&wish.lanes), &wish.who, &wish.when);
    RouteRecord {
        // To take this back again, too, leaves the route as it is.
        from: lanes.clone(),
        lanes,
        state: RouteState::Applying,
        who: who.to_owned(),
        when: times::now_after(before.map(|before| before.when.as_str()).into_iter().chain([at.as_str()])),
        note: None,
        problem: Some(format!("everything to {to}, by {by} at {at}, was taken back by `embed route sync --undo`")),
    }
}

/// The end of a change that is under way, as far as it can be told from what the servers hold of the model. Pure.
pub(super) fn settled(record: &RouteRecord, report: &Report) -> Option<RouteRecord> {
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
    use crate::route::{
        report::{Seen, wanted},
        store::{Entry, Routes},
        system::{Held, RollCall, Server},
        wish::{self, Wishes},
    };

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
        let mappings = if holds { wanted(&routes, &Wishes::new()) } else { Default::default() };
        let roll_call = RollCall {
            present: vec![Server { name: "n1".into(), id: "N1".into() }],
            missing: silent.then(|| "n2".to_owned()).into_iter().collect(),
            unnamed: 0,
        };
        let held = vec![Ok(Held { mappings, since: None })];
        Report::new("$G", routes, &Wishes::new(), &Seen { roll_call, held, ..Seen::default() })
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
    fn only_what_was_begun_long_ago_is_abandoned() {
        let now = times::parse("2026-01-01T00:02:00Z").unwrap();
        let abandoned = |state, when: &str| is_abandoned(&RouteRecord { when: when.into(), ..record(state) }, now);
        assert!(abandoned(RouteState::Applying, "2026-01-01T00:00:00Z"));
        assert!(!abandoned(RouteState::Applied, "2026-01-01T00:00:00Z"));
        assert!(!abandoned(RouteState::Applying, "2026-01-01T00:01:30Z"));
        assert!(!abandoned(RouteState::Applying, "2026-01-01T00:03:00Z") && !abandoned(RouteState::Applying, "then"));
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
        // Nor is that forgotten where a server was down meanwhile.
        let incomplete = settled(&back, &seen(&back, true, true)).unwrap();
        for after in [&back, &end, &incomplete, &settled(&incomplete, &seen(&incomplete, true, false)).unwrap()] {
            assert_eq!(taken_back(after), Some(&record(RouteState::Applying).lanes), "{after:?}");
        }
        assert_eq!(taken_back(&record(RouteState::Applied)), None);
    }

    #[test]
    fn a_wish_that_is_taken_back_does_not_come_back() {
        let at = |when: &str| RouteRecord { when: when.into(), ..record(RouteState::Applied) };
        let (wish, before) = (at("2999-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        for before in [Some(&before), None] {
            let back = dropped(&wish, before, "you");
            assert!(wish::is_newer(&back, &wish));
            assert!(back.problem.as_ref().unwrap().contains("a=95 b=5, by me at 2999"), "{back:?}");
            assert_eq!(back.lanes, before.map(|before| before.lanes.clone()).unwrap_or_default());
        }
    }
}
