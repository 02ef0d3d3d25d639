//! Whether workers have followed a change of what they are to serve. Pure.

use std::collections::BTreeMap;

use embed_schemas::{
    Slug,
    serving::{CURRENT_VERSION, DesiredVariant, FailedVersion, LiveVersion, VariantState, VariantStatus},
};
use serde::Serialize;

use embed_client::WorkerInfo;

/// What a worker made of it so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It has not heard of it, or is loading it.
    Waiting,
    /// It serves it.
    Live(LiveVersion),
    /// It loads it when somebody asks for it.
    Cold,
    /// It cannot serve it.
    Failed(FailedVersion),
}

/// The same, with the worker's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerProgress {
    /// The worker's id.
    pub worker: String,
    /// What it made of it.
    pub progress: Progress,
}

impl WorkerProgress {
    /// Why it cannot serve it, if so.
    pub(super) fn failure(&self) -> Option<String> {
        let Progress::Failed(failed) = &self.progress else { return None };
        Some(format!("{}: {}: {}", self.worker, failed.version, failed.reason))
    }
}

/// Failures by worker, as they were before a change: those say nothing about it.
pub(super) type Failures = BTreeMap<String, FailedVersion>;

pub(super) fn failures(workers: &[WorkerInfo], target: &(Slug, Slug)) -> Failures {
    let failure =
        |worker: &WorkerInfo| Some((worker.id.clone(), worker.variants.get(target)?.failed.as_ref()?.clone()));
    workers.iter().filter_map(failure).collect()
}

/// What each worker made of it.
pub(super) fn look(
    workers: &[WorkerInfo],
    target: &(Slug, Slug),
    desired: &DesiredVariant,
    before: &Failures,
) -> Vec<WorkerProgress> {
    let look = |worker: &WorkerInfo| {
        let status = worker.variants.get(target);
        let progress = status.map_or(Progress::Waiting, |status| judge(desired, status, before.get(&worker.id)));
        WorkerProgress { worker: worker.id.clone(), progress }
    };
    workers.iter().map(look).collect()
}

fn judge(desired: &DesiredVariant, status: &VariantStatus, before: Option<&FailedVersion>) -> Progress {
    if !is_wanted(&desired.version, &status.wanted) || desired.default == Some(true) && !status.default {
        return Progress::Waiting;
    }
    match (&status.failed, &status.live) {
        (Some(failed), _) if before != Some(failed) => Progress::Failed(failed.clone()),
        (_, Some(live))
            if names(&status.wanted, &live.version) && desired.precision.is_none_or(|one| one == live.precision) =>
        {
            Progress::Live(live.clone())
        }
        (None, None) if status.state == VariantState::Cold => Progress::Cold,
        _ => Progress::Waiting,
    }
}

/// Whether a worker wants this: it says `v2`, or `current (v2)` for what follows the registry's pointer.
fn is_wanted(version: &str, wanted: &str) -> bool {
    match version {
        CURRENT_VERSION => wanted == CURRENT_VERSION || wanted.starts_with("current ("),
        version => wanted == version,
    }
}

/// Whether what a worker wants is this version.
fn names(wanted: &str, version: &str) -> bool {
    wanted == version || wanted.strip_prefix("current (").and_then(|rest| rest.strip_suffix(')')) == Some(version)
}

#[cfg(test)]
mod tests {
    use embed_schemas::Precision;

    use super::*;

    fn live(version: &str) -> Option<LiveVersion> {
        let [provider, space, since] = ["cpu", "s", "2026-01-01T00:00:00Z"].map(str::to_owned);
        Some(LiveVersion {
            version: version.to_owned(),
            precision: Precision::Fp32,
            provider,
            space,
            since,
            devices: Vec::new(),
            skipped: Vec::new(),
            nodes_elsewhere: None,
            online_run_us: None,
        })
    }

    fn status(wanted: &str, live: Option<LiveVersion>) -> VariantStatus {
        let state = if live.is_some() { VariantState::Live } else { VariantState::Cold };
        VariantStatus { state, default: false, wanted: wanted.to_owned(), live, previous: None, failed: None }
    }

    fn desired(json: &str) -> DesiredVariant {
        serde_json::from_str(json).unwrap()
    }

    fn failed(when: &str) -> FailedVersion {
        FailedVersion { version: "v2".into(), reason: "broken".into(), when: when.into() }
    }

    #[test]
    fn what_a_worker_did_before_does_not_count() {
        let v2 = desired(r#"{"version":"v2"}"#);
        assert_eq!(judge(&v2, &status("v1", live("v1")), None), Progress::Waiting, "it has not heard");
        assert_eq!(judge(&v2, &status("v2", live("v1")), None), Progress::Waiting, "it is loading");
        assert!(matches!(judge(&v2, &status("v2", live("v2")), None), Progress::Live(_)));
        let again = VariantStatus { failed: Some(failed("1")), ..status("v2", live("v1")) };
        assert_eq!(judge(&v2, &again, Some(&failed("1"))), Progress::Waiting, "it has not tried again yet");
        assert_eq!(judge(&v2, &again, None), Progress::Failed(failed("1")));
        assert_eq!(judge(&v2, &again, Some(&failed("0"))), Progress::Failed(failed("1")));
    }

    #[test]
    fn current_is_what_the_worker_found_it_to_be() {
        let current = desired("{}");
        assert!(matches!(judge(&current, &status("current (v3)", live("v3")), None), Progress::Live(_)));
        assert_eq!(judge(&current, &status("current (v3)", live("v2")), None), Progress::Waiting);
        assert_eq!(judge(&current, &status("v3", live("v3")), None), Progress::Waiting);
        assert_eq!(judge(&current, &status("current (v3)", None), None), Progress::Cold);
    }

    #[test]
    fn precision_and_default_are_waited_for() {
        let int8 = desired(r#"{"precision":"int8"}"#);
        assert_eq!(judge(&int8, &status("current (v1)", live("v1")), None), Progress::Waiting);
        let default = desired(r#"{"default":true}"#);
        assert_eq!(judge(&default, &status("current (v1)", live("v1")), None), Progress::Waiting);
    }
}
