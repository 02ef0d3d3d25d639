//! `compare`: two reports side by side.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;

use crate::report::{Comparison, Document, save};

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// A report.json, or the folder that holds it
    a: PathBuf,
    /// The one to measure against it
    b: PathBuf,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl CompareArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        let comparison = Comparison::new(&Document::load(&self.a)?, &Document::load(&self.b)?);
        if let Some(folder) = &self.out {
            save(folder, &serde_json::to_string_pretty(&comparison)?, &comparison.page().render())?;
        }
        let mut stdout = io::stdout();
        if json {
            writeln!(stdout, "{}", serde_json::to_string(&comparison)?)?;
        } else {
            write!(stdout, "{comparison}")?;
        }
        Ok(true)
    }
}
