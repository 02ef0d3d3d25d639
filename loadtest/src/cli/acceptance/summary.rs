//! The report of `acceptance`.

use embed_report::{Axis, Plot, PlotKind, Series, significant};
use serde_json::{Map, Value, json};

use super::{
    AcceptanceArgs,
    play::{Compared, Played},
};
use crate::{
    acceptance::{BESIDE_BULK, Criteria, Expected, Judged, MANY_CALLERS, Measure, ONE_CALLER, cost_per_million},
    repeats::Repeats,
    report::{Better, Document, Figure, Group, curve},
};

/// What each load came to, medians.
const LATENCIES: [(&str, Measure); 5] = [
    ("p50", Measure::P50),
    ("p75", Measure::P75),
    ("p95", Measure::P95),
    ("p99", Measure::P99),
    ("p99.9", Measure::P999),
];

/// Everything.
pub(super) fn document(args: &AcceptanceArgs, criteria: &Criteria, played: &Played, judged: &[Judged]) -> Document {
    let count = |met: Option<bool>| judged.iter().filter(|one| one.met == met).count();
    let (met, missed, unknown) = (count(Some(true)), count(Some(false)), count(None));
    let title = format!("Acceptance: {met} criteria met, {missed} missed, {unknown} not measured");
    let mut document = Document::begin("acceptance", title, parameters(args, criteria, played));
    document.verdicts = judged.iter().map(Judged::verdict).collect();
    document.figures =
        [repeats(judged), patterns(criteria, played), expected(criteria), comparison(args, played)].concat();
    document.plots = plots(criteria, played);
    document.notes = vec![format!(
        "Medians of {} repeats, everything in turns; a criterion is judged by its median. The interval is where the mean of many repeats is with a \
         confidence of 95 % (Student's t).",
        args.repeats
    )];
    if !played.bulk.values().is_empty() {
        document.notes.push(format!("Bulk beside the last pattern: {} texts/s.", played.bulk.describe(3)));
    }
    document.notes.extend(played.notes.iter().cloned());
    document.detail.insert("criteria".to_owned(), json!(judged));
    document
}

fn parameters(args: &AcceptanceArgs, criteria: &Criteria, played: &Played) -> Map<String, Value> {
    let mut parameters = played.candidate.target.parameters.clone();
    parameters.remove("subject");
    let more = json!({
        "candidate": played.candidate.describe(),
        "baseline": played.baseline.as_ref().map(super::arm::Arm::describe),
        "repeats": args.repeats,
        "duration of a load, s": args.duration.as_secs_f64(),
        "callers": criteria.callers,
        "price, an hour": args.price,
        "baseline's price, an hour": args.baseline_price,
    });
    parameters.extend(more.as_object().cloned().unwrap_or_default());
    parameters
}

/// The criteria's figures, with how far they vary.
fn repeats(judged: &[Judged]) -> Vec<Group> {
    let group = |one: &Judged| {
        let Judged { name, unit, values, .. } = one;
        let (from, to) = values.interval();
        let figure = |name, value| Figure::new(name, "", value, Better::Neither);
        Group {
            name: if unit.is_empty() { name.clone() } else { format!("{name}, {unit}") },
            figures: vec![
                figure("median", values.median()),
                figure("least", values.least()),
                figure("most", values.most()),
                figure("95 % from", from),
                figure("95 % to", to),
                figure("repeats", values.values().len() as f64),
            ],
        }
    };
    judged.iter().map(group).collect()
}

/// What each load came to.
fn patterns(criteria: &Criteria, played: &Played) -> Vec<Group> {
    let names = criteria.patterns.iter().map(|pattern| pattern.name.as_str());
    let group = |name: &str| {
        let of = |measure| played.measured.median(measure, name);
        let mut figures = vec![
            Figure::new("answered", "/s", of(Measure::Answered), Better::Higher),
            Figure::new("errors", "%", of(Measure::ErrorRate), Better::Lower),
            Figure::new("texts in a run", "", of(Measure::BatchSize), Better::Neither),
            Figure::new("GPU", "%", of(Measure::GpuUtilisation), Better::Neither),
        ];
        figures.extend(LATENCIES.map(|(name, measure)| Figure::new(name, "ms", of(measure), Better::Lower)));
        Group { name: name.to_owned(), figures }
    };
    names.chain([BESIDE_BULK, ONE_CALLER, MANY_CALLERS]).map(group).collect()
}

