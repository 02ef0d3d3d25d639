//! What there is to show, as tables, whether they become text or HTML. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use bytesize::ByteSize;
use embed_control::{
    ago,
    status::{Status, Traffic, Unknown, VariantLine},
};
use embed_report::{Table, grouped, significant};
use embed_schemas::{Lane, control::WorkerStatus};

/// A cell that holds nothing.
const NONE: &str = "–";

/// A part of what is shown.
#[derive(Debug)]
pub(super) struct Part {
    /// A name for programs.
    pub(super) id: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// What the table holds, in a sentence.
    pub(super) caption: &'static str,
    /// The table. The first column says what a row is about.
    pub(super) table: Table,
    /// What is said where the table has no rows.
    pub(super) instead: String,
    /// Why something is missing, if it is.
    pub(super) gap: Option<String>,
}

/// One figure of those at the top.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// One line on all of it.
pub(super) fn headline(status: &Status) -> String {
    match status.attention.as_slice() {
        [] if status.unknown.is_empty() => "Nothing needs attention.".to_owned(),
        [] => "Nothing that can be seen needs attention.".to_owned(),
        [_] => "1 thing needs attention.".to_owned(),
        all => format!("{} things need attention.", all.len()),
    }
}

/// The figures at the top.
pub(super) fn figures(status: &Status) -> Vec<Figure> {
    let count = |n: Option<usize>| n.map_or_else(|| NONE.to_owned(), |n| n.to_string());
    let traffic = status.traffic.as_deref();
    let texts = traffic.map(|all| all.iter().map(|one| one.texts_per_second).sum::<f64>());
    // A call is what somebody waits for.
    let p95 = traffic.and_then(|all| {
        let calls = all.iter().filter(|one| one.lane == Lane::Rpc).filter_map(|one| one.p95_ms);
        calls.reduce(f64::max)
    });
    let waiting = status.queues.as_ref().map(|queues| queues.iter().map(|queue| queue.depth.waiting as usize).sum());
    let letters = status.streams.as_ref().map(|streams| {
        streams.iter().filter(|stream| stream.holds == "dead letters").map(|stream| stream.messages as usize).sum()
    });
    let rollouts = status.rollouts.as_ref().map(|all| all.iter().filter(|one| !one.over).count());
    [
        ("Workers", count(status.workers.as_ref().map(Vec::len))),
        ("Texts in a second", texts.map_or_else(|| NONE.to_owned(), rate)),
        ("Calls, p95", p95.map_or_else(|| NONE.to_owned(), |ms| format!("{} ms", significant(ms, 3)))),
        ("Jobs waiting", count(waiting)),
        ("Rollouts under way", count(rollouts)),
        ("Dead letters", count(letters)),
    ]
    .map(|(name, value)| Figure { name, value })
    .into()
}

/// All tables, in the order in which they are shown.
pub(super) fn parts(status: &Status) -> Vec<Part> {
    let now = humantime::parse_rfc3339_weak(&status.taken).unwrap_or_else(|_| SystemTime::now());
    vec![
        variants(status),
        traffic(status),
        queues(status),
        streams(status, now),
        rollouts(status, now),
        errors(status, now),
        dead(status, now),
        workers(status, now),
    ]
}

