//! What an emergency has put onto the servers while the bucket could not be written. The servers carry it themselves, as a mapping
//! of a subject that nobody uses: whoever asks them what they hold, from wherever, finds it and can write it down. Pure.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use embed_schemas::{RouteRecord, RouteState, Slug, routes::MARKS};

use super::{
    mapping::{Destination, Mappings},
    store::{Entry, Routes},
};
use crate::times;

/// Records that are in effect and not written down, by model.
pub(super) type Wishes = BTreeMap<Slug, RouteRecord>;

/// Adds the marks of these wishes to mappings.
pub(super) fn mark(mappings: &mut Mappings, wishes: &Wishes) {
    for (model, record) in wishes {
        let Ok(record) = serde_json::to_vec(record) else { continue };
        let subject = format!("{MARKS}{model}.{}", BASE64URL_NOPAD.encode(&record));
        mappings.insert(format!("{MARKS}{model}"), vec![Destination { subject, weight: 100, cluster: String::new() }]);
    }
}

/// What servers are marked with, of each model the newest. What cannot be read is no mark of ours.
pub(super) fn marked<'a>(held: impl IntoIterator<Item = &'a Mappings>) -> Wishes {
    let mut wishes = Wishes::new();
    for (source, destinations) in held.into_iter().flatten() {
        let model = source.strip_prefix(MARKS).and_then(|model| model.parse::<Slug>().ok());
        let record = destinations.first().and_then(|to| to.subject.strip_prefix(source.as_str())?.strip_prefix('.'));
        let (Some(model), Some(record)) = (model, record) else { continue };
        let record = BASE64URL_NOPAD.decode(record.as_bytes()).ok();
        let Some(record) = record.and_then(|json| serde_json::from_slice::<RouteRecord>(&json).ok()) else { continue };
        if wishes.get(&model).is_none_or(|other| is_newer(&record, other)) {
            wishes.insert(model, record);
        }
    }
    wishes
}

/// Those of them that the bucket does not know, and that nobody has changed since.
pub(super) fn unwritten(routes: &Routes, mut wishes: Wishes) -> Wishes {
    wishes.retain(|model, wish| routes.get(model).is_none_or(|Entry { record, .. }| is_newer(wish, record)));
    wishes
}

/// Whether an entry is still the one that wishes were compared with. One that was deleted is as good as none.
pub(super) fn is_as_compared(compared: Option<&Entry>, revision: u64, now: Option<&RouteRecord>) -> bool {
    now.is_none() || compared.is_some_and(|compared| compared.revision == revision)
}

/// Routes as they are in effect once these wishes are.
pub(super) fn with(mut routes: Routes, wishes: &Wishes) -> Routes {
    for (model, wish) in wishes {
        let revision = routes.get(model).map_or(0, |entry| entry.revision);
        routes.insert(model.clone(), Entry { revision, record: in_effect(wish) });
    }
    routes
}

/// A wish as what it is: in effect.
pub(super) fn in_effect(wish: &RouteRecord) -> RouteRecord {
    RouteRecord { state: RouteState::Applied, ..wish.clone() }
}

/// The record under which a wish is written down later: in effect, though perhaps not everywhere.
pub(super) fn late(wish: &RouteRecord) -> RouteRecord {
    let problem = "it was put onto the servers while it could not be written down".to_owned();
    RouteRecord { state: RouteState::Incomplete, problem: Some(problem), ..wish.clone() }
}

/// Whether one was made after the other. A time that cannot be read is older than any other.
pub(super) fn is_newer(one: &RouteRecord, other: &RouteRecord) -> bool {
    let time = |record: &RouteRecord| times::parse(&record.when);
    time(one) > time(other)
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Lane, Weights, routes::Lanes};

    use super::*;
    use crate::route::mapping;

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    fn record(to: &str, when: &str) -> RouteRecord {
        RouteRecord {
            lanes: Lanes::from([(Lane::Rpc, Weights::all_to(slug(to)))]),
            from: Lanes::new(),
            state: RouteState::Applying,
            who: "me@here".into(),
            when: when.into(),
            note: Some("dots. and > wildcards *".into()),
            problem: None,
        }
    }

    #[test]
    fn a_mark_reads_back_and_is_a_subject() {
        let wishes = Wishes::from([(slug("m"), record("a", "2026-01-01T00:00:00Z"))]);
        let mut mappings = Mappings::new();
        mark(&mut mappings, &wishes);
        let subject = &mappings["embed.wish.m"][0].subject;
        assert_eq!(subject.split('.').count(), 4);
        assert!(!subject.contains(['*', '>', ' ', '{', '$']), "{subject}");
        assert!(mapping::is_ours("embed.wish.m") && !mapping::is_ours("embed.wish.m.x"));
        assert_eq!(marked([&mappings]), wishes);
        mappings.get_mut("embed.wish.m").unwrap()[0].subject = "embed.wish.m.!".into();
        assert_eq!(marked([&mappings]), Wishes::new());
    }

    #[test]
    fn the_newest_wins_and_what_is_written_down_or_changed_since_is_none() {
        let held = |when: &str| {
            let mut mappings = Mappings::new();
            mark(&mut mappings, &Wishes::from([(slug("m"), record("a", when))]));
            mappings
        };
        // With and without fractions of a second, which do not compare as texts.
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z");
        let found = marked([&held(new), &held(old)]);
        assert_eq!(found[&slug("m")].when, new);
        let kept = |when: &str| {
            let routes = Routes::from([(slug("m"), Entry { revision: 3, record: record("b", when) })]);
            !unwritten(&routes, found.clone()).is_empty()
        };
        assert!(kept(old) && kept("no time"));
        assert!(!kept(new) && !kept("2026-01-01T00:00:01Z"));
        assert_eq!(unwritten(&Routes::new(), found.clone()), found);
        assert_eq!(with(Routes::new(), &found)[&slug("m")].record.when, new);
        // Whatever was written since stays, however old it says it is.
        let compared = Entry { revision: 3, record: record("b", old) };
        let now = record("c", old);
        assert!(is_as_compared(Some(&compared), 3, Some(&now)) && is_as_compared(None, 4, None));
        assert!(!is_as_compared(Some(&compared), 4, Some(&now)) && !is_as_compared(None, 4, Some(&now)));
    }
}
