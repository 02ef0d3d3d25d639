//! Tables, and how they look as text.

use std::fmt::Write;

/// A table. Columns that hold numbers only are aligned to the right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The columns' headings.
    pub head: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether all cells of a column that hold something begin as numbers do, and there is one.
    #[must_use]
    pub fn is_numeric(&self, column: usize) -> bool {
        let blank = |cell: &str| cell.is_empty() || cell == "–";
        let mut cells = self.rows.iter().filter_map(|row| row.get(column)).filter(|cell| !blank(cell)).peekable();
        cells.peek().is_some()
            && cells.all(|cell| {
                cell.trim_start_matches(['+', '-', '−', '×', '<', '>', ' ']).starts_with(|c: char| c.is_ascii_digit())
            })
    }

    /// The table as text, with its columns aligned: numbers to the right, names to the left.
    #[must_use]
    pub fn aligned(&self) -> String {
        let mut out = String::new();
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let columns: Vec<(usize, bool)> = (0..self.head.len())
            .map(|column| {
                let width = lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
                (width.unwrap_or_default(), self.is_numeric(column))
            })
            .collect();
        for line in lines() {
            let mut text = String::new();
            for (cell, (width, is_number)) in line.iter().zip(&columns) {
                let written =
                    if *is_number { write!(text, "  {cell:>width$}") } else { write!(text, "  {cell:<width$}") };
                written.expect("writing to a string");
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["model", "texts/s"]);
        table.row(["m".into(), "1,234".into()]);
        table.row(["longer".into(), "9.8".into()]);
        table.row(["é".into(), "–".into()]);
        assert_eq!(table.aligned(), "  model   texts/s\n  m         1,234\n  longer      9.8\n  é             –\n");
    }
}
