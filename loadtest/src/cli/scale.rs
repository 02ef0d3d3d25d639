//! `scale`: many workers on simulated devices, on one server and on a cluster.

use std::{
    cell::RefCell,
    io::{self, Write},
    mem,
    path::PathBuf,
    time::Duration,
};

use anyhow::ensure;
use clap::Args;
use embed_engine::threads::cores;
use embed_schemas::MAX_TEXTS;
use serde_json::json;

use super::{session::finish, target::parse_some_time};
use crate::{
    report::Document,
    scale::{self, Part, Plan, Row},
};

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// What to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    only: Vec<Part>,
    /// Servers; three are a cluster, with three copies of each stream
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    servers: Vec<usize>,
    /// Workers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    workers: Vec<usize>,
    /// Models that each worker serves
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    models: Vec<usize>,
    /// Devices of one worker
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    devices: Vec<usize>,
    /// What a text takes on a device: seconds, or such as 5ms; a fifth of it where it is devices that are counted
    #[arg(long, default_value = "5ms", value_parser = parse_some_time, value_name = "DURATION")]
    text_time: Duration,
    /// Texts in a job
    #[arg(long, default_value_t = 64)]
    texts_per_job: usize,
    /// How long each is measured
    #[arg(long, short, default_value = "8", value_parser = parse_some_time)]
    duration: Duration,
    /// How often
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Jobs that wait
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    backlog: Vec<u64>,
    /// Texts in one of those
    #[arg(long, default_value_t = 8)]
    backlog_texts: usize,
    /// Rows after which it is looked what one costs
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000])]
    rows: Vec<u64>,
    /// Write report.json and report.html into this folder. What is there of other parts and settings stays, so that a measurement can be made
    /// piece by piece
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ScaleArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        for (name, counts) in [
            ("servers", &self.servers),
            ("workers", &self.workers),
            ("models", &self.models),
            ("devices", &self.devices),
        ] {
            ensure!(counts.iter().all(|count| *count > 0), "--{name}: must be above 0");
        }
        ensure!(self.servers.iter().all(|servers| matches!(servers, 1 | 3)), "--servers: 1 or 3");
        ensure!(self.repeats > 0, "--repeats: must be above 0");
        for (name, texts) in [("texts-per-job", self.texts_per_job), ("backlog-texts", self.backlog_texts)] {
            ensure!((1..=MAX_TEXTS).contains(&texts), "--{name}: 1 to {MAX_TEXTS}");
        }
        ensure!(self.rows.is_sorted() && !self.rows.contains(&0), "--rows: must be above 0, and rise");
        ensure!(!self.backlog.contains(&0), "--backlog: must be above 0");
        let before = self.before()?;
        let parameters = json!({
            "a text on a device, ms": self.text_time.as_secs_f64() * 1e3,
            "texts in a job": self.texts_per_job,
            "duration, s": self.duration.as_secs_f64(),
            "repeats": self.repeats,
        });
        let title = "Many workers on simulated devices".to_owned();
        let document = Document::begin("scale", title, parameters.as_object().cloned().unwrap_or_default());
        let plan = Plan {
            parts: if self.only.is_empty() { Part::ALL.to_vec() } else { self.only },
            servers: self.servers,
            workers: self.workers,
            models: self.models,
            devices: self.devices,
            text: self.text_time,
            texts_per_job: self.texts_per_job,
            duration: self.duration,
            repeats: self.repeats,
            backlog: self.backlog,
            backlog_texts: self.backlog_texts,
            rows: self.rows,
        };
        let threads = cores().max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let measured = RefCell::new((before, document));
        let take = |row: Row| {
            say(&row);
            let (rows, document) = &mut *measured.borrow_mut();
            *rows = scale::merge(mem::take(rows), vec![row]);
            scale::fill(document, rows);
            self.out.as_deref().map_or(Ok(()), |folder| document.save(folder))
        };
        runtime.block_on(scale::play(&plan, &take))?;
        finish(&measured.into_inner().1, self.out.as_deref(), json)
    }

    /// What was measured before, if the folder has a report.
    fn before(&self) -> anyhow::Result<Vec<Row>> {
        match &self.out {
            Some(folder) if folder.join("report.json").exists() => scale::rows_of(&Document::load(folder)?),
            _ => Ok(Vec::new()),
        }
    }
}

/// One row, as soon as it is known. There is nothing to do about a standard error that cannot be written to.
fn say(row: &Row) {
    let figures = row.figures.iter().map(|(name, values)| format!("{name} {}", values.describe(3)));
    let text = figures.collect::<Vec<_>>().join("; ");
    let _ = writeln!(io::stderr(), "{:?} {:?} {}: {text}", row.part, row.setting, row.count);
}
