//! What is asked, and how: the options that all measuring commands have.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use clap::Args;
use embed_schemas::{Format, Lane, MAX_TEXTS, Slug, subjects};
use serde_json::{Map, Value, json};

use crate::{
    bulk::BulkLoad,
    call::{self, Load},
    lengths::Lengths,
    memory::Process,
    pacing::{Arrivals, Schedule},
    pattern::Profile,
    texts,
};

/// Bulk jobs in flight, if not more are asked for.
const MOST_JOBS: usize = 32;

#[derive(Debug, Clone, Args)]
pub(super) struct TargetArgs {
    /// The model's name or slug
    #[arg(long, short, env = "EMBED_MODEL", default_value = "all-minilm-l6-v2")]
    model: String,
    /// Pin the calls to a variant
    #[arg(long)]
    pub(super) variant: Option<Slug>,
    /// Before the measurement: not counted [default: 1; beside bulk jobs 5]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    warm_up: Option<Duration>,
    /// Texts in a call
    #[arg(long, default_value_t = 1)]
    pub(super) texts_per_call: usize,
    /// JSONL with a field `text` [default: a sample of WordNet's sentences]
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// How long texts are
    #[arg(long, value_enum, default_value_t = Lengths::Sentences)]
    lengths: Lengths,
    /// How calls are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Milliseconds within which an answer is a good one
    #[arg(long, default_value_t = 50.0)]
    pub(super) slo_ms: f64,
    /// How long to wait for an answer
    #[arg(long, default_value = "10", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
    /// Most calls under way at once
    #[arg(long, default_value_t = 10_000)]
    most_in_flight: usize,
    /// Bulk jobs in flight, where there are any [default: 32, or as many as there are distinct texts for]
    #[arg(long)]
    bulk_window: Option<usize>,
    /// Texts in a bulk job
    #[arg(long, default_value_t = 64)]
    bulk_texts: usize,
    /// Watch the memory of these processes
    #[arg(long, num_args = 1.., value_name = "PID")]
    pub(super) pid: Vec<u32>,
    /// Chooses the schedule, the lengths, and the order of the texts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What the options come to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) load: Load,
    pub(super) bulk: BulkLoad,
    pub(super) processes: Vec<Process>,
    pub(super) parameters: Map<String, Value>,
    arrivals: Arrivals,
    seed: u64,
}

impl TargetArgs {
    /// The model.
    pub(super) fn slug(&self) -> anyhow::Result<Slug> {
        Ok(Slug::from_name(&self.model)?)
    }

    /// The same of a variant, with so many texts in a call.
    pub(super) fn asking(&self, variant: &Slug, texts_per_call: usize) -> Self {
        Self { variant: Some(variant.clone()), texts_per_call, ..self.clone() }
    }

    /// Bulk jobs in flight. Equal texts that wait together are computed once, and would be counted as often as they are stored: so never more
    /// texts are in flight than there are.
    fn window(&self, texts: &[String]) -> anyhow::Result<usize> {
        let distinct = texts.iter().collect::<HashSet<_>>().len();
        let window = self.bulk_window.unwrap_or_else(|| (distinct / self.bulk_texts).clamp(1, MOST_JOBS));
        ensure!(
            window * self.bulk_texts <= distinct,
            "--bulk-window {window} with --bulk-texts {}: {} texts in flight, of which {distinct} are distinct, and equal texts that wait together \
             are computed once; give more with --texts, or less in flight",
            self.bulk_texts,
            window * self.bulk_texts
        );
        Ok(window)
    }

