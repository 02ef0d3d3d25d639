//! What a run came to: verdicts, figures and plots of the report.

use std::collections::BTreeMap;

use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use serde_json::json;

use super::{
    Observed, Played,
    judge::{Counts, Wrong},
    ledger::{ACCEPTED, ANSWERED, WRONG},
};
use crate::report::{Better, Document, Figure, Group};

/// Findings that are told one by one.
const TOLD: usize = 50;

/// Writes what was seen into a report.
pub fn fill(document: &mut Document, observed: &Observed) {
    document.verdicts = verdicts(observed);
    document.figures = figures(observed);
    document.plots = plots(observed);
    document.notes = notes(observed);
    let judgement = &observed.judgement;
    let counts: BTreeMap<_, _> = Wrong::ALL.map(|what| (name(what), judgement.count(what))).into();
    let detail = json!({
        "accepted": sum(observed, |counts| counts.accepted),
        "unknown": sum(observed, |counts| counts.unknown),
        "stored": sum(observed, |counts| counts.stored),
        "wrong": counts,
        "jobs": judgement.counts,
        "findings": judgement.findings,
        "clients": observed.seen,
        "faults": observed.played,
        "seconds": observed.seconds,
    });
    document.detail = detail.as_object().cloned().unwrap_or_default();
}

/// How a fault went, in a line.
pub(super) fn told(played: &Played) -> String {
    let seconds = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), |value| format!("{value:.2} s"));
    let recovery = &played.recovery;
    let problem = played.problem.as_ref().map(|problem| format!("; NOT DONE: {problem}")).unwrap_or_default();
    format!(
        "call {}, job {}, backlog {}{problem}",
        seconds(recovery.call),
        seconds(recovery.job),
        seconds(recovery.backlog)
    )
}

fn sum(observed: &Observed, of: impl Fn(&Counts) -> u64) -> u64 {
    observed.judgement.counts.values().map(of).sum()
}

/// In words.
pub(super) const fn name(what: Wrong) -> &'static str {
    match what {
        Wrong::Lost => "lost",
        Wrong::Doubled => "doubled",
        Wrong::Wrong => "wrong",
        Wrong::Dead => "dead without cause",
    }
}

fn verdicts(observed: &Observed) -> Vec<Verdict> {
    let accepted = sum(observed, |counts| counts.accepted);
    let zero = |name: String, count: u64, of: u64| Verdict {
        name,
        value: format!("{count} of {of}"),
        target: "0".to_owned(),
        passed: Some(count == 0 && of > 0),
    };
    let mut verdicts: Vec<_> = Wrong::ALL
        .map(|what| zero(format!("Jobs {}", name(what)), observed.judgement.count(what) as u64, accepted))
        .into();
    let calls = &observed.seen.calls;
    let of = |how: &str| calls.get(how).copied().unwrap_or_default();
    verdicts.push(zero("Calls answered wrongly".to_owned(), of(WRONG), calls.values().sum()));
    let done: Vec<_> = observed.played.iter().filter(|played| played.problem.is_none()).collect();
    let whole = observed.played.iter().filter(|played| played.recovery.is_whole()).count();
    verdicts.push(Verdict {
        name: "Faults that everything recovered from".to_owned(),
        value: format!("{whole} of {}", observed.played.len()),
        target: "all".to_owned(),
        passed: Some(whole == observed.played.len() && whole > 0),
    });
    verdicts.push(Verdict {
        name: "Faults that could be played".to_owned(),
        value: format!("{} of {}", done.len(), observed.played.len()),
        target: "all".to_owned(),
        passed: Some(done.len() == observed.played.len()),
    });
    let longest = observed.played.iter().filter_map(|played| Some((played.recovery.longest()?, played.name())));
    if let Some((seconds, name)) = longest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        let value = format!("{} s, after {name}", significant(seconds, 3));
        verdicts.push(Verdict { name: "Longest recovery".to_owned(), value, ..Verdict::default() });
    }
    let share = of(ANSWERED) as f64 / calls.values().sum::<u64>().max(1) as f64 * 100.0;
    let value = format!("{} %", significant(share, 3));
    verdicts.push(Verdict { name: "Calls answered, faults included".to_owned(), value, ..Verdict::default() });
    verdicts
}

