//! What must hold before a route is set: its variants answer, their vectors can be compared, and their jobs are taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use embed_schemas::{
    Lane, Slug,
    routes::Lanes,
    serving::{VariantState, VariantStatus},
    streams,
};
use serde_json::Value;

use super::RouteError;
use embed_client::{
    Client,
    nats::api::{self, CONSUMER_NOT_FOUND, STREAM_NOT_FOUND},
};

use crate::Error;

const TIMEOUT: Duration = Duration::from_secs(1);

/// What workers say of the variants that they serve, one entry for each worker.
pub(super) type Statuses = BTreeMap<(Slug, Slug), Vec<VariantStatus>>;

fn variants(lanes: &Lanes) -> BTreeSet<&Slug> {
    lanes.values().flat_map(|weights| weights.variants()).collect()
}

/// Every variant can answer, on some worker. Pure.
pub(super) fn served(model: &Slug, lanes: &Lanes, statuses: &Statuses) -> Result<(), RouteError> {
    for variant in variants(lanes) {
        let said = statuses.get(&(model.clone(), variant.clone())).map(Vec::as_slice).unwrap_or_default();
        if said.iter().any(|status| matches!(status.state, VariantState::Live | VariantState::Cold)) {
            continue;
        }
        let reason = match said.first() {
            Some(status) => {
                let why = status.failed.as_ref().map(|f| format!(" ({}: {})", f.version, f.reason)).unwrap_or_default();
                format!("variant {variant} of model {model} cannot answer: it is {}{why}", status.state.as_str())
            }
            None => {
                let others: Vec<_> = statuses.keys().filter(|(m, _)| m == model).map(|(_, v)| v.as_str()).collect();
                let others = match others.as_slice() {
                    [] => "no worker serves that model".to_owned(),
                    some => format!("served are: {}", some.join(", ")),
                };
                format!("no worker serves variant {variant} of model {model}; {others}")
            }
        };
        return Err(RouteError::NotServed { reason });
    }
    Ok(())
}

/// All variants are in one embedding space, on all workers. Pure.
pub(super) fn one_space(model: &Slug, lanes: &Lanes, statuses: &Statuses) -> Result<(), RouteError> {
    let variants = variants(lanes);
    if variants.len() < 2 {
        return Ok(());
    }
    let mut spaces: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for variant in variants {
        let said = statuses.get(&(model.clone(), variant.clone())).into_iter().flatten();
        let live: BTreeSet<_> = said.filter_map(|status| status.live.as_ref().map(|l| l.space.clone())).collect();
        if live.is_empty() {
            let unknown = "unknown, since nothing of it is loaded: ask it once with `embed ask --variant`".to_owned();
            spaces.entry(unknown).or_default().insert(variant.as_str());
        }
        for space in live {
            spaces.entry(space).or_default().insert(variant.as_str());
        }
    }
    if spaces.len() < 2 {
        return Ok(());
    }
    let list = |variants: BTreeSet<&str>| variants.into_iter().collect::<Vec<_>>().join(", ");
    let spaces: Vec<_> = spaces.into_iter().map(|(space, variants)| format!("{} is {space}", list(variants))).collect();
    Err(RouteError::Spaces { model: model.clone(), spaces: spaces.join("; ") })
}

/// Every variant has the consumers that take its jobs, in the lanes that are routed.
pub(super) async fn consumers(client: &Client, model: &Slug, lanes: &Lanes) -> Result<(), RouteError> {
    let stored = lanes.iter().filter(|(lane, _)| **lane != Lane::Rpc);
    let wanted = stored.flat_map(|(lane, weights)| weights.variants().map(move |variant| (*lane, variant)));
    let looks = wanted.map(|(lane, variant)| consumer(client, model, variant, lane));
    futures::future::try_join_all(looks).await.map(drop)
}

