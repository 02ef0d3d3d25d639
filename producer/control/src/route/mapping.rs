//! Weighted subject mappings: routes as NATS has them, on their way to a server and back. Pure.

use std::collections::BTreeMap;

use embed_schemas::{
    Lane, Slug, Weights,
    routes::{Lanes, MARKS},
    subjects,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::subject::overlap;

/// Where a share of a subject's messages goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Destination {
    /// The subject.
    pub subject: String,
    /// The share, in percent.
    pub weight: u8,
    /// The only cluster for which this holds; we make none of those.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// Mappings by their source. Destinations are in order, so that equal mappings compare equal.
pub type Mappings = BTreeMap<String, Vec<Destination>>;

/// What stands for the tenant in a destination: what the wildcard of the source stood for.
const TENANT: &str = ".{{wildcard(1)}}";

/// The subjects that a lane's route is made of: without a variant and, of jobs, those of tenants.
pub(super) fn sources(lane: Lane, model: &Slug) -> Vec<String> {
    let of_tenants = (lane != Lane::Rpc).then(|| subjects::of_tenants(lane, model, None));
    [subjects::bare(lane, model)].into_iter().chain(of_tenants).collect()
}

/// The mappings of these routes.
pub(super) fn of_routes<'a>(routes: impl IntoIterator<Item = (&'a Slug, &'a Lanes)>) -> Mappings {
    let mut mappings = Mappings::new();
    for (model, lanes) in routes {
        for (lane, weights) in lanes {
            let to = |(variant, weight)| Destination {
                subject: subjects::pinned(*lane, model, variant),
                weight,
                cluster: String::new(),
            };
            let mut destinations: Vec<_> = weights.iter().map(to).collect();
            destinations.sort();
            // Jobs of tenants keep their tenant.
            let of_tenant = |d: &Destination| Destination { subject: format!("{}{TENANT}", d.subject), ..d.clone() };
            for source in sources(*lane, model).split_off(1) {
                mappings.insert(source, destinations.iter().map(of_tenant).collect());
            }
            mappings.insert(subjects::bare(*lane, model), destinations);
        }
    }
    mappings
}

/// Whether a mapping's source is one that routes are made of: the subject of a lane and a model, without a variant, or a mark.
pub(super) fn is_ours(source: &str) -> bool {
    model_of(source).is_some()
}

/// The model that a mapping of ours concerns.
pub(super) fn model_of(source: &str) -> Option<Slug> {
    match source.strip_prefix(MARKS) {
        Some(model) => model.parse().ok(),
        None => {
            let of_tenants = format!(".{}.*", subjects::ANY_VARIANT);
            let bare = source.strip_suffix(&of_tenants).unwrap_or(source);
            let target = subjects::parse(bare).filter(|target| (&target.variant, &target.tenant) == (&None, &None))?;
            sources(target.lane, &target.model).iter().any(|one| one == source).then_some(target.model)
        }
    }
}

/// First line of the file of mappings. What does not begin with it is not overwritten.
pub(super) const FILE_MARK: &str = "# Written by `embed route`. Changes made here are lost; see `embed route show`.";

/// The file of mappings, to be included in a `mappings { … }` of the server's configuration.
pub(super) fn render(mappings: &Mappings) -> String {
    let mut text = format!("{FILE_MARK}\n");
    for (source, destinations) in mappings {
        text.push_str(&format!("{source:?}: [\n"));
        for Destination { subject, weight, .. } in destinations {
            text.push_str(&format!("  {{destination: {subject:?}, weight: {weight}}}\n"));
        }
        text.push_str("]\n");
    }
    text
}

/// Reads the mappings in what a server says of an account. Weights are cumulative there: each includes those of smaller ones.
pub(super) fn from_account(detail: &Value) -> Mappings {
    let mut mappings = Mappings::new();
    let Some(found) = detail["mappings"].as_object() else { return mappings };
    for (source, destinations) in found {
        let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
        let mut read: Vec<_> = destinations
            .as_array()
            .into_iter()
            .flatten()
            .map(|destination| {
                let cluster = destination["cluster"].as_str().unwrap_or_default();
                let up_to = destination["weight"].as_u64().unwrap_or_default();
                let before = reached.insert(cluster, up_to).unwrap_or_default();
                Destination {
                    subject: destination["subject"].as_str().unwrap_or_default().to_owned(),
                    weight: u8::try_from(up_to.saturating_sub(before)).unwrap_or(u8::MAX),
                    cluster: cluster.to_owned(),
                }
            })
            .collect();
        read.sort();
        mappings.insert(source.clone(), read);
    }
    mappings
}