    /// Checks everything that can be checked before anything is sent.
    pub(super) fn prepare(&self, beside_bulk: bool, deadline: Option<Duration>) -> anyhow::Result<Target> {
        ensure!((1..=MAX_TEXTS).contains(&self.texts_per_call), "--texts-per-call: 1 to {MAX_TEXTS}");
        ensure!(self.slo_ms > 0.0 && self.slo_ms.is_finite(), "--slo-ms: must be above 0");
        ensure!(self.bulk_window != Some(0), "--bulk-window: must be above 0");
        ensure!((1..=MAX_TEXTS).contains(&self.bulk_texts), "--bulk-texts: 1 to {MAX_TEXTS}");
        // It takes some time until as many bulk jobs are done as are taken.
        let warm_up = self.warm_up.unwrap_or(Duration::from_secs(if beside_bulk { 5 } else { 1 }));
        let model = self.slug()?;
        let subject = match &self.variant {
            Some(variant) => subjects::pinned(Lane::Rpc, &model, variant),
            None => subjects::bare(Lane::Rpc, &model),
        };
        let texts = self.lengths.apply(texts::load(self.texts.as_deref(), self.seed)?, self.seed);
        let window = if beside_bulk { self.window(&texts)? } else { 1 };
        let parameters = json!({
            "subject": subject,
            "texts per call": self.texts_per_call,
            "texts": self.texts.as_ref().map_or_else(|| "WordNet sample".to_owned(), |file| file.display().to_string()),
            "lengths": self.lengths.name(),
            "arrivals": match self.arrivals { Arrivals::Poisson => "poisson", Arrivals::Constant => "constant" },
            "objective, ms": self.slo_ms,
            "deadline, s": deadline.map(|deadline| deadline.as_secs_f64()),
            "warm-up, s": warm_up.as_secs_f64(),
            "texts of bulk in flight": beside_bulk.then_some(window * self.bulk_texts),
            "timeout, s": self.timeout.as_secs_f64(),
            "seed": self.seed,
        });
        let load = Load {
            subject,
            payloads: call::payloads(&texts, self.texts_per_call, Format::MessagePack, deadline),
            timeout: self.timeout,
            warm_up,
            slo: Duration::from_secs_f64(self.slo_ms / 1000.0),
            most_in_flight: self.most_in_flight,
        };
        let bulk = BulkLoad {
            model,
            variant: self.variant.clone(),
            texts: Arc::from(texts),
            texts_per_job: self.bulk_texts,
            window,
        };
        let processes = self.pid.iter().map(|id| Process::find(*id).map_err(anyhow::Error::msg));
        Ok(Target {
            load,
            bulk,
            processes: processes.collect::<Result<_, _>>()?,
            parameters: parameters.as_object().cloned().unwrap_or_default(),
            arrivals: self.arrivals,
            seed: self.seed,
        })
    }
}

impl Target {
    /// The moments of the calls.
    pub(super) fn schedule(&self, profile: Profile) -> Schedule {
        Schedule::new(self.arrivals, profile, self.seed)
    }

    /// What else was asked for.
    pub(super) fn with(mut self, more: Value) -> Self {
        self.parameters.extend(more.as_object().cloned().unwrap_or_default());
        self
    }
}

/// `90`, `0.5`: seconds; or `10m`, `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(Duration::try_from_secs_f64);
    match seconds {
        Some(duration) => duration.map_err(|error| error.to_string()),
        None => humantime::parse_duration(text).map_err(|error| format!("{error}; seconds, or such as `10m`")),
    }
}

/// As [`parse_duration`], and longer than nothing.
pub(super) fn parse_some_time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .and_then(|duration| if duration.is_zero() { Err("must be above 0".to_owned()) } else { Ok(duration) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        target: TargetArgs,
    }

    #[test]
    fn never_more_bulk_is_in_flight_than_there_are_distinct_texts() {
        let prepare = |line: &str| Line::try_parse_from(line.split(' ')).unwrap().target.prepare(true, None);
        let texts = |line: &str| prepare(line).map(|target| target.bulk.window * target.bulk.texts_per_job);
        assert_eq!(texts("x").unwrap(), 31 * 64, "the sample has 2,000");
        assert_eq!(texts("x --bulk-texts 16").unwrap(), 32 * 16);
        assert_eq!(texts("x --bulk-texts 100 --bulk-window 20").unwrap(), 2000);
        let error = texts("x --bulk-texts 256 --bulk-window 32").unwrap_err().to_string();
        assert!(error.contains("8192 texts in flight, of which 2000 are distinct"), "{error}");
        let few = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&few, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"a\"}\n").unwrap();
        let file = few.path().display();
        assert_eq!(texts(&format!("x --bulk-texts 1 --texts {file}")).unwrap(), 2, "equal ones count once");
        assert!(texts(&format!("x --bulk-texts 3 --texts {file}")).is_err());
        assert!(Line::try_parse_from(["x", "--bulk-window", "99"]).unwrap().target.prepare(false, None).is_ok());
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert!(parse_duration("-1").is_err() && parse_duration("soon").is_err() && parse_some_time("0").is_err());
    }
}
