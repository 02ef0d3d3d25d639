//! A document as an HTML page.

use embed_report::{Block, Page, Section, Table, significant};
use serde_json::{Map, Value};

use super::{Document, Group, Titled};

impl Document {
    /// The page.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut facts = vec![("started".to_owned(), self.started.clone())];
        facts.extend(self.machine.facts());
        facts.extend(facts_of(&self.parameters));
        let tables = tables(&self.figures).into_iter().map(Block::Table);
        let notes = self.notes.iter().cloned().map(Block::Text);
        let section = |title: &str, blocks| Section { title: title.to_owned(), blocks };
        let titled = self.tables.iter().map(|Titled { title, head, rows }| {
            section(title, vec![Block::Table(Table { head: head.clone(), rows: rows.clone() })])
        });
        let sections = [
            section("Plots", self.plots.iter().cloned().map(Block::Plot).collect()),
            section("Figures", tables.chain(notes).collect()),
        ];
        let sections = sections.into_iter().filter(|section| !section.blocks.is_empty()).chain(titled);
        facts.retain(|(_, value)| !value.is_empty());
        Page { title: self.title.clone(), summary: self.verdicts.clone(), facts, sections: sections.collect() }
    }
}

/// Parameters as they are shown.
pub(super) fn facts_of(parameters: &Map<String, Value>) -> Vec<(String, String)> {
    let show = |value: &Value| match (value.as_str(), value.as_f64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(number)) => significant(number, 6),
        (None, None) => value.to_string(),
    };
    parameters.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), show(value))).collect()
}

/// One table for all groups that have the same figures.
pub(super) fn tables(groups: &[Group]) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for group in groups {
        let head: Vec<String> = [String::new()].into_iter().chain(group.figures.iter().map(|f| f.heading())).collect();
        let cells = group.figures.iter().map(|figure| show(figure.value));
        let row = [group.name.clone()].into_iter().chain(cells).collect();
        match tables.iter_mut().find(|table| table.head == head) {
            Some(table) => table.rows.push(row),
            None => tables.push(Table { head, rows: vec![row] }),
        }
    }
    tables
}

/// A value as it is shown.
pub(super) fn show(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| significant(value, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Better, Figure};

    #[test]
    fn groups_with_the_same_figures_share_a_table() {
        let group = |name: &str, unit: &str| Group {
            name: name.to_owned(),
            figures: vec![
                Figure::new("p50", unit, 1.5, Better::Lower),
                Figure::new("p99", unit, f64::NAN, Better::Lower),
            ],
        };
        let tables = tables(&[group("a", "ms"), group("b", "s"), group("c", "ms")]);
        assert_eq!(tables.len(), 2);
        assert_eq!(tables[0].head, ["", "p50, ms", "p99, ms"]);
        assert_eq!(tables[0].rows, [["a", "1.5", "–"], ["c", "1.5", "–"]]);
    }
}
