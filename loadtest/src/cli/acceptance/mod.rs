//! `acceptance`: what the user asks for, as a file of criteria, judged on a system that is running.
//!
//! | module | does |
//! |---|---|
//! | `arm` | a variant that is measured, and what workers say that it runs on |
//! | `play` | the loads, repeat by repeat |
//! | `summary` | the report |

mod arm;
mod play;
mod summary;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use embed_connect::ConnectSettings;
use embed_schemas::Slug;

use super::{
    session::{Session, finish},
    target::{TargetArgs, parse_some_time},
};
use crate::{
    acceptance::{Criteria, judge, probe},
    repeats,
};

#[derive(Debug, Args)]
pub(super) struct AcceptanceArgs {
    /// Criteria in TOML [default: the user's, `loadtest/acceptance.toml`]
    #[arg(long, value_name = "FILE")]
    criteria: Option<PathBuf>,
    /// How often everything is measured, in turns: at least three times
    #[arg(long, default_value_t = repeats::LEAST)]
    repeats: usize,
    /// How long each load takes: seconds, or such as 1m
    #[arg(long, short, default_value = "60", value_parser = parse_some_time)]
    duration: Duration,
    /// The variant to compare with, such as one in FP32 on the CPU
    #[arg(long, value_name = "VARIANT")]
    baseline: Option<Slug>,
    /// The metrics of the workers that serve the model, for what their GPUs do
    #[arg(long, num_args = 1.., value_name = "URL")]
    metrics: Vec<String>,
    /// What the machine that serves the model costs an hour
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    price: Option<f64>,
    /// What the machine that serves the baseline costs an hour
    #[arg(long, value_name = "PRICE", value_parser = parse_price)]
    baseline_price: Option<f64>,
    #[command(flatten)]
    target: TargetArgs,
}

impl AcceptanceArgs {
    /// Whether all criteria are met. One that could not be measured is not.
    pub(super) fn run(mut self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        let criteria = Criteria::load(self.criteria.as_deref())?;
        ensure!(
            self.repeats >= repeats::LEAST,
            "--repeats {}: at least {}, or nothing is known of how far the figures vary",
            self.repeats,
            repeats::LEAST
        );
        for url in self.metrics.iter_mut().filter(|url| !url.ends_with("/metrics")) {
            *url = format!("{}/metrics", url.trim_end_matches('/'));
        }
        let session = Session::open(nats)?;
        for url in &self.metrics {
            session.wait_for(probe(url)).with_context(|| format!("--metrics {url}: it cannot be read"))?;
        }
        let played = play::play(&self, &criteria, &session)?;
        let judged = judge(&criteria.criteria, &played.measured);
        let document = summary::document(&self, &criteria, &played, &judged);
        finish(&document, self.target.out.as_deref(), json)?;
        Ok(judged.iter().all(|one| one.met == Some(true)))
    }
}

fn parse_price(text: &str) -> Result<f64, String> {
    let price = text.parse::<f64>().map_err(|error| error.to_string())?;
    if price > 0.0 && price.is_finite() { Ok(price) } else { Err("must be above 0".to_owned()) }
}
