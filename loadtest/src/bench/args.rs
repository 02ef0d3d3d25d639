//! The command line of `embed-loadtest bench`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use embed_engine::{
    settings::{Devices, Provider},
    threads::cores,
};
use embed_schemas::Precision;
use serde::{Deserialize, de::IntoDeserializer};

use super::{mix_kind::Mix, settings::Settings};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Model registry: a path, file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(super) registry: Option<String>,
    /// Measure this model (again for more); all of the registry if left out
    #[arg(long = "model", value_name = "NAME")]
    pub(super) models: Vec<String>,
    /// Measure this precision (again for more); all that the model has if left out
    #[arg(long = "precision", value_name = "PRECISION", value_parser = precision)]
    pub(super) precisions: Vec<Precision>,
    /// What runs the graphs: cpu, openvino, cuda, tensorrt or tensorrt-rtx [default: the first of engine.providers]
    #[arg(long, value_name = "PROVIDER", value_parser = provider)]
    pub(super) provider: Option<Provider>,
    /// The device, by CUDA's number (again for more) [default: engine.devices of the configuration]
    #[arg(long = "device", value_name = "NUMBER")]
    pub(super) devices: Vec<u32>,
    /// Sessions on a device, which its runners share; 0: one for each [default: engine.device.sessions]
    #[arg(long)]
    pub(super) sessions: Option<usize>,
    /// Most texts of a batch in the mixes [default: batch.max_texts, or engine.device.max_texts]
    #[arg(long, value_parser = at_least::<1>)]
    pub(super) max_texts: Option<usize>,
    /// Most tokens of a batch in the mixes [default: batch.max_tokens, or engine.device.max_tokens]
    #[arg(long, value_parser = at_least::<1>)]
    pub(super) max_tokens: Option<usize>,
    /// Texts that wait in the planner [default: limits.bulk_texts]
    #[arg(long, value_parser = at_least::<1>)]
    pub(super) window: Option<usize>,
    /// Texts in a run of the matrix [default: 1,8,16,32,64; on a device 1,8,32,64,256,512,1024,2048]
    #[arg(long, value_delimiter = ',', value_parser = at_least::<1>)]
    pub(super) batch: Vec<usize>,
    /// Tokens in a text of the matrix; what is longer than the model takes is left out
    #[arg(long, value_delimiter = ',', default_value = "16,64,128,256", value_parser = at_least::<2>)]
    pub(super) length: Vec<usize>,
    /// Batches at the same time, on a device on each; 0 on the CPU: one for each core [default: engine.runners, or
    /// engine.device.runners]
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
    /// Texts of each mix [default: 2000, on a device 50000]
    #[arg(long, value_parser = at_least::<1>)]
    pub(super) mix_texts: Option<usize>,
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
}

impl BenchArgs {
    /// Texts in a run of the matrix.
    pub(super) fn batch(&self, on_device: bool) -> Vec<usize> {
        match (self.batch.as_slice(), on_device) {
            ([], false) => vec![1, 8, 16, 32, 64],
            ([], true) => vec![1, 8, 32, 64, 256, 512, 1024, 2048],
            (asked, _) => asked.to_vec(),
        }
    }

    /// Texts of each mix.
    pub(super) fn mix_texts(&self, on_device: bool) -> usize {
        self.mix_texts.unwrap_or(if on_device { 50_000 } else { 2000 })
    }

    /// Puts what was asked for into the configuration, and gives back what runs the graphs.
    pub(super) fn apply(&self, config: &mut Settings) -> Provider {
        config.registry = self.registry.clone().or(config.registry.take());
        let engine = &mut config.engine;
        let provider = self.provider.unwrap_or(engine.providers[0]);
        engine.providers = vec![provider].into();
        if !self.devices.is_empty() {
            engine.devices = Devices::These(self.devices.clone());
        }
        engine.threads_per_runner = self.threads_per_runner.unwrap_or(engine.threads_per_runner);
        // What is measured are engines side by side.
        engine.lone_call_threads = 1;
        let device = &mut engine.device;
        device.sessions = self.sessions.unwrap_or(device.sessions);
        if provider.on_device() {
            device.runners = self.runners.filter(|runners| *runners > 0).unwrap_or(device.runners);
            device.max_texts = self.max_texts.unwrap_or(device.max_texts);
            device.max_tokens = self.max_tokens.unwrap_or(device.max_tokens);
            (config.batch.max_texts, config.batch.max_tokens) = (device.max_texts, device.max_tokens);
        } else {
            engine.runners = match self.runners.unwrap_or(engine.runners) {
                0 => cores(),
                runners => runners,
            };
            config.batch.max_texts = self.max_texts.unwrap_or(config.batch.max_texts);
            config.batch.max_tokens = self.max_tokens.unwrap_or(config.batch.max_tokens);
        }
        config.limits.bulk_texts = self.window.unwrap_or_else(|| config.limits.window(provider.on_device()));
        provider
    }

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

fn provider(name: &str) -> Result<Provider, serde::de::value::Error> {
    Provider::deserialize(name.into_deserializer())
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
        assert_eq!(provider("tensorrt-rtx"), Ok(Provider::TensorrtRtx));
        assert!(provider("gpu").unwrap_err().to_string().contains("cuda"));
        assert_eq!(at_least::<2>("2"), Ok(2));
        assert!(at_least::<2>("1").unwrap_err().contains("at least 2"));
        assert_eq!(seconds("0.05"), Ok(Duration::from_millis(50)));
        assert!(seconds("-1").is_err() && seconds("NaN").is_err());
    }
}