/// The mappings as they stand in an account's claims.
pub(super) fn to_claims(destinations: &[Destination]) -> Value {
    destinations.iter().map(|d| json!({"subject": d.subject, "weight": d.weight})).collect()
}

/// Reads the mappings in an account's claims. A share that is left out is all of it.
pub(super) fn from_claims(found: &Value) -> Mappings {
    let destination = |d: &Value| Destination {
        subject: d["subject"].as_str().unwrap_or_default().to_owned(),
        weight: d["weight"].as_u64().map_or(100, |weight| u8::try_from(weight).unwrap_or(u8::MAX)),
        cluster: d["cluster"].as_str().unwrap_or_default().to_owned(),
    };
    let read = |to: &Value| {
        let mut read: Vec<_> = to.as_array().into_iter().flatten().map(destination).collect();
        read.sort();
        read
    };
    found.as_object().into_iter().flatten().map(|(source, to)| (source.clone(), read(to))).collect()
}

/// The shares of a lane that mappings give, if they are the mapping of a route at all.
pub(super) fn shares(mappings: &Mappings, lane: Lane, model: &Slug) -> Option<Weights> {
    let destinations = mappings.get(&subjects::bare(lane, model))?;
    let share = |d: &Destination| {
        let target = subjects::parse(&d.subject).filter(|t| t.lane == lane && t.model == *model)?;
        d.cluster.is_empty().then_some((target.variant?, d.weight))
    };
    Weights::new(destinations.iter().map(share).collect::<Option<Vec<_>>>()?).ok()
}

/// A mapping that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappingDifference {
    /// The subject that is mapped.
    pub source: String,
    /// Where it should lead; nowhere if it should not be mapped.
    pub wanted: Vec<Destination>,
    /// Where it leads; nowhere if it is not mapped.
    pub found: Vec<Destination>,
}

impl std::fmt::Display for MappingDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(model) = self.source.strip_prefix(MARKS) {
            let is = if self.found.is_empty() { "is missing" } else { "is out of date" };
            return write!(f, "{model}: the mark of an emergency that was not written down {is}");
        }
        let list = |destinations: &[Destination]| match destinations {
            [] => "not mapped".to_owned(),
            some => {
                let mut some: Vec<_> = some.iter().collect();
                some.sort_by_key(|d| std::cmp::Reverse(d.weight));
                some.iter()
                    .map(|d| format!("{}={}", short(&self.source, &d.subject), d.weight))
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        };
        write!(f, "{}: {}, wanted: {}", self.source, list(&self.found), list(&self.wanted))
    }
}

/// The variant's name where that is all that a destination adds to its source.
fn short<'a>(source: &str, destination: &'a str) -> &'a str {
    let of_tenants = format!(".{}.*", subjects::ANY_VARIANT);
    let (source, destination) = match source.strip_suffix(&of_tenants).zip(destination.strip_suffix(TENANT)) {
        Some(without) => without,
        None => (source, destination),
    };
    destination.strip_prefix(source).and_then(|rest| rest.strip_prefix('.')).unwrap_or(destination)
}

/// How the mappings of routes differ from what they should be. Mappings of other subjects are none of our business.
pub(super) fn differences(wanted: &Mappings, found: &Mappings) -> Vec<MappingDifference> {
    let sources = wanted.keys().chain(found.keys().filter(|source| is_ours(source)));
    let distinct: std::collections::BTreeSet<_> = sources.collect();
    let get = |mappings: &Mappings, source: &String| mappings.get(source).cloned().unwrap_or_default();
    let differ = |source: &&String| wanted.get(*source) != found.get(*source);
    let named = |source: &String| MappingDifference {
        source: source.clone(),
        wanted: get(wanted, source),
        found: get(found, source),
    };
    distinct.into_iter().filter(differ).map(named).collect()
}

