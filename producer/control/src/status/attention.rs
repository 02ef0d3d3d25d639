//! What a person should look at, with the command that tells more. Pure.

use embed_schemas::{
    control::{ServedStatus, WorkerState, WorkerStatus},
    serving::VariantState,
};

use super::Status;

/// The share of failed requests from which on it is worth a word, and for how many requests in a second at least.
const FAILED: f64 = 0.01;
const FAILED_AT: f64 = 0.1;
/// Sentences that are told. The rest is counted.
const MOST: usize = 20;

/// Sentences about what is not as it should be, most urgent first; `routes` are those about routes.
pub(super) fn attention(status: &Status, routes: Vec<String>) -> Vec<String> {
    let mut all = Vec::new();
    if !status.server.connected {
        all.push("there is no connection to NATS: it is tried again and again".to_owned());
    }
    if status.workers.as_ref().is_some_and(Vec::is_empty) {
        all.push("no worker answers: start one with `embed-worker run`, or `embed dev` for a whole stack".to_owned());
    }
    all.extend(unclaimed(status));
    all.extend(status.workers.iter().flatten().flat_map(of_worker));
    for variant in status.variants.iter().filter(|_| status.workers.is_some()) {
        if variant.states.is_empty() {
            all.push(format!("{} {}: no worker that answers serves it", variant.model, variant.variant));
        }
    }
    all.extend(routes);
    for rollout in status.rollouts.iter().flatten().filter(|rollout| rollout.paused) {
        let (model, last) = (&rollout.model, &rollout.last);
        all.push(format!("the rollout of {model} waits for a person: {last} See `embed rollout status {model}`"));
    }
    for traffic in status.traffic.iter().flatten() {
        if traffic.failed >= FAILED && traffic.requests_per_second >= FAILED_AT {
            let (model, variant, lane) = (&traffic.model, &traffic.variant, traffic.lane);
            let percent = traffic.failed * 100.0;
            all.push(format!(
                "{percent:.1} % of the requests of {model} {variant} in lane {lane} failed within the last minute"
            ));
        }
    }
    all.extend(status.streams.iter().flatten().filter_map(|stream| stream.warning.clone()));
    let more = all.len().saturating_sub(MOST);
    if more > 0 {
        all.truncate(MOST);
        all.push(format!("and {more} more"));
    }
    all
}

/// Jobs that wait, and nobody takes.
fn unclaimed(status: &Status) -> Vec<String> {
    let Some(workers) = &status.workers else { return Vec::new() };
    let waits = |queue: &&super::QueueLine| {
        let serves = |served: &ServedStatus| served.model == queue.model && served.variant == queue.variant;
        queue.depth.waiting > 0 && !workers.iter().any(|worker| worker.variants.iter().any(serves))
    };
    let say = |queue: &super::QueueLine| {
        let super::QueueLine { model, variant, lane, depth } = queue;
        let jobs = if depth.waiting == 1 { "1 job waits".to_owned() } else { format!("{} jobs wait", depth.waiting) };
        format!("{jobs} for {model} {variant} in lane {lane}, and no worker that answers serves it")
    };
    status.queues.iter().flatten().filter(waits).map(say).collect()
}

fn of_worker(worker: &WorkerStatus) -> Vec<String> {
    let mut all = Vec::new();
    let id = &worker.worker;
    for ServedStatus { model, variant, status } in &worker.variants {
        if let Some(failed) = &status.failed {
            let what = if status.state == VariantState::Failed { "serves nothing" } else { "serves another" };
            all.push(format!("{model} {variant} on {id} {what}: version {} failed: {}", failed.version, failed.reason));
        }
        for skipped in status.live.iter().flat_map(|live| &live.skipped) {
            let (provider, reason) = (&skipped.provider, &skipped.reason);
            all.push(format!("{model} {variant} on {id} does not run on {provider}: {reason}"));
        }
    }
    all.extend(worker.notes.iter().map(|note| format!("{id}: {note}")));
    if worker.state == WorkerState::Draining {
        all.push(format!("{id} is draining: it takes nothing more"));
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::*, *};

    fn nothing() -> Status {
        let server = ServerLine { name: "n".into(), version: "2".into(), connected: true };
        Status {
            taken: "2026-01-01T00:00:00Z".into(),
            server,
            attention: Vec::new(),
            variants: Vec::new(),
            traffic: None,
            queues: None,
            streams: None,
            rollouts: None,
            errors: None,
            dead: None,
            workers: None,
            unknown: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_known_is_no_reason_to_worry() {
        assert_eq!(attention(&nothing(), Vec::new()), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_as_it_should_be_is_said() {
        let worker = json!({
            "worker": "w", "program": "0.1", "started": "", "state": "serving", "drain_timeout_ms": 1, "texts_in_flight": 0,
            "notes": ["the disk of the cache is full"],
            "variants": [{"model": "m", "variant": "v", "state": "failed", "default": true, "wanted": "v2",
                          "failed": {"version": "v2", "reason": "off by 0.3", "when": ""}}],
        });
        let slug = |name: &str| name.parse::<Slug>().unwrap();
        let depth = QueueDepth { waiting: 7, ..QueueDepth::default() };
        let status = Status {
            workers: Some(vec![serde_json::from_value(worker).unwrap()]),
            queues: Some(vec![QueueLine { model: slug("m"), variant: slug("other"), lane: Lane::Bulk, depth }]),
            ..nothing()
        };
        assert_eq!(
            attention(&status, vec!["a route".into()]),
            [
                "7 jobs wait for m other in lane bulk, and no worker that answers serves it",
                "m v on w serves nothing: version v2 failed: off by 0.3",
                "w: the disk of the cache is full",
                "a route",
            ]
        );
        let many = (0..100).map(|n| n.to_string()).collect();
        let all = attention(&nothing(), many);
        assert_eq!((all.len(), all[MOST].as_str()), (MOST + 1, "and 80 more"));
    }
}
