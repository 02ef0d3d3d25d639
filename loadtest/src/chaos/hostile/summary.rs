//! What a run came to: verdicts, figures and plots of the report.

use std::{sync::atomic::Ordering, time::Duration};

use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use serde_json::json;

use super::{Observed, Orders, messages::Kind, sender::Progress};
use crate::{
    chaos::{judge::Wrong, summary::name},
    memory::growth::{SETTLING, growth},
    report::{Better, Document, Figure, Group},
};

/// By how much of itself memory may grow after it has settled, in a run that is long enough to tell.
const GROWTH: f64 = 0.1;
/// Jobs of which nothing became that are told one by one.
const TOLD: usize = 20;

/// How far it is.
pub(super) fn so_far(progress: &Progress, orders: &Orders, elapsed: Duration) -> String {
    let (calls, jobs) = (progress.calls.load(Ordering::Relaxed), progress.jobs.load(Ordering::Relaxed));
    format!("{:5.0} s  {calls} of {} calls, {jobs} of {} jobs", elapsed.as_secs_f64(), orders.calls, orders.jobs)
}

/// Writes what was seen into a report.
pub fn fill(document: &mut Document, observed: &Observed) {
    document.verdicts = verdicts(observed);
    document.figures = figures(observed);
    document.plots = vec![memory_plot(observed)];
    let lost =
        observed.lost.iter().take(TOLD).map(|n| format!("Job {n} of the seed was accepted, and nothing became of it."));
    document.notes = lost.chain(observed.notes.iter().cloned()).collect();
    let by_name = |kind: &Kind| kind.name();
    let calls: serde_json::Map<_, _> = observed
        .sent
        .calls
        .iter()
        .map(|(kind, calls)| {
            (
                by_name(kind).to_owned(),
                json!({"sent": calls.sent, "unanswered": calls.unanswered, "answers": calls.answers}),
            )
        })
        .collect();
    let jobs: serde_json::Map<_, _> = observed
        .fates
        .iter()
        .map(|(kind, fate)| {
            let fate =
                json!({"accepted": fate.accepted, "outcome": fate.outcome, "dead": fate.dead, "lost": fate.lost});
            (by_name(kind).to_owned(), fate)
        })
        .collect();
    let [alone, beside] = &observed.honest;
    let detail = json!({
        "calls": calls,
        "jobs": jobs,
        "accepted": observed.sent.accepted.len(),
        "refused": observed.sent.refused,
        "unknown": observed.sent.unknown,
        "lost": observed.lost.len(),
        "left": observed.left,
        "forged": observed.forged,
        "ended": observed.ended,
        "honest": {"alone": alone.calls, "beside": beside.calls, "findings": observed.judgement.findings,
            "p99_ms": [alone.latency.p99, beside.latency.p99]},
        "seconds": observed.length.as_secs_f64(),
    });
    document.detail = detail.as_object().cloned().unwrap_or_default();
}

fn zero(name: String, count: u64, of: u64) -> Verdict {
    Verdict { name, value: format!("{count} of {of}"), target: "0".to_owned(), passed: Some(count == 0) }
}

fn verdicts(observed: &Observed) -> Vec<Verdict> {
    let accepted = observed.sent.accepted.len() as u64;
    let calls = observed.sent.calls.values();
    let (sent, unanswered) = calls.fold((0, 0), |sum, calls| (sum.0 + calls.sent, sum.1 + calls.unanswered));
    let honest_jobs: u64 = observed.judgement.counts.values().map(|counts| counts.accepted).sum();
    let [alone, beside] = &observed.honest;
    let (answered, all) = beside.answered();
    let mut verdicts = vec![
        zero("Workers that ended".to_owned(), observed.ended as u64, observed.processes.len() as u64),
        zero("Jobs without outcome or dead letter".to_owned(), observed.lost.len() as u64, accepted),
        zero("Jobs left in their stream".to_owned(), observed.left, accepted),
        zero("Calls without answer".to_owned(), unanswered, sent),
        zero("Forged results".to_owned(), observed.forged, accepted),
    ];
    verdicts.extend(
        Wrong::ALL.map(|what| {
            zero(format!("Honest jobs {}", name(what)), observed.judgement.count(what) as u64, honest_jobs)
        }),
    );
    verdicts.push(Verdict {
        name: "Honest calls answered".to_owned(),
        value: format!("{answered} of {all}"),
        target: "99 %".to_owned(),
        passed: Some(all > 0 && answered * 100 >= all * 99),
    });
    let ms = |value| significant(value, 3);
    verdicts.push(Verdict {
        name: "p99 of honest calls".to_owned(),
        value: format!("{} ms, and {} ms alone", ms(beside.latency.p99), ms(alone.latency.p99)),
        ..Verdict::default()
    });
    for process in &observed.processes {
        let Some(growth) = growth(&process.samples, observed.length) else { continue };
        // In a short run everything is still settling.
        let is_long = observed.length >= SETTLING * 2;
        verdicts.push(Verdict {
            name: format!("Memory of {}", process.label()),
            value: format!("{} MB, {:+.1} %", significant(growth.settled, 3), growth.share * 100.0),
            target: if is_long { format!("{} %", GROWTH * 100.0) } else { String::new() },
            passed: is_long.then_some(growth.share <= GROWTH),
        });
    }
    verdicts
}

fn figures(observed: &Observed) -> Vec<Group> {
    let count = |name: &str, value: u64, better| Figure::new(name, "", value as f64, better);
    let calls = observed.sent.calls.iter().map(|(kind, calls)| Group {
        name: format!("calls: {}", kind.name()),
        figures: vec![
            count("sent", calls.sent, Better::Neither),
            count("results", calls.answers.get("result").copied().unwrap_or_default(), Better::Neither),
            count("without answer", calls.unanswered, Better::Lower),
        ],
    });
    let jobs = observed.fates.iter().map(|(kind, fate)| Group {
        name: format!("jobs: {}", kind.name()),
        figures: vec![
            count("accepted", fate.accepted, Better::Neither),
            count("with an outcome", fate.outcome, Better::Neither),
            count("dead letters", fate.dead, Better::Neither),
            count("neither", fate.lost, Better::Lower),
        ],
    });
    let [alone, beside] = &observed.honest;
    let latencies = [
        alone.latency.group("honest calls alone".to_owned(), Better::Lower),
        beside.latency.group("honest calls beside it".to_owned(), Better::Lower),
    ];
    let seen = beside.calls.iter().map(|(how, number)| Group {
        name: format!("honest calls: {how}"),
        figures: vec![count("number", *number, Better::Neither)],
    });
    calls.chain(jobs).chain(latencies).chain(seen).collect()
}

fn memory_plot(observed: &Observed) -> Plot {
    let series = |process: &crate::memory::Process| Series { name: process.label(), points: process.samples.clone() };
    Plot {
        title: "Memory of the workers".to_owned(),
        x: Axis { label: "seconds".to_owned(), log: false },
        y: Axis { label: "MB".to_owned(), log: false },
        series: observed.processes.iter().map(series).collect(),
        kind: PlotKind::Line,
    }
}
