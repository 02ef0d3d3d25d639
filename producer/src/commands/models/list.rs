//! `embed models list`: which version serves where, at a glance. Pure.

use std::{collections::BTreeMap, time::SystemTime};

use embed_client::WorkerInfo;
use embed_control::ago;
use embed_schemas::{
    Slug,
    serving::{DesiredVariant, VariantStatus},
};
use serde_json::{Value, json};

use super::super::table;

type Desired = BTreeMap<(Slug, Slug), DesiredVariant>;

const HEAD: [&str; 11] =
    ["MODEL", "VARIANT", "DEFAULT", "STATE", "VERSION", "WANTED", "PRECISION", "PROVIDER", "SINCE", "KEPT", "WORKER"];

/// For programs: what each worker says, and what the bucket says.
pub(super) fn json(workers: &[WorkerInfo], desired: &Desired) -> Value {
    let named = |(model, variant): &(Slug, Slug), more: Value| {
        let mut value = json!({"model": model, "variant": variant});
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        value
    };
    let worker = |worker: &WorkerInfo| {
        let variants: Vec<_> = worker.variants.iter().map(|(key, status)| named(key, json!(status))).collect();
        json!({"worker": worker.id, "variants": variants})
    };
    json!({
        "workers": workers.iter().map(worker).collect::<Vec<_>>(),
        "wanted": desired.iter().map(|(key, desired)| named(key, json!(desired))).collect::<Vec<_>>(),
    })
}

/// For people: a line for each variant of each worker, then what failed and what nobody serves.
pub(super) fn lines(workers: &[WorkerInfo], desired: &Desired, now: SystemTime) -> Vec<String> {
    let mut all: Vec<_> = workers
        .iter()
        .flat_map(|worker| worker.variants.iter().map(|(key, status)| (key, worker.id.as_str(), status)))
        .collect();
    all.sort_by_key(|(key, worker, _)| (*key, *worker));
    let mut rows: Vec<_> = all.iter().map(|(key, worker, status)| row(key, worker, status, now)).collect();
    let unserved: Vec<_> = desired.iter().filter(|(key, _)| !all.iter().any(|(served, ..)| served == key)).collect();
    rows.extend(unserved.iter().map(|((model, variant), desired)| {
        let cells = [model.as_str(), variant.as_str(), default(desired.default == Some(true)), "unserved", "-"];
        let more = [desired.version.as_str(), "-", "-", "-", "-", "-"];
        let mut cells = cells.into_iter().chain(more).map(str::to_owned);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    }));
    if rows.is_empty() {
        return vec!["no worker answers; start one with `embed dev`, or `embed-worker run`".to_owned()];
    }
    let mut lines = table::lines(HEAD, &rows);
    let failures = all.iter().filter_map(|((model, variant), worker, status)| {
        let failed = status.failed.as_ref()?;
        let age = ago(&failed.when, now);
        Some(format!("{model} {variant} on {worker}: {} failed {age}: {}", failed.version, failed.reason))
    });
    let unserved = unserved.iter().map(|((model, variant), desired)| {
        let age = ago(&desired.when, now);
        format!("{model} {variant}: wanted by {} {age}, and no worker that answers serves it", desired.who)
    });
    let notes: Vec<_> = failures.chain(unserved).collect();
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines
}

fn row((model, variant): &(Slug, Slug), worker: &str, status: &VariantStatus, now: SystemTime) -> [String; 11] {
    let none = || "-".to_owned();
    let live = status.live.as_ref();
    [
        model.to_string(),
        variant.to_string(),
        default(status.default).to_owned(),
        status.state.as_str().to_owned(),
        live.map_or_else(none, |live| live.version.clone()),
        status.wanted.clone(),
        live.map_or_else(none, |live| live.precision.to_string()),
        live.map_or_else(none, |live| live.provider.clone()),
        live.map_or_else(none, |live| ago(&live.since, now)),
        status.previous.clone().unwrap_or_else(none),
        worker.to_owned(),
    ]
}

const fn default(is_default: bool) -> &'static str {
    if is_default { "yes" } else { "-" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers() -> Vec<WorkerInfo> {
        let live = json!({"version": "v1", "precision": "int8", "provider": "cpu", "space": "s", "since": "2026-01-01T10:00:00Z"});
        let good = json!({"state": "live", "default": true, "wanted": "current (v1)", "live": live, "previous": "v0"});
        let failed = json!({"version": "v2", "reason": "off by 0.3", "when": "2026-01-01T10:59:30Z"});
        let bad = json!({"state": "failed", "default": false, "wanted": "v2", "failed": failed});
        let read = |variant: &str, status: Value| {
            (("m".parse().unwrap(), variant.parse().unwrap()), serde_json::from_value(status).unwrap())
        };
        vec![WorkerInfo { id: "w-1".into(), variants: [read("int8", good), read("canary", bad)].into() }]
    }

    fn desired() -> Desired {
        let desired = json!({"version": "v3", "who": "ann", "when": "2026-01-01T10:58:00Z"});
        [(("m".parse().unwrap(), "next".parse().unwrap()), serde_json::from_value(desired).unwrap())].into()
    }

    #[test]
    fn a_person_sees_which_version_serves_where() {
        let now = humantime::parse_rfc3339("2026-01-01T11:00:00Z").unwrap();
        assert_eq!(
            lines(&workers(), &desired(), now),
            [
                "MODEL  VARIANT  DEFAULT  STATE     VERSION  WANTED        PRECISION  PROVIDER  SINCE   KEPT  WORKER",
                "m      canary   -        failed    -        v2            -          -         -       -     w-1",
                "m      int8     yes      live      v1       current (v1)  int8       cpu       1h ago  v0    w-1",
                "m      next     -        unserved  -        v3            -          -         -       -     -",
                "",
                "m canary on w-1: v2 failed 30s ago: off by 0.3",
                "m next: wanted by ann 2m ago, and no worker that answers serves it",
            ]
        );
        assert!(lines(&[], &Desired::new(), now)[0].contains("no worker answers"));
    }

    #[test]
    fn a_program_gets_all_that_is_known() {
        let all = json(&workers(), &desired());
        assert_eq!(all["workers"][0]["variants"][1]["live"]["since"], "2026-01-01T10:00:00Z");
        assert_eq!((&all["workers"][0]["worker"], &all["wanted"][0]["who"]), (&json!("w-1"), &json!("ann")));
    }
}
