//! The command line of `embed-worker bench`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use embed_schemas::Precision;
use serde::{Deserialize, de::IntoDeserializer};

use super::texts::Mix;
use crate::serving::cores;

/// What to measure.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model registry: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", value_name = "URL")]
    pub(super) registry: Option<String>,
    /// Measure this model (again for more); all of the registry if left out
    #[arg(long = "model", value_name = "NAME")]
    pub(super) models: Vec<String>,
    /// Measure this precision (again for more); all that the model has if left out
    #[arg(long = "precision", value_name = "PRECISION", value_parser = precision)]
    pub(super) precisions: Vec<Precision>,
    /// Texts in a run of the matrix
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32,64", value_parser = at_least::<1>)]
    pub(super) batch: Vec<usize>,
    /// Tokens in a text of the matrix; what is longer than the model takes is left out
    #[arg(long, value_delimiter = ',', default_value = "16,64,128,256", value_parser = at_least::<2>)]
    pub(super) length: Vec<usize>,
    /// Batches at the same time; 0: one for each core [default: engine.runners of the configuration]
    #[arg(long)]
    pub(super) runners: Option<usize>,
    /// Threads for one batch [default: engine.threads_per_runner of the configuration]
    #[arg(long, value_parser = at_least::<1>)]
    pub(super) threads_per_runner: Option<usize>,
    /// Time for each cell of the matrix; at least one run is made
    #[arg(long, default_value = "1.0", value_parser = seconds)]
    pub(super) seconds_per_cell: Duration,
    /// Texts of many lengths (again for more) [default: sentences and mixed]
    #[arg(long = "mix", value_enum)]
    pub(super) mixes: Vec<Mix>,
    /// Texts of one's own as another mix: JSONL with a field `text`
    #[arg(long, value_name = "FILE")]
    pub(super) texts: Option<PathBuf>,
    /// Texts of each mix
    #[arg(long, default_value = "2000", value_parser = at_least::<1>)]
    pub(super) mix_texts: usize,
    /// How often the orders of a mix take turns; the median counts
    #[arg(long, default_value = "3", value_parser = at_least::<1>)]
    pub(super) mix_rounds: usize,
    /// Measure tokenizing alone, without an engine
    #[arg(long)]
    pub(super) tokenize: bool,
    /// Tokenizer threads at the same time [default: one for each core]
    #[arg(long, value_delimiter = ',', value_parser = at_least::<1>)]
    pub(super) tokenize_threads: Vec<usize>,
    /// Write bench.json and bench.html into this folder
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(super) json: bool,
}

impl BenchArgs {
    /// The mixes that have texts.
    pub(super) fn mixes(&self) -> Vec<Mix> {
        let default = if self.texts.is_some() { &[][..] } else { &[Mix::Sentences, Mix::Mixed] };
        let asked = if self.mixes.is_empty() { default } else { &self.mixes };
        let named = asked.iter().copied().filter(|mix| *mix != Mix::None);
        named.chain(self.texts.as_ref().map(|_| Mix::File)).collect()
    }

    /// How many tokenizer threads to measure.
    pub(super) fn tokenize_threads(&self) -> Vec<usize> {
        if self.tokenize_threads.is_empty() { vec![cores()] } else { self.tokenize_threads.clone() }
    }
}

fn precision(name: &str) -> Result<Precision, serde::de::value::Error> {
    Precision::deserialize(name.into_deserializer())
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number >= LEAST => Ok(number),
        Ok(_) => Err(format!("must be at least {LEAST}")),
        Err(error) => Err(format!("{error}")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        assert_eq!(precision("int8"), Ok(Precision::Int8));
        assert!(precision("int9").unwrap_err().to_string().contains("fp32"));
        assert_eq!(at_least::<2>("2"), Ok(2));
        assert!(at_least::<2>("1").unwrap_err().contains("at least 2"));
        assert_eq!(seconds("0.05"), Ok(Duration::from_millis(50)));
        assert!(seconds("-1").is_err() && seconds("NaN").is_err());
    }
}
