//! The record of a rollout as a page that a person can read. Pure.

use embed_report::{Axis, Block, Page, Plot, PlotKind, Section, Series, Table, Verdict as Line};
use embed_rollout::{
    ConfigError, Reason, Rollout,
    record::{Record, Recorded, Replayed, StageRecord, Window, window_ms},
    state::{Event, Outcome},
};
use embed_schemas::{LatencySketch, WindowCounts};

use super::{clock, shadow_page};

/// Points of a distribution: percentiles, denser where it matters.
const PERCENTILES: [f64; 13] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9999];

/// The page. Every verdict is made again from the record, and compared with the recorded one.
///
/// # Errors
/// If the recorded configuration makes no sense to this release.
pub fn page(record: &Record) -> Result<Page, ConfigError> {
    let rollout = &record.rollout;
    let replayed = record.replay()?;
    let mut sections = vec![timeline(rollout)];
    sections.extend(record.shadows.iter().map(|shadow| shadow_page::section(rollout, shadow)));
    sections.extend(record.stages.iter().map(|stage| section(rollout, stage)));
    Ok(Page {
        title: format!("Rollout of {} for {}, model {}", rollout.to, rollout.from, rollout.model),
        summary: summary(record, &replayed),
        facts: facts(rollout),
        sections,
    })
}

fn summary(record: &Record, replayed: &[Replayed]) -> Vec<Line> {
    let rollout = &record.rollout;
    let outcome = rollout.outcome();
    let forced = rollout.forced();
    let last = rollout.history.last().map(|event| event.sentence.clone()).unwrap_or_default();
    let others = replayed.iter().filter(|verdict| !verdict.same).count() + record.different_shadows();
    let all = replayed.len() + record.shadows.len();
    vec![
        Line {
            name: "Outcome".into(),
            value: match &forced {
                Some(forced) => {
                    format!("Forced, without waiting for evidence: {forced}. {}. {last}", rollout.phase.as_str())
                }
                None => format!("{}. {last}", rollout.phase.as_str()),
            },
            target: if forced.is_some() { "evidence at every step".into() } else { String::new() },
            // Whoever was promoted by a person's word has met nothing.
            passed: outcome.map(|outcome| outcome == Outcome::Promoted && forced.is_none()),
        },
        Line {
            name: "Verdicts made again from the record".into(),
            value: format!("{} of {all} the same", all - others),
            target: "all".into(),
            passed: Some(others == 0),
        },
    ]
}