fn figures(observed: &Observed) -> Vec<Group> {
    let count = |name: &str, value: u64, better| Figure::new(name, "", value as f64, better);
    let jobs = observed.judgement.counts.iter().map(|(name, counts)| Group {
        name: name.clone(),
        figures: vec![
            count("accepted", counts.accepted, Better::Neither),
            count("acknowledgement lost", counts.unknown, Better::Neither),
            count("as they should be", counts.stored, Better::Higher),
        ],
    });
    let mut groups: Vec<_> = jobs.collect();
    let clients = [("calls", &observed.seen.calls), ("attempts to publish", &observed.seen.publishes)];
    groups.extend(clients.iter().flat_map(|(of, seen)| {
        seen.iter().map(move |(how, number)| Group {
            name: format!("{of}: {how}"),
            figures: vec![count(
                "number",
                *number,
                if [ANSWERED, ACCEPTED].contains(&how.as_str()) { Better::Higher } else { Better::Lower },
            )],
        })
    }));
    let mut kinds: BTreeMap<String, Vec<&Played>> = BTreeMap::new();
    observed.played.iter().for_each(|played| kinds.entry(played.name()).or_default().push(played));
    groups.extend(kinds.into_iter().map(|(name, all)| {
        let most = |of: fn(&Played) -> Option<f64>| {
            all.iter().map(|played| of(played).unwrap_or(f64::NAN)).max_by(f64::total_cmp).unwrap_or(f64::NAN)
        };
        let longest = |name: &str, of| Figure::new(name, "s", most(of), Better::Lower);
        let figures = vec![
            count("times", all.len() as u64, Better::Neither),
            longest("longest until a call", |played| played.recovery.call),
            longest("until a job", |played| played.recovery.job),
            longest("until the backlog moves", |played| played.recovery.backlog_moves),
            longest("until it is done", |played| played.recovery.backlog),
        ];
        Group { name, figures }
    }));
    groups
}

fn plots(observed: &Observed) -> Vec<Plot> {
    let line = |name: &str, points: Vec<(f64, f64)>| Series { name: name.to_owned(), points };
    let plot = |title: &str, unit: &str, kind, x: &str, series| Plot {
        title: title.to_owned(),
        x: Axis { label: x.to_owned(), log: false },
        y: Axis { label: unit.to_owned(), log: false },
        series,
        kind,
    };
    let seconds = &observed.seen.seconds;
    let calls = |of: fn(&(u64, u64)) -> u64| -> Vec<_> {
        seconds.iter().enumerate().map(|(n, second)| (n as f64, of(second) as f64)).collect()
    };
    let mut stored = vec![0.0; observed.seconds.ceil() as usize + 1];
    observed.stored.iter().for_each(|at| stored[at.max(0.0) as usize] += 1.0);
    let stored = stored.into_iter().enumerate().map(|(n, count)| (n as f64, count)).collect();
    let recovery = |of: fn(&Played) -> Option<f64>| -> Vec<_> {
        observed.played.iter().map(|played| (played.began, of(played).unwrap_or(f64::NAN))).collect()
    };
    vec![
        plot(
            "Calls",
            "calls/s",
            PlotKind::Line,
            "seconds",
            vec![line("answered", calls(|second| second.0)), line("not answered", calls(|second| second.1))],
        ),
        plot("Outcomes stored", "jobs/s", PlotKind::Line, "seconds", vec![line("stored", stored)]),
        plot(
            "Recovery, by when the fault began",
            "seconds",
            PlotKind::Line,
            "seconds",
            vec![
                line("call", recovery(|played| played.recovery.call)),
                line("job", recovery(|played| played.recovery.job)),
                line("backlog", recovery(|played| played.recovery.backlog)),
            ],
        ),
    ]
}

fn notes(observed: &Observed) -> Vec<String> {
    let findings = observed.judgement.findings.iter().take(TOLD).map(|finding| {
        let job = finding.number.map_or_else(String::new, |number| format!("{} {number}", finding.lane));
        let id = finding.id.as_ref().map_or_else(|| ", without id".to_owned(), |id| format!(", id {id}"));
        let during = observed.played.iter().rev().find(|played| played.began <= finding.at);
        let during = during.map(|played| format!(", after the begin of {} at {:.1} s", played.name(), played.began));
        format!(
            "{}: {job}{id}, accepted at {:.1} s{}: {}.",
            name(finding.what),
            finding.at,
            during.unwrap_or_default(),
            finding.found
        )
    });
    let faults =
        observed.played.iter().map(|played| format!("At {:.1} s, {}: {}.", played.began, played.name(), told(played)));
    findings.chain(faults).chain(observed.notes.iter().cloned()).collect()
}