/// What the criteria's file expects of the patterns.
fn expected(criteria: &Criteria) -> Vec<Group> {
    let with = criteria.patterns.iter().filter(|pattern| pattern.expected != Expected::default());
    let group = |pattern: &crate::acceptance::TrafficPattern| {
        let Expected { batch_size, gpu_percent, p50, p75, p95, p99, p999 } = pattern.expected;
        let latencies = LATENCIES.iter().zip([p50, p75, p95, p99, p999]);
        let figure =
            |name, unit, value: Option<f64>| Figure::new(name, unit, value.unwrap_or(f64::NAN), Better::Neither);
        let mut figures = vec![
            figure("calls", "/s", Some(pattern.rate)),
            figure("texts in a run", "", batch_size),
            figure("GPU", "%", gpu_percent),
        ];
        figures.extend(latencies.map(|((name, _), value)| figure(name, "ms", value)));
        Group { name: format!("{}, as expected", pattern.name), figures }
    };
    with.map(group).collect()
}

/// The baseline against the candidate: latency by texts in a call, throughput, cost.
fn comparison(args: &AcceptanceArgs, played: &Played) -> Vec<Group> {
    let Some(baseline) = &played.baseline else { return Vec::new() };
    let (ours, theirs) = (&played.candidate.name, &baseline.name);
    let row = |name: String, compared: &Compared, (unit, better), times: Repeats| Group {
        name,
        figures: vec![
            Figure::new(theirs, unit, compared.baseline.median(), better),
            Figure::new(ours, unit, compared.candidate.median(), better),
            Figure::new("speed-up", "x", times.median(), Better::Higher),
            Figure::new("least", "x", times.least(), Better::Neither),
            Figure::new("most", "x", times.most(), Better::Neither),
        ],
    };
    let sizes = played.sizes.iter().map(|size| {
        let texts = if size.texts == 1 { "text" } else { "texts" };
        let name = format!("one caller, {} {texts} in a call: p50", size.texts);
        row(name, size, ("ms", Better::Lower), size.baseline.over(&size.candidate))
    });
    let capacity = &played.capacity;
    let times = capacity.candidate.over(&capacity.baseline);
    let busy = row("many callers".to_owned(), capacity, ("texts/s", Better::Higher), times);
    let cost =
        |price: Option<f64>, rates: &Repeats| price.map_or(f64::NAN, |price| cost_per_million(price, rates.median()));
    let price = |name: &str, price: Option<f64>, rates: &Repeats| Group {
        name: name.to_owned(),
        figures: vec![
            Figure::new("price of an hour", "$", price.unwrap_or(f64::NAN), Better::Neither),
            Figure::new("a million texts", "$", cost(price, rates), Better::Lower),
        ],
    };
    let prices = [price(theirs, args.baseline_price, &capacity.baseline), price(ours, args.price, &capacity.candidate)];
    sizes.chain([busy]).chain(prices).collect()
}

fn plots(criteria: &Criteria, played: &Played) -> Vec<Plot> {
    let places = criteria.patterns.iter().map(|pattern| pattern.name.as_str()).chain([BESIDE_BULK, MANY_CALLERS]);
    let curves = places.filter_map(|name| {
        let latencies = played.latencies.get(name)?;
        Some(Series { name: name.to_owned(), points: curve(latencies) })
    });
    let line = |title: &str, x: &str, y: &str, series: Vec<Series>| Plot {
        title: title.to_owned(),
        x: Axis { label: x.to_owned(), log: true },
        y: Axis { label: y.to_owned(), log: true },
        series,
        kind: PlotKind::Line,
    };
    let by_rate = |measure: Measure| {
        let point = |pattern: &crate::acceptance::TrafficPattern| {
            (pattern.rate, played.measured.median(measure, &pattern.name))
        };
        criteria.patterns.iter().map(point).collect()
    };
    let latencies = LATENCIES.map(|(name, measure)| Series { name: name.to_owned(), points: by_rate(measure) });
    let wanted = criteria.patterns.iter().filter_map(|p| Some((p.rate, p.expected.batch_size?))).collect();
    let mut plots = vec![
        line("Latency by share of calls", "one call in … takes longer (100: p99)", "ms", curves.collect()),
        line("Latency by load", "calls/s", "ms", latencies.into()),
        line(
            "Texts in a run, by load",
            "calls/s",
            "texts",
            vec![
                Series { name: "measured".to_owned(), points: by_rate(Measure::BatchSize) },
                Series { name: "expected".to_owned(), points: wanted },
            ],
        ),
    ];
    if let Some(baseline) = &played.baseline {
        let series = |name: &str, of: fn(&Compared) -> &Repeats| Series {
            name: name.to_owned(),
            points: played.sizes.iter().map(|size| (size.texts as f64, of(size).median())).collect(),
        };
        let both =
            vec![series(&baseline.name, |size| &size.baseline), series(&played.candidate.name, |size| &size.candidate)];
        let times = played.sizes.first().map(|size| size.baseline.median() / size.candidate.median());
        let title = times.map_or_else(String::new, |times| format!(" ({} x for one text)", significant(times, 3)));
        plots.push(line(&format!("One caller's latency, p50{title}"), "texts in a call", "ms", both));
    }
    plots
}
