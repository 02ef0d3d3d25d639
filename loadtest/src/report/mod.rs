//! What was measured, for people and for programs: one document for all commands, so that any two can be compared.
//!
//! | module | does |
//! |---|---|
//! | `machine` | where it was measured |
//! | `distribution` | quantiles of a histogram |
//! | `calls` | online calls, bulk jobs and memory, as figures and plots |
//! | `page`, `text` | a document as HTML, and for a terminal |
//! | `compare` | two documents side by side |

mod calls;
mod compare;
mod distribution;
mod machine;
mod page;
mod text;

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use embed_report::{Plot, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use calls::{Named, call_plots, figures, memory_plot, summary};
pub use compare::{Comparison, Row};
pub use distribution::{Quantiles, curve};
pub use machine::Machine;

/// Tells the format of a document. Another one is not read.
pub const SCHEMA: &str = "embed-loadtest/1";
/// The document's name in its folder.
const JSON_FILE: &str = "report.json";
/// The page's.
const HTML_FILE: &str = "report.html";

/// The result of one command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: String,
    /// The command that measured: `run`, `soak`, `overload`.
    pub command: String,
    /// What was measured, for people.
    pub title: String,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// What was asked for.
    pub parameters: Map<String, Value>,
    /// Where.
    pub machine: Machine,
    /// What it came to, first things first.
    pub verdicts: Vec<Verdict>,
    /// All figures.
    pub figures: Vec<Group>,
    /// Curves.
    pub plots: Vec<Plot>,
    /// Rows that are no figures with a unit each, below the plots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Titled>,
    /// What else there is to say, in sentences.
    pub notes: Vec<String>,
    /// What only this command has.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

/// A table with its title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Titled {
    /// What its rows are.
    pub title: String,
    /// The columns' headings.
    pub head: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

/// Figures of one thing. Groups that have the same figures are rows of one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What the figures are of.
    pub name: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name, unique in its group.
    pub name: String,
    /// Its unit, empty for a count.
    pub unit: String,
    /// Its value; `None` if there was nothing to take it from.
    pub value: Option<f64>,
    /// Which way is better.
    pub better: Better,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// It is what was asked for.
    Neither,
}

impl Figure {
    /// A figure; a value that is not finite is none.
    #[must_use]
    pub fn new(name: &str, unit: &str, value: f64, better: Better) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), value: value.is_finite().then_some(value), better }
    }

    /// Name and unit.
    #[must_use]
    pub fn heading(&self) -> String {
        if self.unit.is_empty() { self.name.clone() } else { format!("{}, {}", self.name, self.unit) }
    }
}

impl Document {
    /// A document without results, begun now on this machine.
    #[must_use]
    pub fn begin(command: &str, title: String, parameters: Map<String, Value>) -> Self {
        let now = time::OffsetDateTime::now_utc().replace_nanosecond(0);
        let now = now.ok().and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
        Self {
            schema: SCHEMA.to_owned(),
            command: command.to_owned(),
            title,
            started: now.unwrap_or_default(),
            parameters,
            machine: Machine::here(),
            verdicts: Vec::new(),
            figures: Vec::new(),
            plots: Vec::new(),
            tables: Vec::new(),
            notes: Vec::new(),
            detail: Map::new(),
        }
    }

    /// Reads a document, from its file or from the folder that holds it as `report.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a document of this version.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join(JSON_FILE) } else { path.to_owned() };
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", file.display()))?;
        let schema = value["schema"].as_str().unwrap_or("none");
        ensure!(schema == SCHEMA, "{}: `schema` is {schema}, and must be {SCHEMA}", file.display());
        serde_json::from_value(value).with_context(|| format!("{}: not a report", file.display()))
    }

    /// Writes `report.json` and `report.html` into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If something cannot be written.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        save(folder, &serde_json::to_string_pretty(self)?, &self.page().render())
    }

    /// Whether no verdict is bad.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.passed != Some(false))
    }
}

/// Writes both files.
///
/// # Errors
/// If something cannot be written.
pub fn save(folder: &Path, json: &str, html: &str) -> anyhow::Result<()> {
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(JSON_FILE), json)?;
        fs::write(folder.join(HTML_FILE), html)
    };
    write().with_context(|| format!("--out {}", folder.display()))
}
