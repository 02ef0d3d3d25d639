//! A document for a terminal.

use std::fmt;

use embed_report::Table;

use super::{Document, Titled, page::tables};

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
            write!(f, "\n{}", table.aligned())?;
        }
        for Titled { title, head, rows } in &self.tables {
            write!(f, "\n{title}\n{}", Table { head: head.clone(), rows: rows.clone() }.aligned())?;
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
