//! What a run came to: verdicts, figures and plots of the report.

use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use serde_json::{Map, Value, json};

use super::{Changed, Observed, kills::Party, play::Played, verify::Verified};
use crate::report::{Better, Document, Figure, Group};

/// Of the engine's speed alone: percent.
const LEAST_SPEED: f64 = 95.0;
/// Of any process: megabytes.
const MOST_MEMORY: f64 = 500.0;
/// Of JetStream: megabytes. A window of jobs, and what waits to be written; by far not all the vectors of a large corpus.
const MOST_DISK: f64 = 256.0;
/// Of the first run's time, for a corpus that is mostly as before: percent.
const MOST_TIME: f64 = 10.0;
/// Problems of an output that are told one by one.
const TOLD: usize = 10;

/// Writes what was seen into a report.
pub fn fill(document: &mut Document, observed: &Observed) {
    document.verdicts = verdicts(observed);
    document.figures = figures(observed);
    document.plots = plots(observed);
    document.notes = notes(observed);
    document.detail = detail(observed);
}

fn detail(observed: &Observed) -> Map<String, Value> {
    let run = |(played, verified): &(Played, Verified)| json!({ "played": played, "verified": verified });
    let changed = observed.changed.as_ref().map(|changed| json!({ "run": run(&changed.run), "idle": changed.idle }));
    let detail = json!({
        "engine_rows_per_second": observed.engine,
        "runs": observed.runs.iter().map(run).collect::<Vec<_>>(),
        "changed": changed,
        "peak_megabytes": observed.watch.processes.iter().map(|p| (p.name.clone(), json!(p.peak))).collect::<Map<_, _>>(),
        "disk_peak_megabytes": observed.watch.disk_peak(),
    });
    detail.as_object().cloned().unwrap_or_default()
}

fn verdicts(observed: &Observed) -> Vec<Verdict> {
    let mut verdicts = speed(observed);
    verdicts.extend(observed.all().flat_map(|(played, verified)| whole(played, verified)));
    verdicts.extend(kills(observed));
    verdicts.extend(memory(observed));
    verdicts.push(at_most("JetStream's disk, most", observed.watch.disk_peak(), MOST_DISK, " MB", true));
    verdicts.extend(observed.changed.iter().flat_map(|changed| reuse(observed, changed)));
    verdicts
}

/// How fast it was; nothing is wanted of runs in which something was killed.
fn speed(observed: &Observed) -> Vec<Verdict> {
    let shares = observed.runs.iter().enumerate().filter_map(|(n, (played, _))| {
        // Before and after: a machine that gets slower or faster meanwhile must not look like a loss or a gain.
        let alone = (observed.engine.get(n)? + observed.engine.get(n + 1)?) / 2.0;
        Some(played.rate() / alone * 100.0)
    });
    let is_judged = observed.orders.timed && observed.orders.kills == 0;
    let shares: Vec<f64> = shares.collect();
    let rates: Vec<f64> = observed.runs.iter().map(|(played, _)| played.rate()).collect();
    let name = "Backfill, from end to end, against the engine alone perfectly sorted, median";
    let share = median(&shares).map(|share| at_least(name, share, LEAST_SPEED, " %", is_judged));
    let told =
        [("Backfill, median", median(&rates)), ("Engine alone, perfectly sorted, median", median(&observed.engine))];
    let told = told.into_iter().filter_map(|(name, rate)| Some(told_only(name, rate?, " rows/s")));
    share.into_iter().chain(told).collect()
}

/// Whether an output is what it should be.
fn whole(played: &Played, verified: &Verified) -> [Verdict; 3] {
    let Verified { wanted, distinct, sampled, alike, problems, reader, .. } = verified;
    let all =
        |name: String, value: String, passed| Verdict { name, value, target: "all".to_owned(), passed: Some(passed) };
    [
        all(format!("Rows there once, {}", played.name), format!("{distinct} of {wanted}"), distinct == wanted),
        all(
            format!("Vectors as those of direct calls, {}", played.name),
            format!("{alike} of {sampled}"),
            alike == sampled && *sampled > 0,
        ),
        Verdict {
            name: format!("Problems that {reader} finds, {}", played.name),
            value: problems.len().to_string(),
            target: "0".to_owned(),
            passed: Some(problems.is_empty() && played.count("failed") == 0),
        },
    ]
}

fn kills(observed: &Observed) -> Option<Verdict> {
    let wanted = observed.orders.kills * observed.runs.len();
    let kills: Vec<Party> =
        observed.runs.iter().flat_map(|(played, _)| &played.kills).map(|(party, _)| *party).collect();
    let hit = Party::ALL.iter().filter(|party| kills.contains(party)).count();
    (wanted > 0).then(|| Verdict {
        name: "Processes killed on the way, and parties that were hit".to_owned(),
        value: format!("{} of {wanted}, {hit} of {}", kills.len(), Party::ALL.len()),
        target: "all".to_owned(),
        passed: Some(kills.len() == wanted && hit == Party::ALL.len()),
    })
}

