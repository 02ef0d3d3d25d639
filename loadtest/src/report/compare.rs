//! Two documents side by side.

use std::fmt;

use embed_report::{Block, Page, Plot, Section, Series, Table, Verdict};
use serde::Serialize;

use super::{
    Better, Document, Figure,
    page::{facts_of, show},
};

/// Tells the format of a comparison.
const SCHEMA: &str = "embed-loadtest-compare/1";
/// A ratio that is nearer to 1 is not called better or worse: no two runs are the same.
const NOTABLE: f64 = 0.05;

/// What is shown large.
const HEADLINES: [(&str, &str); 5] = [
    ("calls", "goodput, /s"),
    ("latency", "p50, ms"),
    ("latency", "p99, ms"),
    ("latency", "p99.9, ms"),
    ("bulk", "stored, texts/s"),
];

/// Two documents, `b` measured against `a`.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Which format this is.
    pub schema: String,
    /// The title of the first.
    pub a: String,
    /// The title of the second.
    pub b: String,
    /// The figures that either has.
    pub rows: Vec<Row>,
    /// Parameters and facts of the machine that are not the same: name, and the values of both.
    pub differences: Vec<(String, String, String)>,
    #[serde(skip)]
    plots: Vec<Plot>,
}

/// One figure of both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What it is of.
    pub group: String,
    /// Its name and unit.
    pub name: String,
    /// The value of the first.
    pub a: Option<f64>,
    /// The value of the second.
    pub b: Option<f64>,
    /// `b / a`; `None` if that is nothing.
    pub ratio: Option<f64>,
    /// `better` or `worse`, where it is notable.
    pub verdict: Option<&'static str>,
}

impl Comparison {
    /// Compares.
    #[must_use]
    pub fn new(a: &Document, b: &Document) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            a: a.title.clone(),
            b: b.title.clone(),
            rows: rows(a, b),
            differences: differences(a, b),
            plots: plots(a, b),
        }
    }

    /// The page.
    #[must_use]
    pub fn page(&self) -> Page {
        let section = |title: &str, blocks| Section { title: title.to_owned(), blocks };
        let differences = match self.differences.is_empty() {
            true => Block::Text("None: parameters and machine are the same.".to_owned()),
            false => Block::Table(self.differences_table()),
        };
        Page {
            title: "Two reports side by side".to_owned(),
            summary: self.headlines(),
            facts: vec![("A".to_owned(), self.a.clone()), ("B".to_owned(), self.b.clone())],
            sections: vec![
                section("Figures", vec![Block::Table(self.table())]),
                section("Plots", self.plots.iter().cloned().map(Block::Plot).collect()),
                section("What differs", vec![differences]),
            ],
        }
    }

    /// The ratios that people look for first, where there are such.
    fn headlines(&self) -> Vec<Verdict> {
        let find = |(group, name): &(&str, &str)| {
            let row = self.rows.iter().find(|row| row.group == *group && row.name == *name)?;
            let verdict = row.verdict.map_or_else(String::new, |verdict| format!(" ({verdict})"));
            Some(Verdict {
                name: format!("{group}: {name}, B / A"),
                value: format!("{:.2}", row.ratio?),
                target: format!("{} → {}{verdict}", show(row.a), show(row.b)),
                passed: None,
            })
        };
        HEADLINES.iter().filter_map(find).collect()
    }

    fn table(&self) -> Table {
        let row = |row: &Row| {
            let ratio = row.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            let verdict = row.verdict.unwrap_or_default().to_owned();
            vec![format!("{}: {}", row.group, row.name), show(row.a), show(row.b), ratio, verdict]
        };
        let head = ["", "A", "B", "B / A", ""].map(str::to_owned).to_vec();
        Table { head, rows: self.rows.iter().map(row).collect() }
    }

    fn differences_table(&self) -> Table {
        let rows = self.differences.iter().cloned().map(|(name, a, b)| vec![name, a, b]);
        Table { head: ["", "A", "B"].map(str::to_owned).to_vec(), rows: rows.collect() }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "A: {}\nB: {}\n\n{}", self.a, self.b, self.table().aligned())?;
        if self.differences.is_empty() {
            return Ok(());
        }
        write!(f, "\n{}", self.differences_table().aligned())
    }
}

fn figures(document: &Document) -> impl Iterator<Item = (&str, &Figure)> {
    document.figures.iter().flat_map(|group| group.figures.iter().map(|figure| (group.name.as_str(), figure)))
}

/// In the order of the first, then what only the second has.
fn rows(a: &Document, b: &Document) -> Vec<Row> {
    let find = |document, (group, figure): (&str, &Figure)| {
        figures(document).find(|(g, f)| *g == group && f.heading() == figure.heading()).and_then(|(_, f)| f.value)
    };
    let only_b =
        figures(b).filter(|(group, figure)| !figures(a).any(|(g, f)| g == *group && f.heading() == figure.heading()));
    let row = |(group, figure): (&str, &Figure)| {
        let (a, b) = (find(a, (group, figure)), find(b, (group, figure)));
        let ratio = a.zip(b).and_then(|(a, b)| ratio(a, b));
        let verdict = ratio.and_then(|ratio| verdict(ratio, figure.better));
        Row { group: group.to_owned(), name: figure.heading(), a, b, ratio, verdict }
    };
    figures(a).chain(only_b).map(row).collect()
}

