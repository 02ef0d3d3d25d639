//! `backfill`: a large backfill from an S3 server to one, on a stack of its own.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{anyhow, ensure};
use clap::Args;
use embed_schemas::{Precision, Slug};
use serde::{Deserialize, de::IntoDeserializer};
use serde_json::json;

use super::{
    chaos::{play, say},
    session::finish,
    target::parse_some_time,
};
use crate::{
    backfill::{self, MOST_ROWS, Orders, Party, Setting, fill},
    report::Document,
};

#[derive(Debug, Args)]
pub(super) struct BackfillArgs {
    /// Model registry: a folder, or file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    registry: String,
    /// The model's name or slug
    #[arg(long, short, env = "EMBED_MODEL", default_value = "all-minilm-l6-v2")]
    model: String,
    /// The model's precision [default: its first]
    #[arg(long, value_parser = precision, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// Rows of the corpus, each with a text of 3 to 12 words that no other has
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(100..=MOST_ROWS))]
    rows: u64,
    /// Decides the texts, and what is killed when
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=u64::from(u32::MAX)))]
    seed: u64,
    /// How often the corpus is backfilled; the median counts
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    runs: u8,
    /// Kill so many processes in each run, at random moments, each party's at least once: embed, workers, nats-server, the S3 server; then
    /// nothing is wanted of speed
    #[arg(long, default_value_t = 0, value_name = "N")]
    kills: usize,
    /// Backfill once more after this share of the texts has changed, and a tenth as many rows have gone, and come; the vectors of the others
    /// are to be kept. 0: not
    #[arg(long, default_value_t = 0.02, value_name = "SHARE")]
    changed: f64,
    /// Texts of the corpus that the engine alone is measured with, before and after each run; 0: it is not
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    engine_texts: u64,
    /// Judge counts, ids, vectors and memory only, and tell times without judging them
    #[arg(long)]
    untimed: bool,
    /// Workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Time after which a job that a worker holds is given to another
    #[arg(long, default_value = "5", value_parser = parse_some_time, value_name = "DURATION")]
    ack_wait: Duration,
    /// Rows in one job
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    chunk: u64,
    /// Another option of `embed backfill run` (again for more), such as `--option=--window=64`
    #[arg(long = "option", allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<String>,
    /// A Python that has DuckDB, which reads what was written [default: that of the virtual environment]; without DuckDB, the library that wrote
    /// it does
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Where embed and embed-worker are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn precision(name: &str) -> Result<Precision, serde::de::value::Error> {
    Precision::deserialize(name.into_deserializer())
}

impl BackfillArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        let parties = Party::ALL.len();
        ensure!(
            self.kills == 0 || self.kills >= parties,
            "--kills: must be 0, or at least {parties}, one for each party"
        );
        ensure!((0.0..=0.5).contains(&self.changed), "--changed: must be from 0 to 0.5");
        let here = env::current_exe()?;
        let programs = self.programs.clone().or_else(|| here.parent().map(PathBuf::from));
        let setting = Setting {
            registry: self.registry.clone(),
            model: Slug::from_name(&self.model)?,
            precision: self.precision,
            workers: self.workers.into(),
            ack_wait: self.ack_wait,
            programs: std::path::absolute(programs.ok_or_else(|| anyhow!("--programs is needed here"))?)?,
        };
        let orders = Orders {
            seed: self.seed,
            rows: self.rows,
            runs: self.runs.into(),
            kills: self.kills,
            changed: self.changed,
            engine_texts: self.engine_texts,
            chunk: self.chunk,
            options: self.options.clone(),
            python: self.python.clone().unwrap_or_else(python),
            timed: !self.untimed,
        };
        let parameters = json!({
            "rows": self.rows, "seed": self.seed, "runs": self.runs, "kills": self.kills, "changed": self.changed,
            "model": setting.model, "precision": self.precision, "workers": self.workers, "rows in a job": self.chunk,
            "texts for the engine alone": self.engine_texts, "ack wait, s": self.ack_wait.as_secs_f64(),
            "options": self.options.join(" "),
        });
        let title = format!("Backfill of {} rows", self.rows);
        let mut document = Document::begin("backfill", title, parameters.as_object().cloned().unwrap_or_default());
        let observed = play(backfill::run(setting, orders, say))?;
        fill(&mut document, &observed);
        finish(&document, self.out.as_deref(), json)
    }
}

/// The Python of the virtual environment, or the system's.
fn python() -> PathBuf {
    let environment = env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()).map(PathBuf::from);
    let python = environment.unwrap_or_else(|| PathBuf::from(".venv")).join("bin/python");
    if python.is_file() { python } else { PathBuf::from("python3") }
}