fn memory(observed: &Observed) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for process in &observed.watch.processes {
        // The S3 server is no part of what is to be run beside a backfill.
        let is_judged = process.name != Party::Store.name();
        verdicts.push(at_most(&format!("Memory, most: {}", process.name), process.peak, MOST_MEMORY, " MB", is_judged));
        if let (true, Some(ready)) = (process.name.starts_with(Party::Worker.name()), process.ready) {
            verdicts.push(told_only(
                &format!("Of that its engine, before the first row: {}", process.name),
                ready,
                " MB",
            ));
        }
    }
    verdicts
}

/// A corpus of which little has changed takes little time.
fn reuse(observed: &Observed, changed: &Changed) -> Vec<Verdict> {
    let Changed { counts, run: (played, _), idle } = changed;
    let first: Vec<f64> = observed.runs.iter().map(|(played, _)| played.seconds).collect();
    let Some(first) = median(&first) else { return Vec::new() };
    let (again, new) = (played.count("reused"), played.count("stored"));
    let share = significant(observed.orders.changed * 100.0, 3);
    vec![
        Verdict {
            name: "Rows as before that kept their vectors, and new ones that were embedded".to_owned(),
            value: format!("{again} of {}, {new} of {}", counts.same, counts.changed + counts.added),
            target: "all".to_owned(),
            passed: Some(again == counts.same && new == counts.changed + counts.added),
        },
        at_most(
            &format!("After {share} % have changed: time, of the whole corpus's"),
            played.seconds / first * 100.0,
            MOST_TIME,
            " %",
            observed.orders.timed && observed.orders.kills == 0,
        ),
        told_only("The same after nothing has changed: reading and writing alone", idle.seconds / first * 100.0, " %"),
    ]
}

fn figures(observed: &Observed) -> Vec<Group> {
    let idle = observed.changed.iter().map(|changed| &changed.idle);
    let runs = observed.all().map(|(played, _)| played).chain(idle).map(|played| {
        let count = |name: &str, better| Figure::new(name, "", played.count(name) as f64, better);
        let mut figures = vec![
            Figure::new("time", "s", played.seconds, Better::Lower),
            Figure::new("speed", "rows/s", played.rate(), Better::Higher),
            count("rows", Better::Neither),
            count("stored", Better::Neither),
            count("reused", Better::Neither),
            count("failed", Better::Lower),
            Figure::new("killed", "", played.kills.len() as f64, Better::Neither),
        ];
        let cpu = played.cpu_each();
        figures.extend(cpu.map(|(party, each)| {
            Figure::new(&format!("processor time for a row: {party}"), "µs", each, Better::Lower)
        }));
        Group { name: played.name.clone(), figures }
    });
    let engine = observed.engine.iter().enumerate().map(|(n, rate)| {
        let when = if n == 0 { "before".to_owned() } else { format!("after run {n}") };
        let figures = vec![Figure::new("engine alone", "rows/s", *rate, Better::Higher)];
        Group { name: format!("engine, {when}"), figures }
    });
    let memory = observed.watch.processes.iter().map(|process| {
        let figures = vec![
            Figure::new("ready", "MB", process.ready.unwrap_or(f64::NAN), Better::Lower),
            Figure::new("most", "MB", process.peak, Better::Lower),
        ];
        Group { name: process.name.clone(), figures }
    });
    runs.chain(engine).chain(memory).collect()
}

fn plots(observed: &Observed) -> Vec<Plot> {
    let plot = |title: &str, series| Plot {
        title: title.to_owned(),
        x: Axis { label: "seconds".to_owned(), log: false },
        y: Axis { label: "MB".to_owned(), log: false },
        series,
        kind: PlotKind::Line,
    };
    let line = |name: &str, points: &[(f64, f64)]| Series { name: name.to_owned(), points: points.to_vec() };
    let watch = &observed.watch;
    vec![
        plot("Memory", watch.processes.iter().map(|process| line(&process.name, &process.samples)).collect()),
        plot("JetStream's disk", vec![line("on disk", &watch.disk)]),
    ]
}

fn notes(observed: &Observed) -> Vec<String> {
    let mut notes = Vec::new();
    for (played, verified) in observed.all() {
        let kills = played.kills.iter().map(|(party, at)| {
            format!("{}: {} was killed when {:.0} % had been embedded.", played.name, party.name(), at * 100.0)
        });
        notes.extend(kills);
        let ends = played.ends.iter();
        notes.extend(ends.map(|why| format!("{}: embed ended before its time, and went on: {why}", played.name)));
        notes.extend(verified.problems.iter().take(TOLD).map(|problem| format!("{}: {problem}.", played.name)));
        if let Some(more) = verified.problems.len().checked_sub(TOLD).filter(|more| *more > 0) {
            notes.push(format!("{}: {more} more problems.", played.name));
        }
    }
    notes
}

impl Observed {
    /// All runs whose output was looked at.
    fn all(&self) -> impl Iterator<Item = &(Played, Verified)> {
        self.runs.iter().chain(self.changed.iter().map(|changed| &changed.run))
    }
}

