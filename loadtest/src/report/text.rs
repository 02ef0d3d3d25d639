//! A document, and tables, for a terminal.

use std::fmt;

use embed_report::Table;

use super::{Document, page::tables};

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for verdict in &self.verdicts {
            let mark = match verdict.passed {
                Some(true) => "  met",
                Some(false) => "  MISSED",
                None => "",
            };
            let target =
                if verdict.target.is_empty() { String::new() } else { format!(" (wanted: {})", verdict.target) };
            writeln!(f, "  {}: {}{target}{mark}", verdict.name, verdict.value)?;
        }
        for table in tables(&self.figures) {
            write!(f, "\n{}", aligned(&table))?;
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// A table in columns: the first to the left, the others to the right.
pub(super) fn aligned(table: &Table) -> String {
    let rows = || [&table.head].into_iter().chain(&table.rows);
    let width = |column: usize| rows().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..table.head.len()).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cell = |(n, cell): (usize, &String)| match (n, widths.get(n).copied().unwrap_or_default()) {
            (0, width) => format!("  {cell:<width$}"),
            (_, width) => format!("   {cell:>width$}"),
        };
        let line: String = row.iter().enumerate().map(cell).collect();
        line.trim_end().to_owned() + "\n"
    };
    rows().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let table = Table { head: row(["", "p50"]), rows: vec![row(["latency", "1"]), row(["é", "10.25"])] };
        assert_eq!(aligned(&table), "              p50\n  latency       1\n  é         10.25\n");
    }
}
