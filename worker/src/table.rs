//! Tables for people.

use std::fmt::Write;

/// A table of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// What it shows; may be empty.
    pub(crate) title: String,
    /// The columns' names.
    pub(crate) head: Vec<String>,
    /// The cells, row by row.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: &str, head: &[&str]) -> Self {
        Self { title: title.to_owned(), head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table with its columns aligned: numbers to the right, names to the left.
    pub(crate) fn aligned(&self) -> String {
        let mut out = match self.title.as_str() {
            "" => String::new(),
            title => format!("{title}\n"),
        };
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let columns: Vec<(usize, bool)> = (0..self.head.len())
            .map(|column| {
                let width = lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
                let number = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit());
                (width.unwrap_or_default(), self.rows.iter().filter_map(|row| row.get(column)).all(number))
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
        let mut table = Table::new("speed", &["model", "texts/s"]);
        table.row(["m".into(), "1,234".into()]);
        table.row(["longer".into(), "9.8".into()]);
        assert_eq!(table.aligned(), "speed\n  model   texts/s\n  m         1,234\n  longer      9.8\n");
    }
}