fn part(
    status: &Status,
    (id, title, caption): (&'static str, &'static str, &'static str),
    fields: &[&str],
    table: Table,
    known: bool,
    none: &str,
) -> Part {
    let missing: Vec<String> =
        status.unknown.iter().filter(|unknown| fields.contains(&unknown.part)).map(said).collect();
    let gap = (!missing.is_empty()).then(|| missing.join(" "));
    let instead = match (known, &gap) {
        (false, Some(gap)) => gap.clone(),
        (false, None) => "Not known: there is no connection to NATS.".to_owned(),
        (true, _) => none.to_owned(),
    };
    Part { id, title, caption, table, instead, gap }
}

fn said(Unknown { reason, next, .. }: &Unknown) -> String {
    format!("Not known: {reason}. What to do: {next}.")
}

fn variants(status: &Status) -> Part {
    let mut table = Table::new(&["Model", "Variant", "State", "Version", "Precision", "Runs on", "Share of traffic"]);
    for line in &status.variants {
        let list = |set: &BTreeSet<String>| {
            if set.is_empty() { NONE.to_owned() } else { set.iter().cloned().collect::<Vec<_>>().join(", ") }
        };
        table.row([
            line.model.to_string(),
            format!("{}{}", line.variant, if line.default { " (default)" } else { "" }),
            states(line, status.workers.is_some()),
            list(&line.versions),
            list(&line.precisions),
            list(&line.providers),
            line.shares.as_ref().map_or_else(|| NONE.to_owned(), shares),
        ]);
    }
    let names =
        ("models", "Models", "Which variants of which models are served, and how traffic is split between them");
    let known = status.workers.is_some() || !status.variants.is_empty();
    part(status, names, &["workers", "variants", "routes"], table, known, "No model is served.")
}

/// `live on 2 workers, loading on 1`
fn states(line: &VariantLine, known: bool) -> String {
    let workers = |n: usize| if n == 1 { "1 worker".to_owned() } else { format!("{n} workers") };
    let all: Vec<String> = line.states.iter().map(|(state, n)| format!("{state} on {}", workers(*n))).collect();
    match (all.is_empty(), known) {
        (false, _) => all.join(", "),
        (true, true) => "unserved".to_owned(),
        (true, false) => NONE.to_owned(),
    }
}

/// `95 %`, or by lane where lanes differ.
fn shares(shares: &BTreeMap<Lane, u8>) -> String {
    let mut values: Vec<u8> = shares.values().copied().collect();
    values.dedup();
    match values.as_slice() {
        [all] => format!("{all} %"),
        _ => shares.iter().map(|(lane, percent)| format!("{lane} {percent} %")).collect::<Vec<_>>().join(", "),
    }
}

fn traffic(status: &Status) -> Part {
    let head =
        ["Model", "Variant", "Lane", "Requests/s", "Texts/s", "Failed", "p50 ms", "p95 ms", "p99 ms", "Texts/batch"];
    let mut table = Table::new(&head);
    for Traffic {
        model,
        variant,
        lane,
        requests_per_second,
        texts_per_second,
        failed,
        p50_ms,
        p95_ms,
        p99_ms,
        batch,
    } in status.traffic.iter().flatten()
    {
        let figure = |value: &Option<f64>| value.map_or_else(|| NONE.to_owned(), |value| significant(value, 3));
        table.row([
            model.to_string(),
            variant.to_string(),
            lane.to_string(),
            rate(*requests_per_second),
            rate(*texts_per_second),
            format!("{:.1} %", failed * 100.0),
            figure(p50_ms),
            figure(p95_ms),
            figure(p99_ms),
            figure(batch),
        ]);
    }
    let caption = "What came in within the last minute, and how long it took from arriving at a worker to its answer";
    let names = ("traffic", "Traffic", caption);
    part(status, names, &["traffic"], table, status.traffic.is_some(), "Nothing came in within the last minute.")
}

/// As many digits as matter: `1,234`, `12.3`, `0.25`.
fn rate(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        ..0.005 => "<0.01".to_owned(),
        ..1.0 => format!("{value:.2}"),
        _ => significant(value, 3),
    }
}

fn queues(status: &Status) -> Part {
    let mut table = Table::new(&["Model", "Variant", "Lane", "Waiting", "Held by workers", "Of these, again"]);
    for queue in status.queues.iter().flatten() {
        table.row([
            queue.model.to_string(),
            queue.variant.to_string(),
            queue.lane.to_string(),
            grouped(queue.depth.waiting),
            grouped(queue.depth.held),
            grouped(queue.depth.redelivered),
        ]);
    }
    let names = ("queues", "Queues", "Jobs that wait, and jobs that workers hold, by variant and lane");
    part(status, names, &["queues"], table, status.queues.is_some(), "There are no queues.")
}

fn streams(status: &Status, now: SystemTime) -> Part {
    let mut table = Table::new(&["Model", "Holds", "Messages", "Size", "Limit", "Full", "Oldest"]);
    for stream in status.streams.iter().flatten() {
        table.row([
            stream.model.to_string(),
            stream.holds.to_owned(),
            grouped(stream.messages),
            size(stream.bytes),
            stream.max_bytes.map_or_else(|| "none".to_owned(), size),
            stream.max_bytes.map_or_else(|| NONE.to_owned(), |most| percent(stream.bytes, most)),
            stream.oldest.as_deref().map_or_else(|| NONE.to_owned(), |when| ago(when, now)),
        ]);
    }
    let names = ("streams", "Streams", "How full the streams of jobs, results and dead letters are");
    part(status, names, &["streams"], table, status.streams.is_some(), "There are no streams: run `embed init`.")
}