async fn consumer(client: &Client, model: &Slug, variant: &Slug, lane: Lane) -> Result<(), RouteError> {
    let (stream, name) = (streams::jobs_stream(model), streams::consumer(variant, lane));
    let subject = format!("CONSUMER.INFO.{stream}.{name}");
    match api::call(client.nats(), &subject, &Value::Null, TIMEOUT).await {
        Ok(_) => Ok(()),
        Err(error) if error.is(STREAM_NOT_FOUND) => {
            Err(Error::from(embed_client::Error::NoStream { model: model.clone(), stream }).into())
        }
        Err(error) if error.is(CONSUMER_NOT_FOUND) => {
            let consumer = format!("{stream}/{name}");
            Err(RouteError::NoConsumer { model: model.clone(), variant: variant.clone(), consumer })
        }
        // Between leaders nobody can say. That must not stand in the way of a rollback.
        Err(error) => {
            tracing::warn!(%error, "cannot look for consumer {stream}/{name}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{
        Precision, Weights,
        serving::{FailedVersion, LiveVersion},
    };

    use super::*;

    fn slug(name: &str) -> Slug {
        name.parse().unwrap()
    }

    fn status(state: VariantState, space: Option<&str>) -> VariantStatus {
        let live = space.map(|space| LiveVersion {
            devices: Vec::new(),
            nodes_elsewhere: None,
            online_run_us: None,
            skipped: Vec::new(),
            version: "v1".into(),
            precision: Precision::Fp32,
            provider: "cpu".into(),
            space: space.into(),
            since: String::new(),
        });
        VariantStatus { state, default: false, wanted: "current".into(), live, previous: None, failed: None }
    }

    fn statuses(of: &[(&str, VariantState, Option<&str>)]) -> Statuses {
        let mut all = Statuses::new();
        for (variant, state, space) in of {
            all.entry((slug("m"), slug(variant))).or_default().push(status(*state, *space));
        }
        all
    }

    fn route(shares: &[&str]) -> Lanes {
        Lanes::from([(Lane::Rpc, Weights::parse(shares).unwrap())])
    }

    #[test]
    fn a_variant_that_nobody_serves_is_named_with_those_that_are() {
        use VariantState::{Failed, Live};
        let mut said =
            statuses(&[("a", Live, Some("s")), ("b", Failed, None), ("c", Failed, None), ("c", Live, Some("s"))]);
        served(&slug("m"), &route(&["a=90", "c=10"]), &said).unwrap();
        let error = served(&slug("m"), &route(&["a=90", "x=10"]), &said).unwrap_err().to_string();
        assert!(error.contains("variant x of model m; served are: a, b, c") && error.contains("--force"), "{error}");
        said.get_mut(&(slug("m"), slug("b"))).unwrap()[0].failed =
            Some(FailedVersion { version: "v2".into(), reason: "no file".into(), when: String::new() });
        let error = served(&slug("m"), &route(&["b=100"]), &said).unwrap_err().to_string();
        assert!(error.contains("it is failed (v2: no file)"), "{error}");
        let error = served(&slug("other"), &route(&["a=100"]), &said).unwrap_err().to_string();
        assert!(error.contains("no worker serves that model"), "{error}");
    }

    #[test]
    fn two_spaces_in_one_route_are_refused() {
        use VariantState::{Cold, Live};
        let said =
            statuses(&[("a", Live, Some("s")), ("b", Live, Some("s")), ("c", Live, Some("t")), ("d", Cold, None)]);
        one_space(&slug("m"), &route(&["a=90", "b=10"]), &said).unwrap();
        one_space(&slug("m"), &route(&["d=100"]), &said).unwrap();
        let error = one_space(&slug("m"), &route(&["a=80", "b=10", "c=10"]), &said).unwrap_err().to_string();
        assert!(error.contains("a, b is s; c is t"), "{error}");
        let error = one_space(&slug("m"), &route(&["a=80", "d=20"]), &said).unwrap_err().to_string();
        assert!(error.contains("d is unknown"), "{error}");
        // While a version is swapped, workers differ: vectors of both spaces would come out.
        let swapping = statuses(&[("a", Live, Some("s")), ("b", Live, Some("s")), ("b", Live, Some("t"))]);
        assert!(one_space(&slug("m"), &route(&["a=90", "b=10"]), &swapping).is_err());
    }
}