/// Mappings of others whose source matches one of these subjects, too: which of them takes effect would be left to chance.
pub(super) fn overlapping<'a>(sources: &[String], found: &'a Mappings) -> Vec<&'a str> {
    let others = found.keys().filter(|other| !is_ours(other));
    others.filter(|other| sources.iter().any(|source| overlap(source, other))).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    fn lanes(shares: &[&str]) -> Lanes {
        Lane::ALL.into_iter().map(|lane| (lane, Weights::parse(shares).unwrap())).collect()
    }

    #[test]
    fn the_file_is_as_the_server_reads_it() {
        let (m, only) = (slug("m"), Lanes::from([(Lane::Rpc, Weights::parse(&["a=95", "b=5"]).unwrap())]));
        let expected = "\"embed.rpc.m\": [\n  {destination: \"embed.rpc.m.a\", weight: 95}\n  \
                        {destination: \"embed.rpc.m.b\", weight: 5}\n]\n";
        assert_eq!(render(&of_routes([(&m, &only)])), format!("{FILE_MARK}\n{expected}"));
        assert_eq!(render(&Mappings::new()), format!("{FILE_MARK}\n"));
    }

    #[test]
    fn jobs_of_tenants_are_split_alike_and_keep_their_tenant() {
        let mappings = of_routes([(&slug("m"), &lanes(&["a=95", "b=5"]))]);
        let sources: Vec<_> = mappings.keys().map(String::as_str).collect();
        assert_eq!(sources, ["embed.bulk.m", "embed.bulk.m._.*", "embed.job.m", "embed.job.m._.*", "embed.rpc.m"]);
        let subjects: Vec<_> = mappings["embed.job.m._.*"].iter().map(|d| (d.subject.as_str(), d.weight)).collect();
        assert_eq!(subjects, [("embed.job.m.a.{{wildcard(1)}}", 95), ("embed.job.m.b.{{wildcard(1)}}", 5)]);
        assert!(sources.iter().all(|source| is_ours(source)));
        for other in ["embed.rpc.m._.*", "embed.job.m.a.*", "embed.job.m.*", "embed.job.m.a"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn weights_that_a_server_tells_are_cumulative() {
        let detail = json!({"mappings": {"embed.rpc.m": [
            {"subject": "embed.rpc.m.b", "weight": 5}, {"subject": "embed.rpc.m.a", "weight": 100}
        ]}});
        let found = from_account(&detail);
        assert_eq!(shares(&found, Lane::Rpc, &slug("m")).unwrap().to_string(), "a=95 b=5");
        assert_eq!(from_account(&json!({})), Mappings::new());
    }

    #[test]
    fn differences_say_what_is_and_what_should_be() {
        let wanted = of_routes([(&slug("m"), &lanes(&["a=95", "b=5"]))]);
        let mut found = wanted.clone();
        found.remove("embed.job.m");
        found.remove("embed.job.m._.*");
        found.get_mut("embed.rpc.m").unwrap()[0].weight = 100;
        found.insert("embed.bulk.gone".into(), vec![]);
        found.insert("other".into(), vec![]);
        let said: Vec<_> = differences(&wanted, &found).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "embed.bulk.gone: not mapped, wanted: not mapped",
                "embed.job.m: not mapped, wanted: a=95 b=5",
                "embed.job.m._.*: not mapped, wanted: a=95 b=5",
                "embed.rpc.m: a=100 b=5, wanted: a=95 b=5",
            ]
        );
        assert_eq!(overlapping(&["embed.job.m".into()], &found), Vec::<&str>::new());
        found.insert("embed.*.m".into(), vec![]);
        assert_eq!(overlapping(&["embed.job.m".into()], &found), ["embed.*.m"]);
    }

    proptest! {
        #[test]
        fn what_a_server_holds_reads_back(split in prop::collection::vec(1u8..=99, 0..3)) {
            let mut cuts: Vec<u8> = split.into_iter().chain([0, 100]).collect();
            cuts.sort_unstable();
            cuts.dedup();
            let shares_given: Vec<_> = cuts.windows(2).enumerate()
                .map(|(i, cut)| (slug(&format!("v{i}")), cut[1] - cut[0])).collect();
            let weights = Weights::new(shares_given).unwrap();
            let model = slug("m");
            let route = Lanes::from([(Lane::Job, weights.clone())]);
            let wanted = of_routes([(&model, &route)]);
            // As the server shows it: by weight, added up.
            let told = |source: &str| -> Value {
                let mut destinations = wanted[source].clone();
                destinations.sort_by_key(|d| d.weight);
                let mut sum = 0;
                destinations.iter().map(|d| {
                    sum += d.weight;
                    json!({"subject": d.subject, "weight": sum})
                }).collect()
            };
            let mappings = ["embed.job.m", "embed.job.m._.*"].map(|source| (source.to_owned(), told(source)));
            let found = from_account(&json!({"mappings": Value::Object(mappings.into_iter().collect())}));
            prop_assert_eq!(differences(&wanted, &found), vec![]);
            prop_assert_eq!(shares(&found, Lane::Job, &model), Some(weights));
        }
    }
}
