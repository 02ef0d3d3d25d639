//! The page, its verdicts, tables and text.

use crate::{Block, Page, Section, Table, Verdict, escape::escape, plot};

const STYLE: &str = include_str!("style.css");
/// Longer tables are folded: a reader looks at the plots, and unfolds what is wanted of the rows.
const MOST_ROWS: usize = 24;

impl Page {
    /// The page as HTML. Everything that is shown is escaped; nothing is loaded from elsewhere.
    #[must_use]
    pub fn render(&self) -> String {
        let title = escape(&self.title);
        let sections: String = self.sections.iter().map(section).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}{}{}{sections}</body>\n</html>\n",
            tally(&self.summary),
            cards(&self.summary),
            facts(&self.facts),
        )
    }
}

/// How many targets are met, before which ones.
fn tally(verdicts: &[Verdict]) -> String {
    let judged = verdicts.iter().filter_map(|verdict| verdict.passed);
    let (met, all) = judged.fold((0, 0), |(met, all), passed| (met + usize::from(passed), all + 1));
    match all {
        0 => String::new(),
        1 if met == 1 => "<p class=\"tally\">The target is met.</p>\n".to_owned(),
        1 => "<p class=\"tally\">The target is missed.</p>\n".to_owned(),
        2 if met == 2 => "<p class=\"tally\">Both targets are met.</p>\n".to_owned(),
        _ if met == all => format!("<p class=\"tally\">All {all} targets are met.</p>\n"),
        _ => format!("<p class=\"tally\">{met} of {all} targets are met.</p>\n"),
    }
}

fn cards(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let card = |verdict: &Verdict| {
        // Said in words too, for those who do not see the colour.
        let (class, mark) = match verdict.passed {
            Some(true) => (" good", "met"),
            Some(false) => (" bad", "missed"),
            None => ("", ""),
        };
        let target = match (verdict.target.is_empty(), mark) {
            (true, mark) => format!("<span class=\"mark\">{mark}</span>"),
            (false, "") => escape(&verdict.target),
            (false, mark) => format!("<span class=\"mark\">{mark}</span>: {}", escape(&verdict.target)),
        };
        format!(
            "<li class=\"card{class}\"><div class=\"name\">{}</div><div class=\"value\">{}</div>\
             <div class=\"target\">{target}</div></li>\n",
            escape(&verdict.name),
            escape(&verdict.value),
        )
    };
    format!("<ul class=\"cards\">\n{}</ul>\n", verdicts.iter().map(card).collect::<String>())
}

fn facts(facts: &[(String, String)]) -> String {
    if facts.is_empty() {
        return String::new();
    }
    let fact =
        |(name, value): &(String, String)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
    format!("<dl>\n{}</dl>\n", facts.iter().map(fact).collect::<String>())
}

fn section(section: &Section) -> String {
    let mut out = format!("<section>\n<h2>{}</h2>\n", escape(&section.title));
    let both_plots = |a: &Block, b: &Block| matches!((a, b), (Block::Plot(_), Block::Plot(_)));
    for blocks in section.blocks.chunk_by(both_plots) {
        out += &match blocks {
            [Block::Text(text)] => format!("<p>{}</p>\n", escape(text)),
            [Block::Table(rows)] => table(rows),
            plots => format!("<div class=\"plots\">\n{}</div>\n", plots.iter().map(figure).collect::<String>()),
        };
    }
    out + "</section>\n"
}

fn figure(block: &Block) -> String {
    match block {
        Block::Plot(plot) => plot::render(plot) + "\n",
        Block::Text(_) | Block::Table(_) => String::new(),
    }
}

fn table(table: &Table) -> String {
    let columns = table.rows.iter().map(Vec::len).max().unwrap_or(0).max(table.head.len());
    let numbers: Vec<bool> = (0..columns).map(|column| table.is_numeric(column)).collect();
    let row = |cells: &[String], tag: &str| {
        let cell = |(cell, number): (&String, &bool)| {
            let class = if *number { " class=\"number\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>\n", cells.iter().zip(&numbers).map(cell).collect::<String>())
    };
    let body: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
    let head = row(&table.head, "th");
    let shown =
        format!("<div class=\"wide\"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n");
    match table.rows.len() {
        rows if rows > MOST_ROWS => format!("<details><summary>{rows} rows</summary>\n{shown}</details>\n"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Axis, Plot, PlotKind, Series};

    fn page(text: &str, points: Vec<(f64, f64)>, kind: PlotKind, log: bool) -> Page {
        let t = || text.to_owned();
        let axis = || Axis { label: t(), log };
        let series = || Series { name: t(), points: points.clone() };
        let plot = Plot { title: t(), x: axis(), y: axis(), series: vec![series(), series()], kind };
        let verdict = |passed| Verdict { name: t(), value: t(), target: t(), passed };
        let table = Table { head: vec![t(), t()], rows: vec![vec![t(), "1.5".to_owned()]] };
        Page {
            title: t(),
            summary: vec![verdict(Some(true)), verdict(Some(false)), verdict(None)],
            facts: vec![(t(), t())],
            sections: vec![Section {
                title: t(),
                blocks: vec![Block::Text(t()), Block::Table(table), Block::Plot(plot.clone()), Block::Plot(plot)],
            }],
        }
    }

    #[test]
    fn a_page_holds_what_it_was_given_and_asks_for_nothing() {
        let html = page("a & b", vec![(1.0, 2.0), (2.0, 3.0)], PlotKind::Line, false).render();
        assert_eq!(html.matches("<svg").count(), 2);
        assert!(html.contains("1 of 2 targets are met") && html.contains("a &amp; b"), "{html}");
        assert!(html.contains("<td class=\"number\">1.5</td>"), "{html}");
        for foreign in ["http:", "https:", "url(", "@import", "<script", "src=", "a & b"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn long_tables_are_folded_and_short_ones_are_not() {
        let with = |rows: usize| {
            let table = Table { head: vec!["n".to_owned()], rows: (0..rows).map(|n| vec![n.to_string()]).collect() };
            let blocks = vec![Block::Table(table)];
            Page { sections: vec![Section { title: "rows".to_owned(), blocks }], ..Page::default() }.render()
        };
        assert!(with(300).contains("<details><summary>300 rows</summary>") && with(300).contains(">299<"));
        assert!(!with(24).contains("<details>"));
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        let html = page("x", vec![(f64::NAN, 1.0)], PlotKind::Line, false).render();
        assert!(html.contains("no data"));
    }

    proptest! {
        #[test]
        fn no_text_changes_the_structure(text in "\\PC*|[<>&\"'/a-z ]*", bars: bool) {
            let kind = if bars { PlotKind::Bars } else { PlotKind::Line };
            let points = vec![(1.0, 2.0), (2.0, 3.0)];
            let count = |html: &str, c| html.matches(c).count();
            let (plain, other) = (page("x", points.clone(), kind, false).render(), page(&text, points, kind, false).render());
            // A text that is empty or a number is laid out differently, but with the same tags.
            let brackets = |html: &str| (count(html, '<'), count(html, '>'));
            prop_assert!(text.is_empty() || brackets(&plain) == brackets(&other));
        }

        #[test]
        fn no_value_breaks_a_plot(points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..20), bars: bool, log: bool) {
            let kind = if bars { PlotKind::Bars } else { PlotKind::Line };
            let html = page("x", points, kind, log).render();
            prop_assert!(!html.contains("NaN") && !html.contains("inf\""), "{html}");
        }
    }
}
