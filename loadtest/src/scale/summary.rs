//! What it came to.

use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use serde_json::json;

use super::row::{Name, Part, Row, names};
use crate::report::{Better, Document, Figure, Group};

/// Where rows are in a document.
const ROWS: &str = "rows";
/// A cost is flat if it varies by no more than this.
const FLAT: f64 = 1.25;
/// What workers must get through of what their engines can.
const OF_SUM: f64 = 90.0;
/// Above this share of the cores, it is the machine that binds.
const BUSY: f64 = 0.85;

/// The rows of a document that was made before.
///
/// # Errors
/// If it is none of this command.
pub fn rows_of(document: &Document) -> anyhow::Result<Vec<Row>> {
    Ok(serde_json::from_value(document.detail.get(ROWS).cloned().unwrap_or_else(|| json!([])))?)
}

/// Fills a document.
pub fn fill(document: &mut Document, rows: &[Row]) {
    let cores = document.machine.cores as f64;
    document.verdicts = verdicts(rows, cores);
    document.figures = rows.iter().map(group).collect();
    document.plots = plots(rows);
    document.notes = notes(rows, cores);
    document.detail.insert(ROWS.to_owned(), json!(rows));
}

fn of(rows: &[Row], part: Part, servers: usize) -> impl Iterator<Item = &Row> {
    rows.iter().filter(move |row| row.part == part && row.setting.servers == servers)
}

/// The numbers of servers that there are rows of.
fn servers(rows: &[Row]) -> Vec<usize> {
    let mut all: Vec<usize> = rows.iter().map(|row| row.setting.servers).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn on(servers: usize) -> &'static str {
    if servers == 1 { "one server" } else { "a cluster" }
}

/// Whether the machine had room for more.
fn has_room(row: &Row, cores: f64) -> bool {
    row.median(names::CORES) < BUSY * cores
}

fn verdicts(rows: &[Row], cores: f64) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for servers in servers(rows) {
        for (part, what) in [(Part::Workers, "workers"), (Part::Devices, "devices of one worker")] {
            // The most that the machine had room for: beyond that, it tells nothing of the design.
            if let Some(row) = of(rows, part, servers).filter(|row| has_room(row, cores)).last() {
                let (share, count) = (row.median(names::OF_SUM), row.setting.workers * row.setting.devices);
                verdicts.push(Verdict {
                    name: format!("Jobs on {count} {what}, {}: of the sum of the engines", on(servers)),
                    value: format!("{} %", significant(share, 3)),
                    target: format!("at least {OF_SUM} %"),
                    passed: Some(share >= OF_SUM),
                });
            }
        }
        let flat = |part: Part, name: Name, unit: &str, what: &str, by: fn(&Row) -> u64| {
            let costs: Vec<_> = of(rows, part, servers).map(|row| (by(row), row.median(name))).collect();
            let (first, last) = (costs.first()?, costs.last()?);
            let rise = last.1 / first.1;
            (costs.len() > 1).then(|| Verdict {
                name: format!("Processor time of a {unit}, {}: from {} to {} {what}", on(servers), first.0, last.0),
                value: format!(
                    "{} to {} µs, {} x",
                    significant(first.1, 3),
                    significant(last.1, 3),
                    significant(rise, 3)
                ),
                target: format!("at most {FLAT} x"),
                passed: Some(rise <= FLAT),
            })
        };
        let workers = |row: &Row| row.setting.workers as u64;
        verdicts.extend(flat(Part::Workers, names::ALL_CPU, "text", "workers", workers));
        verdicts.extend(flat(Part::Calls, names::CALL_CPU, "call", "workers", workers));
        verdicts.extend(flat(Part::Rows, names::ALL_CPU, "text", "rows", |row| row.count));
    }
    let failed: f64 = rows.iter().map(|row| row.median(names::FAILED)).filter(|failed| failed.is_finite()).sum();
    verdicts.push(Verdict {
        name: "Jobs and calls that failed".to_owned(),
        value: significant(failed, 6),
        target: "none".to_owned(),
        passed: Some(failed == 0.0),
    });
    verdicts
}

fn notes(rows: &[Row], cores: f64) -> Vec<String> {
    let full: Vec<String> = rows
        .iter()
        .filter(|row| !matches!(row.part, Part::Ceiling | Part::Rows | Part::Backlog) && row.setting.text_us > 0)
        .filter(|row| row.median(names::CORES) >= BUSY * cores)
        .map(name_of)
        .collect();
    let mut notes = vec![format!(
        "All figures are medians of {}; the range of each is in report.json. The load, the servers and the workers share {cores} cores.",
        repeats(rows)
    )];
    if !full.is_empty() {
        notes.push(format!(
            "Here the machine's cores were full, so that the rate is theirs, and what counts is the processor time: {}.",
            full.join("; ")
        ));
    }
    notes
}

