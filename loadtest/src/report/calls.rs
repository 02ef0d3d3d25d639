//! Online calls, bulk jobs and memory, as figures and plots.

use embed_report::{Axis, Plot, PlotKind, Series, significant};
use serde_json::{Map, Value, json};

use super::{Better, Figure, Group, Quantiles, curve};
use crate::{
    memory::{Process, growth::growth},
    scenario::Observed,
    tally::Second,
};

/// Something that was seen, and what it is called among others: empty if there are none.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a>(pub &'a str, pub &'a Observed);

impl Named<'_> {
    fn of(&self, what: &str) -> String {
        if self.0.is_empty() { what.to_owned() } else { format!("{what}, {}", self.0) }
    }
}

/// The figures, in the order in which they matter.
#[must_use]
pub fn figures(all: &[Named<'_>]) -> Vec<Group> {
    let mut groups: Vec<Group> = all.iter().map(|named| calls(named.of("calls"), named.1)).collect();
    for named in all {
        let tally = &named.1.tally;
        groups.push(Quantiles::of(&tally.latency).group(named.of("latency"), Better::Lower));
        if !tally.refusal.is_empty() {
            groups.push(Quantiles::of(&tally.refusal).group(named.of("refusals"), Better::Lower));
        }
        groups.push(Quantiles::of(&tally.lateness).group(named.of("generator late"), Better::Neither));
    }
    for named in all {
        groups.extend(bulk(named.of("bulk"), named.1));
        groups.extend(tokens(named.of("texts"), named.1));
        groups.extend(named.1.processes.iter().map(|process| memory(named.of(&process.label()), process, named.1)));
    }
    groups
}

fn calls(name: String, seen: &Observed) -> Group {
    let (tally, seconds) = (&seen.tally, seen.duration.as_secs_f64());
    let [due, answered, good, refused, failed]: [fn(&Second) -> u64; 5] =
        [|s| s.offered, |s| s.answered, |s| s.good, |s| s.refused, |s| s.failed];
    let total = |of: fn(&Second) -> u64| tally.total(of) as f64;
    Group {
        name,
        figures: vec![
            Figure::new("due", "", total(due), Better::Neither),
            Figure::new("refused", "", total(refused), Better::Lower),
            Figure::new("failed", "", total(failed), Better::Lower),
            Figure::new("offered", "/s", total(due) / seconds, Better::Neither),
            Figure::new("answered", "/s", total(answered) / seconds, Better::Higher),
            Figure::new("goodput", "/s", total(good) / seconds, Better::Higher),
            Figure::new("in time", "%", total(good) / total(due) * 100.0, Better::Higher),
        ],
    }
}

fn bulk(name: String, seen: &Observed) -> Option<Group> {
    let bulk = seen.bulk.as_ref()?;
    let failed = bulk.errors.values().sum::<u64>() as f64;
    let figures = vec![
        Figure::new("stored", "texts/s", bulk.per_second(), Better::Higher),
        Figure::new("jobs failed", "", failed, Better::Lower),
    ];
    Some(Group { name, figures })
}

fn tokens(name: String, seen: &Observed) -> Option<Group> {
    let tokens = &seen.tally.tokens;
    let figure = |name, value| Figure::new(name, "tokens", value, Better::Neither);
    let figures = vec![
        figure("mean", tokens.mean()),
        figure("median", tokens.value_at_quantile(0.5) as f64),
        figure("longest", tokens.max() as f64),
    ];
    (!tokens.is_empty()).then_some(Group { name, figures })
}

fn memory(name: String, process: &Process, seen: &Observed) -> Group {
    let growth = growth(&process.samples, seen.duration);
    let settled = growth.map_or(f64::NAN, |growth| growth.settled);
    let share = growth.map_or(f64::NAN, |growth| growth.share * 100.0);
    let figures = vec![
        Figure::new("settled", "MB", settled, Better::Lower),
        Figure::new("highest", "MB", process.max(), Better::Lower),
        Figure::new("growth", "%", share, Better::Lower),
    ];
    Group { name, figures }
}

/// Calls, latencies and bulk texts over time, and latencies by their share.
#[must_use]
pub fn call_plots(named: Named<'_>, slo_ms: f64) -> Vec<Plot> {
    let seconds = &named.1.tally.seconds;
    let line = |name: &str, of: &dyn Fn(&Second) -> f64| Series {
        name: name.to_owned(),
        points: seconds.iter().enumerate().map(|(n, second)| (n as f64, of(second))).collect(),
    };
    let time = |title: String, unit: &str, log, series| Plot {
        title,
        x: Axis { label: "seconds".to_owned(), log: false },
        y: Axis { label: unit.to_owned(), log },
        series,
        kind: PlotKind::Line,
    };
    let rates = vec![
        line("offered", &|second| second.offered as f64),
        line("answered", &|second| second.answered as f64),
        line(&format!("within {} ms", significant(slo_ms, 4)), &|second| second.good as f64),
        line("errors", &|second| (second.refused + second.failed) as f64),
    ];
    let latencies = [0.5, 0.99].map(|quantile| {
        line(&format!("p{}", quantile * 100.0), &move |second| second.quantile_ms(quantile).unwrap_or(f64::NAN))
    });
    let mut plots = vec![
        time(named.of("Calls per second"), "calls/s", false, rates),
        time(named.of("Latency over time"), "ms", true, latencies.into()),
        quantile_plot(&named),
    ];
    if let Some(bulk) = &named.1.bulk {
        let points = bulk.seconds.iter().enumerate().map(|(n, texts)| (n as f64, *texts as f64)).collect();
        let series = vec![Series { name: "stored".to_owned(), points }];
        plots.push(time(named.of("Bulk texts per second"), "texts/s", false, series));
    }
    plots
}

fn quantile_plot(named: &Named<'_>) -> Plot {
    let tally = &named.1.tally;
    let mut series = vec![Series { name: "latency".to_owned(), points: curve(&tally.latency) }];
    if !tally.refusal.is_empty() {
        series.push(Series { name: "refusals".to_owned(), points: curve(&tally.refusal) });
    }
    Plot {
        title: named.of("Latency by share of calls"),
        x: Axis { label: "one call in … takes longer (100: p99)".to_owned(), log: true },
        y: Axis { label: "ms".to_owned(), log: true },
        series,
        kind: PlotKind::Line,
    }
}

/// Memory over time; `None` if nobody was watched.
#[must_use]
pub fn memory_plot(named: Named<'_>) -> Option<Plot> {
    let series = named.1.processes.iter();
    let series: Vec<_> = series.map(|p| Series { name: p.label(), points: p.samples.clone() }).collect();
    (!series.is_empty()).then(|| Plot {
        title: named.of("Resident memory"),
        x: Axis { label: "seconds, warm-up included".to_owned(), log: false },
        y: Axis { label: "MB".to_owned(), log: false },
        series,
        kind: PlotKind::Line,
    })
}

/// The most asked-for figures by name, for programs that read one report.
#[must_use]
pub fn summary(seen: &Observed) -> Map<String, Value> {
    let (tally, seconds) = (&seen.tally, seen.duration.as_secs_f64());
    let per_second = |of: fn(&Second) -> u64| tally.total(of) as f64 / seconds;
    let mut summary = json!({
        "due": tally.total(|s| s.offered),
        "answered": tally.total(|s| s.answered),
        "offered_per_second": per_second(|s| s.offered),
        "answered_per_second": per_second(|s| s.answered),
        "goodput_per_second": per_second(|s| s.good),
        "errors": tally.errors,
        "latency_ms": Quantiles::of(&tally.latency),
        "refused_ms": Quantiles::of(&tally.refusal),
        "generator_late_ms": Quantiles::of(&tally.lateness),
        "seconds": seconds,
    });
    if let Some(bulk) = &seen.bulk {
        summary["bulk_texts_per_second"] = bulk.per_second().into();
        summary["bulk_errors"] = json!(bulk.errors);
    }
    summary.as_object().cloned().unwrap_or_default()
}