fn rollouts(status: &Status, now: SystemTime) -> Part {
    let mut table = Table::new(&["Model", "From", "To", "Phase", "Share", "Started", "What happened last"]);
    for rollout in status.rollouts.iter().flatten() {
        table.row([
            rollout.model.to_string(),
            rollout.from.to_string(),
            rollout.to.to_string(),
            rollout.phase.to_owned(),
            format!("{} %", rollout.percent),
            ago(&rollout.started, now),
            rollout.last.clone(),
        ]);
    }
    let names = ("rollouts", "Rollouts", "The last rollout of each model");
    part(status, names, &["rollouts"], table, status.rollouts.is_some(), "There are no rollouts.")
}

fn errors(status: &Status, now: SystemTime) -> Part {
    let mut table = Table::new(&["Model", "Variant", "Lane", "Code", "Requests", "Caller's fault", "Last"]);
    for error in status.errors.iter().flatten() {
        table.row([
            error.model.to_string(),
            error.variant.to_string(),
            error.lane.to_string(),
            error.code.as_str().to_owned(),
            grouped(error.count),
            grouped(error.by_caller),
            ago(&error.last, now),
        ]);
    }
    let names = ("errors", "Recent errors", "Requests that failed within the last quarter of an hour, by code");
    part(
        status,
        names,
        &["traffic"],
        table,
        status.errors.is_some(),
        "Nothing failed within the last quarter of an hour.",
    )
}

fn dead(status: &Status, now: SystemTime) -> Part {
    let mut table = Table::new(&["Letter", "When", "Variant", "Job", "Code", "Attempts", "Reason"]);
    for letter in status.dead.iter().flatten() {
        table.row([
            letter.name.clone(),
            ago(&letter.time, now),
            letter.variant.to_string(),
            letter.id.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string),
            letter.code.clone(),
            letter.attempts.to_string(),
            letter.reason.clone(),
        ]);
    }
    let caption = "The newest jobs that could not be served; `embed dead show` tells more, `embed dead retry` sends them once more";
    let names = ("dead", "Dead letters", caption);
    part(status, names, &["dead"], table, status.dead.is_some(), "There are no dead letters.")
}

fn workers(status: &Status, now: SystemTime) -> Part {
    let mut table = Table::new(&["Worker", "State", "Program", "Started", "Texts in flight", "Serves", "Notes"]);
    for worker in status.workers.iter().flatten() {
        let WorkerStatus { worker, program, started, state, texts_in_flight, notes, variants, .. } = worker;
        let serves: Vec<String> = variants.iter().map(|one| format!("{} {}", one.model, one.variant)).collect();
        table.row([
            worker.clone(),
            state.as_str().to_owned(),
            program.clone(),
            ago(started, now),
            grouped(*texts_in_flight),
            serves.join(", "),
            if notes.is_empty() { NONE.to_owned() } else { notes.join("; ") },
        ]);
    }
    let names = ("workers", "Workers", "The workers that answer, as they say themselves");
    part(status, names, &["workers"], table, status.workers.is_some(), "No worker answers.")
}

/// `1.5 MiB`
fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.0} %", part as f64 * 100.0 / whole.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_as_people_read_them() {
        assert_eq!([0, 3 << 19, 2 << 30].map(size), ["0 B", "1.5 MiB", "2.0 GiB"]);
        assert_eq!((percent(1, 200), percent(3, 4), percent(0, 0)), ("0 %".into(), "75 %".into(), "0 %".into()));
        assert_eq!([0.0, 0.001, 0.022_2, 5.154, 1_234.6].map(rate), ["0", "<0.01", "0.02", "5.15", "1,235"]);
        let lanes = |of: [u8; 3]| Lane::ALL.into_iter().zip(of).collect::<BTreeMap<_, _>>();
        assert_eq!(shares(&lanes([95, 95, 95])), "95 %");
        assert_eq!(shares(&lanes([95, 100, 100])), "rpc 95 %, job 100 %, bulk 100 %");
    }
}
