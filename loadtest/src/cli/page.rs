//! `page`: the page of a report, made anew. Whatever writes a report in JSON, such as the summary of a GPU run, has its page from here.

use std::path::PathBuf;

use clap::Args;

use super::session::finish;
use crate::report::Document;

#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// A report.json, or the folder that holds it
    report: PathBuf,
    /// Write report.json and report.html into this folder [default: the report's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl PageArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        let document = Document::load(&self.report)?;
        let folder = if self.report.is_dir() { Some(self.report.as_path()) } else { self.report.parent() };
        finish(&document, self.out.as_deref().or(folder), json)?;
        Ok(true)
    }
}