/// The median by nearest rank.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

fn at_least(name: &str, value: f64, least: f64, unit: &str, is_judged: bool) -> Verdict {
    judged(told_only(name, value, unit), format!("at least {least}{unit}"), is_judged, value >= least)
}

fn at_most(name: &str, value: f64, most: f64, unit: &str, is_judged: bool) -> Verdict {
    judged(told_only(name, value, unit), format!("at most {most}{unit}"), is_judged, value <= most)
}

fn judged(verdict: Verdict, target: String, is_judged: bool, passed: bool) -> Verdict {
    if is_judged { Verdict { target, passed: Some(passed), ..verdict } } else { verdict }
}

fn told_only(name: &str, value: f64, unit: &str) -> Verdict {
    Verdict { name: name.to_owned(), value: format!("{}{unit}", significant(value, 3)), ..Verdict::default() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf, time::Instant};

    use super::*;
    use crate::backfill::{
        Orders,
        corpus::Counts,
        watch::{Process, Watch},
    };

    fn run(name: &str, rows: u64, seconds: f64, summary: Value) -> (Played, Verified) {
        let cpu_seconds = BTreeMap::from([("embed".to_owned(), seconds / 2.0)]);
        let played =
            Played { name: name.into(), rows, seconds, cpu_seconds, summary, kills: Vec::new(), ends: Vec::new() };
        let verified = Verified {
            reader: "a reader",
            wanted: rows,
            distinct: rows,
            sampled: 2,
            alike: 2,
            worst: 1.0,
            seconds: 0.1,
            problems: Vec::new(),
        };
        (played, verified)
    }

    fn observed() -> Observed {
        let orders = Orders {
            seed: 1,
            rows: 1000,
            runs: 1,
            kills: 0,
            changed: 0.02,
            engine_texts: 10,
            chunk: 64,
            options: Vec::new(),
            python: PathBuf::new(),
            timed: true,
        };
        let process = |name: &str, peak| Process { name: name.into(), ready: Some(100.0), peak, samples: Vec::new() };
        let mut watch = Watch::new(Instant::now());
        watch.processes = vec![process("embed", 200.0), process("worker", 499.0), process("S3 server", 900.0)];
        let whole = run("run 1", 1000, 10.0, json!({"rows": 1000, "stored": 1000}));
        let again = run("changed", 1000, 0.9, json!({"rows": 1000, "stored": 22, "reused": 978}));
        let (idle, _) = run("nothing changed", 1000, 0.7, json!({"rows": 1000, "reused": 1000}));
        let counts = Counts { same: 978, changed: 20, removed: 2, added: 2 };
        Observed {
            orders,
            engine: vec![104.0, 104.0],
            runs: vec![whole],
            changed: Some(Changed { counts, run: again, idle }),
            watch,
        }
    }

    fn judge(change: impl FnOnce(&mut Observed)) -> Vec<String> {
        let mut observed = observed();
        change(&mut observed);
        let mut document = Document::begin("backfill", "a".into(), Map::new());
        fill(&mut document, &observed);
        let missed = document.verdicts.into_iter().filter(|verdict| verdict.passed == Some(false));
        missed.map(|verdict| format!("{}: {}", verdict.name, verdict.value)).collect()
    }

    #[test]
    fn a_good_run_passes_and_everything_that_is_missed_is_named() {
        assert_eq!(judge(|_| {}), [""; 0]);
        let missed = |change: fn(&mut Observed), name: &str| {
            let missed = judge(change);
            assert!(missed.len() == 1 && missed[0].contains(name), "{name}: {missed:?}");
        };
        missed(|seen| seen.engine = vec![104.0, 110.0], "against the engine alone");
        missed(|seen| seen.runs[0].1.distinct = 999, "Rows there once, run 1: 999 of 1000");
        missed(|seen| seen.runs[0].1.alike = 1, "direct calls, run 1: 1 of 2");
        missed(|seen| seen.runs[0].1.problems.push("odd".into()), "Problems");
        missed(|seen| seen.watch.processes[0].peak = 501.0, "Memory, most: embed: 501 MB");
        missed(|seen| seen.watch.disk.push((1.0, 300.0)), "JetStream's disk");
        missed(|seen| seen.changed.as_mut().unwrap().run.0.seconds = 1.1, "have changed: time");
        missed(|seen| seen.changed.as_mut().unwrap().counts.same = 979, "kept their vectors");
        missed(|seen| (seen.orders.kills, seen.runs[0].0.kills) = (1, Vec::new()), "killed on the way");
    }

    #[test]
    fn where_nothing_is_wanted_of_time_it_is_told_all_the_same() {
        let slow = |seen: &mut Observed| {
            seen.orders.timed = false;
            (seen.runs[0].0.seconds, seen.changed.as_mut().unwrap().run.0.seconds) = (100.0, 100.0);
        };
        assert_eq!(judge(slow), [""; 0]);
        let mut observed = observed();
        slow(&mut observed);
        assert!(verdicts(&observed).iter().any(|verdict| verdict.value == "10 rows/s"));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