fn facts(rollout: &Rollout) -> Vec<(String, String)> {
    let plan = &rollout.config.plan;
    let steps: Vec<String> = plan.steps.iter().map(|step| format!("{step} %")).collect();
    let lanes: Vec<String> = rollout.lanes.iter().map(ToString::to_string).collect();
    let duration = |duration| humantime::format_duration(duration).to_string();
    [
        ("id", rollout.id.clone()),
        ("started by", rollout.who.clone()),
        ("steps", steps.join(", ")),
        ("hold", duration(plan.hold)),
        ("looks at each step", plan.looks.to_string()),
        ("window", duration(plan.window)),
        ("rule", format!("{:?}", rollout.config.rule).to_lowercase()),
        ("lanes", lanes.join(", ")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn timeline(rollout: &Rollout) -> Section {
    let row = |event: &Event| vec![clock(event.when_ms), format!("{} %", event.percent), event.sentence.clone()];
    let table = Table {
        head: ["time (UTC)", "candidate's share", "what happened"].map(str::to_owned).into(),
        rows: rollout.history.iter().map(row).collect(),
    };
    let minutes = |ms: u64| ms.saturating_sub(rollout.started_ms) as f64 / 60_000.0;
    let mut points = Vec::new();
    for event in &rollout.history {
        // A share stays what it is until it changes.
        if let Some((_, before)) = points.last().copied() {
            points.push((minutes(event.when_ms), before));
        }
        points.push((minutes(event.when_ms), event.percent));
    }
    let plot = line(
        "Share of the traffic",
        "minutes",
        "percent",
        false,
        vec![Series { name: rollout.to.to_string(), points }],
    );
    Section { title: "What happened".into(), blocks: vec![Block::Plot(plot), Block::Table(table)] }
}

fn section(rollout: &Rollout, stage: &StageRecord) -> Section {
    let percent = rollout.percent_of(stage.stage.step);
    let title = format!("Stage {}: {percent} %", stage.stage.number);
    let versions =
        |versions: &std::collections::BTreeSet<String>| versions.iter().cloned().collect::<Vec<_>>().join(", ");
    let late: std::collections::BTreeSet<u32> =
        stage.late.iter().flat_map(|late| late.changed.iter().map(|(at, _)| *at)).collect();
    let left_out: u64 = stage.all().iter().flat_map(|window| window.backlog).map(|backlog| backlog.left_out).sum();
    let text = format!(
        "{} windows from {} on, {} of which late reports added to. {left_out} requests that had been published before are left out. {} serves {}, {} \
         serves {}.",
        stage.windows.len(),
        clock(stage.stage.from_ms),
        late.len(),
        rollout.from,
        versions(&stage.stage.versions.from),
        rollout.to,
        versions(&stage.stage.versions.to),
    );
    let mut blocks = vec![Block::Text(text)];
    for (name, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let of = |counts: &WindowCounts| counts.latency_us.quantile(q).map(|us| us / 1_000.0);
        blocks.push(over_time(rollout, stage, &format!("{name} over time"), "milliseconds", of));
    }
    blocks.push(Block::Plot(distribution(rollout, stage)));
    let rate =
        |counts: &WindowCounts| (counts.requests > 0).then(|| 100.0 * counts.failed() as f64 / counts.requests as f64);
    blocks.push(over_time(rollout, stage, "Failed requests", "percent", rate));
    let seconds = f64::from(window_ms(rollout)) / 1_000.0;
    blocks.push(over_time(rollout, stage, "Requests", "a second", |counts| Some(counts.requests as f64 / seconds)));
    blocks.extend(stage.verdicts.iter().flat_map(verdict));
    Section { title, blocks }
}

fn verdict(recorded: &Recorded) -> [Block; 2] {
    let verdict = &recorded.verdict;
    let text = format!("{} after {} windows: {}", clock(recorded.when_ms), verdict.windows, verdict.sentence);
    let number = |x: Option<f64>| x.map(|x| format!("{x:.4}")).unwrap_or_default();
    let row = |reason: &Reason| {
        let finding = format!("{:?}", reason.finding).to_lowercase();
        let figures = [reason.baseline, reason.candidate, reason.estimate, reason.lower, reason.upper, reason.margin];
        let mut row = vec![reason.metric.to_string(), finding];
        row.extend(figures.map(number));
        row.push(reason.sentence.clone());
        row
    };
    let head = ["metric", "finding", "baseline", "candidate", "estimate", "lower", "upper", "margin", "in words"];
    let table = Table { head: head.map(str::to_owned).into(), rows: verdict.reasons.iter().map(row).collect() };
    [Block::Text(text), Block::Table(table)]
}

/// Both arms' latencies, all windows of the stage added up.
fn distribution(rollout: &Rollout, stage: &StageRecord) -> Plot {
    let series = |name: String, of: fn(&Window) -> &WindowCounts| {
        let mut all = LatencySketch::default();
        stage.all().iter().for_each(|window| all.merge(&of(window).latency_us));
        // On an axis of the share that is slower, tails can be seen.
        let point = |q: &f64| Some(((1.0 - q) * 100.0, all.quantile(*q)? / 1_000.0));
        let mut points: Vec<_> = PERCENTILES.iter().filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name, points }
    };
    let mut plot = line(
        "Distribution of the latencies",
        "percent of requests that took longer",
        "milliseconds",
        true,
        vec![series(rollout.from.to_string(), |w| &w.baseline), series(rollout.to.to_string(), |w| &w.candidate)],
    );
    plot.x.log = true;
    plot
}

fn over_time(
    rollout: &Rollout,
    stage: &StageRecord,
    title: &str,
    unit: &str,
    of: impl Fn(&WindowCounts) -> Option<f64>,
) -> Block {
    let length = f64::from(window_ms(rollout)) / 60_000.0;
    let series = |name: String, arm: fn(&Window) -> &WindowCounts| {
        let windows = stage.all();
        let points = windows
            .iter()
            .enumerate()
            .map(|(at, window)| (at as f64 * length, of(arm(window)).unwrap_or(f64::NAN)))
            .collect();
        Series { name, points }
    };
    let both =
        vec![series(rollout.from.to_string(), |w| &w.baseline), series(rollout.to.to_string(), |w| &w.candidate)];
    Block::Plot(line(title, "minutes", unit, false, both))
}

fn line(title: &str, x: &str, y: &str, log: bool, series: Vec<Series>) -> Plot {
    let axis = |label: &str, log| Axis { label: label.to_owned(), log };
    Plot { title: title.to_owned(), x: axis(x, false), y: axis(y, log), series, kind: PlotKind::Line }
}