/// Nothing is as much as nothing, and nothing is a multiple of it.
fn ratio(a: f64, b: f64) -> Option<f64> {
    if a == b { Some(1.0) } else { Some(b / a).filter(|ratio| ratio.is_finite() && *ratio >= 0.0) }
}

fn verdict(ratio: f64, better: Better) -> Option<&'static str> {
    match better {
        _ if (ratio - 1.0).abs() < NOTABLE => None,
        Better::Neither => None,
        Better::Higher => Some(if ratio > 1.0 { "better" } else { "worse" }),
        Better::Lower => Some(if ratio < 1.0 { "better" } else { "worse" }),
    }
}

fn differences(a: &Document, b: &Document) -> Vec<(String, String, String)> {
    let facts = |document: &Document| {
        let mut facts = document.machine.facts();
        facts.push(("command".to_owned(), document.command.clone()));
        facts.extend(facts_of(&document.parameters));
        facts
    };
    let (a, b) = (facts(a), facts(b));
    let value = |facts: &[(String, String)], name: &str| {
        facts.iter().find(|(n, _)| n == name).map_or_else(|| "–".to_owned(), |(_, value)| value.clone())
    };
    let only_b = b.iter().filter(|(name, _)| !a.iter().any(|(n, _)| n == name));
    let both = a.iter().chain(only_b).map(|(name, _)| (name.clone(), value(&a, name), value(&b, name)));
    both.filter(|(_, a, b)| a != b).collect()
}

/// Plots of the same title, both documents' series in one.
fn plots(a: &Document, b: &Document) -> Vec<Plot> {
    let named = |prefix: &str, plot: &Plot| {
        let rename = |s: &Series| Series { name: format!("{prefix}: {}", s.name), points: s.points.clone() };
        plot.series.iter().map(rename).collect::<Vec<_>>()
    };
    let both = a.plots.iter().filter_map(|first| {
        let second = b.plots.iter().find(|second| second.title == first.title && second.kind == first.kind)?;
        let series = named("A", first).into_iter().chain(named("B", second)).collect();
        Some(Plot { series, ..first.clone() })
    });
    both.collect()
}

#[cfg(test)]
mod tests {
    use embed_report::{Axis, PlotKind};
    use proptest::prelude::*;

    use super::*;
    use crate::report::Group;

    fn document(values: &[f64], better: Better) -> Document {
        let figure = |(n, value): (usize, &f64)| Figure::new(&format!("f{n}"), "ms", *value, better);
        let axis = Axis::default();
        let series = vec![Series { name: "s".into(), points: vec![(1.0, 2.0)] }];
        Document {
            figures: vec![Group { name: "g".into(), figures: values.iter().enumerate().map(figure).collect() }],
            plots: vec![Plot { title: "p".into(), x: axis.clone(), y: axis, series, kind: PlotKind::Line }],
            ..Document::begin("run", "t".into(), serde_json::Map::new())
        }
    }

    #[test]
    fn figures_are_matched_and_judged() {
        let comparison = Comparison::new(
            &document(&[10.0, 0.0, 0.0], Better::Lower),
            &document(&[5.0, 0.0, 1.0, 7.0], Better::Lower),
        );
        let found: Vec<_> = comparison.rows.iter().map(|row| (row.ratio, row.verdict)).collect();
        assert_eq!(found, [(Some(0.5), Some("better")), (Some(1.0), None), (None, None), (None, None)]);
        assert_eq!(comparison.rows[3].a, None);
        assert_eq!(comparison.plots[0].series.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["A: s", "B: s"]);
    }

    #[test]
    fn other_parameters_are_named() {
        let mut b = document(&[], Better::Lower);
        b.parameters.insert("rate".into(), 12.into());
        let comparison = Comparison::new(&document(&[], Better::Lower), &b);
        assert_eq!(comparison.differences, [("rate".to_owned(), "–".to_owned(), "12".to_owned())]);
        assert!(comparison.page().render().contains("What differs"));
    }

    proptest! {
        #[test]
        fn a_document_is_as_good_as_itself(values in prop::collection::vec(any::<f64>(), 0..8)) {
            let document = document(&values, Better::Higher);
            let comparison = Comparison::new(&document, &document);
            prop_assert!(comparison.differences.is_empty());
            for row in comparison.rows {
                prop_assert_eq!(row.ratio.map(|ratio| format!("{ratio:.2}")), row.a.map(|_| "1.00".to_owned()));
            }
        }

        #[test]
        fn a_document_reads_back(values in prop::collection::vec(-1_000_000_000i32..1_000_000_000, 0..8)) {
            // Other numbers may come back with another last bit.
            let values: Vec<f64> = values.into_iter().map(|value| f64::from(value) / 4.0).collect();
            let document = document(&values, Better::Higher);
            let read: Document = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
            prop_assert_eq!(read, document);
        }
    }
}
