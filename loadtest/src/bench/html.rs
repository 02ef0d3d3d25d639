//! The report as a page.

use embed_report::{Axis, Block, Page, Plot, PlotKind, Section, Series, Verdict, significant};

use super::{
    mix::{MixRow, Order},
    report::Report,
    subject::Subject,
};

/// The page of a bench.
pub(super) fn page(report: &Report) -> Page {
    let mut sections = Vec::new();
    for subject in report.subjects() {
        let blocks = [matrix_plots(report, subject), mix_plots(report, subject)].concat();
        sections.push(Section { title: subject.to_string(), blocks });
    }
    for (title, table) in report.tables() {
        let mut blocks = vec![Block::Table(table)];
        if title == super::report::PLANNER_TITLE {
            blocks.insert(0, planner_plot(report));
        }
        sections.push(Section { title, blocks });
    }
    Page { title: "embed-loadtest bench".to_owned(), summary: summary(report), facts: report.facts(), sections }
}

fn summary(report: &Report) -> Vec<Verdict> {
    let figure = |name: String, value: String| Verdict { name, value, ..Verdict::default() };
    let mut summary = Vec::new();
    for subject in report.subjects() {
        let cells = report.matrix.iter().filter(|cell| cell.subject == *subject);
        if let Some(best) = cells.max_by(|a, b| a.tokens_per_second.total_cmp(&b.tokens_per_second)) {
            let name = format!("{subject}: most tokens/s ({} texts of {} tokens)", best.batch, best.length);
            summary.push(figure(name, significant(best.tokens_per_second, 3)));
        }
        for row in report.mixes.iter().filter(|row| row.subject == *subject) {
            let name = |what: &str| format!("{subject}, {}: {what}", row.mix);
            let ratio = |value: f64| significant(value, 3);
            summary.push(figure(name("sorting ÷ arrival order"), ratio(row.sorted_over_arrival)));
            summary.push(figure(name("planner ÷ sorting"), ratio(row.planner_over_sorted)));
        }
    }
    summary
}

/// Speed over the texts of a batch, and over the tokens of a text.
fn matrix_plots(report: &Report, subject: &Subject) -> Vec<Block> {
    let cells: Vec<_> = report.matrix.iter().filter(|cell| cell.subject == *subject).collect();
    if cells.is_empty() {
        return Vec::new();
    }
    let lines = |title: &str, x: &str, y: &str, series: Vec<Series>| {
        let (x, y) = (axis(x, true), axis(y, false));
        Block::Plot(Plot { title: title.to_owned(), x, y, series, kind: PlotKind::Line })
    };
    let by_length = report.parameters.length.iter().map(|length| Series {
        name: format!("{length} tokens"),
        points: points(cells.iter().filter(|c| c.length == *length).map(|c| (c.batch as f64, c.texts_per_second))),
    });
    let by_batch = report.parameters.batch.iter().map(|batch| Series {
        name: format!("{batch} texts"),
        points: points(cells.iter().filter(|c| c.batch == *batch).map(|c| (c.length as f64, c.tokens_per_second))),
    });
    vec![
        lines("Texts a second, by the length of the texts", "texts in a batch", "texts/s", by_length.collect()),
        lines("Tokens a second, by the size of the batch", "tokens in a text", "tokens/s", by_batch.collect()),
    ]
}

/// Speed by order, for each mix.
fn mix_plots(report: &Report, subject: &Subject) -> Vec<Block> {
    let rows: Vec<&MixRow> = report.mixes.iter().filter(|row| row.subject == *subject).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let series = Order::ALL.into_iter().map(|order| {
        let speed = |row: &&MixRow| (row.mean_tokens, row.arms[order as usize].tokens_per_second);
        Series { name: order.as_str().to_owned(), points: points(rows.iter().map(speed)) }
    });
    let names: Vec<String> = rows.iter().map(|row| format!("{} {:.0}", row.mix, row.mean_tokens)).collect();
    vec![Block::Plot(Plot {
        title: format!("Tokens a second without padding, by order ({})", names.join(", ")),
        x: axis("tokens in a text, mean", false),
        y: axis("tokens/s", false),
        series: series.collect(),
        kind: PlotKind::Bars,
    })]
}

fn planner_plot(report: &Report) -> Block {
    let costs = report.planner.iter().map(|cost| (cost.waiting as f64, cost.us_per_text));
    Block::Plot(Plot {
        title: "The planner's own time, push and take".to_owned(),
        x: axis("texts that wait", true),
        y: axis("µs/text", false),
        series: vec![Series { name: "planner".to_owned(), points: points(costs) }],
        kind: PlotKind::Line,
    })
}

fn axis(label: &str, log: bool) -> Axis {
    Axis { label: label.to_owned(), log }
}

/// Points in order of x, as plots want them.
fn points(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut points: Vec<_> = points.collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}