/// How often figures were measured: from the least to the most.
fn repeats(rows: &[Row]) -> String {
    let counts = || rows.iter().flat_map(|row| row.figures.values()).map(|values| values.values().len());
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    if least == most { least.to_string() } else { format!("{least} to {most}") }
}

/// What a row is of.
fn name_of(row: &Row) -> String {
    let setting = &row.setting;
    let mut name = format!("{}: {}", row.part.title(), on(setting.servers));
    let some = |count: usize, what: &str| format!(", {count} {what}{}", if count == 1 { "" } else { "s" });
    if row.part != Part::Devices {
        name += &some(setting.workers, "worker");
    }
    if matches!(row.part, Part::Models | Part::Idle) {
        name += &some(setting.models, "model");
    }
    if row.part == Part::Models && setting.text_us == 0 {
        name += ", devices that take no time";
    }
    if row.part == Part::Devices {
        name += &some(setting.devices, "device");
    }
    match row.part {
        Part::Backlog => name += &format!(", {} jobs of {} texts", row.count, row.texts_per_job),
        Part::Rows => name += &format!(", up to {} rows", row.count),
        _ => {}
    }
    name
}

fn group(row: &Row) -> Group {
    let better = |name: &str| match name {
        names::RATE | names::CALLS | names::OF_SUM | names::PUBLISHED => Better::Higher,
        names::OFFERED | names::CORES | names::LEAST_SHARE | names::MOST_SHARE => Better::Neither,
        _ => Better::Lower,
    };
    let figures = row.figures.iter().map(|(name, values)| {
        let (plain, unit) = name.rsplit_once(", ").unwrap_or((name, ""));
        Figure::new(plain, unit, values.median(), better(name))
    });
    Group { name: name_of(row), figures: figures.collect() }
}

fn plots(rows: &[Row]) -> Vec<Plot> {
    let workers = |row: &Row| row.setting.workers as f64;
    let mut plots = Vec::new();
    let mut plot = |part: Part, name: Name, (x, by): (&str, fn(&Row) -> f64), sum: bool| {
        let mut series: Vec<Series> = Vec::new();
        for servers in servers(rows) {
            for paced in [true, false] {
                let of = || of(rows, part, servers).filter(|row| (row.setting.text_us > 0) == paced);
                let points: Vec<_> = of().map(|row| (by(row), row.median(name))).collect();
                if points.is_empty() {
                    continue;
                }
                let no_time = if !paced && part == Part::Models { ", devices that take no time" } else { "" };
                series.push(Series { name: format!("{}{no_time}", on(servers)), points });
                if sum && paced && !series.iter().any(|one| one.name == SUM) {
                    let points = of().map(|row| (by(row), row.setting.sum())).collect();
                    series.push(Series { name: SUM.to_owned(), points });
                }
            }
        }
        if !series.is_empty() {
            plots.push(Plot {
                title: format!("{}: {}", part.title(), name.rsplit_once(", ").map_or(name, |(name, _)| name)),
                x: Axis { label: x.to_owned(), log: true },
                y: Axis { label: name.rsplit_once(", ").map_or("", |(_, unit)| unit).to_owned(), log: sum },
                series,
                kind: PlotKind::Line,
            });
        }
    };
    plot(Part::Workers, names::RATE, ("workers", workers), true);
    plot(Part::Workers, names::ALL_CPU, ("workers", workers), false);
    plot(Part::Devices, names::RATE, ("devices of one worker", |row| row.setting.devices as f64), true);
    plot(Part::Models, names::RATE, ("models", |row| row.setting.models as f64), false);
    plot(Part::Models, names::ALL_CPU, ("models", |row| row.setting.models as f64), false);
    plot(Part::Ceiling, names::RATE, ("workers", workers), false);
    plot(Part::Ceiling, names::SERVER_CPU, ("workers", workers), false);
    plot(Part::Calls, names::CALLS, ("workers", workers), true);
    plot(Part::Calls, names::P99, ("workers", workers), false);
    plot(Part::Calls, names::CALL_CPU, ("workers", workers), false);
    plot(
        Part::Idle,
        names::IDLE_SERVER,
        ("workers x models", |row| (row.setting.workers * row.setting.models).max(1) as f64),
        false,
    );
    plot(
        Part::Idle,
        names::IDLE_WORKERS,
        ("workers x models", |row| (row.setting.workers * row.setting.models).max(1) as f64),
        false,
    );
    plot(Part::Backlog, names::SERVER_MB, ("jobs that wait", |row| row.count as f64), false);
    plot(Part::Backlog, names::KEPT_DISK_MB, ("results that are kept", |row| row.count as f64), false);
    plot(Part::Rows, names::ALL_CPU, ("rows", |row| row.count as f64), false);
    plot(Part::Rows, names::SERVER_MB, ("rows", |row| row.count as f64), false);
    plots
}

/// What the series of the engines' sums is called.
const SUM: &str = "the sum of the engines";
