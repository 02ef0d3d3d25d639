//! What runs the graphs, and how.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{
    chain::Providers,
    provider::Provider,
    providers::{CudaConfig, OpenvinoConfig, TensorrtConfig, TensorrtRtxConfig},
};
use crate::threads::cores;

/// Inference: what runs the graphs, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// The ONNX Runtime library. Searched for if left out.
    pub library: Option<PathBuf>,
    /// Execution providers to try, in this order, or `auto`, for variants that do not say otherwise.
    pub providers: Providers,
    /// Whether falling back to another provider than the first is an error, for variants that do not say otherwise.
    pub strict: bool,
    /// The devices that `tensorrt`, `tensorrt-rtx` and `cuda` use: `all`, or their numbers.
    pub devices: Devices,
    /// Most tokens of a text that a version may be for. What a run takes of memory grows with their square, and it is the version that says how many there
    /// are: 8,192 take some 4 GB in a model of BERT's size.
    pub max_seq_length: usize,
    /// On the processor: batches that run at the same time. 0: one for each core.
    pub runners: usize,
    /// On the processor: threads for one batch. One is best: small batches side by side beat one that uses all cores.
    pub threads_per_runner: usize,
    /// On the CPU: threads for the run of a call while nothing else is being computed. 0: one for each core, or as many as `runners` take, up to 8. No more than `threads_per_runner`:
    /// it runs as all others.
    pub lone_call_threads: usize,
    /// By how much the priority of engine threads on the CPU is lowered, 0 to 19, so that calls are taken in and answered at
    /// once while all cores compute.
    pub nice: u8,
    /// For all providers but `openvino` and `cpu`.
    pub device: DeviceConfig,
    /// For the provider `cuda`.
    pub cuda: CudaConfig,
    /// For the provider `tensorrt`.
    pub tensorrt: TensorrtConfig,
    /// For the provider `tensorrt-rtx`.
    pub tensorrt_rtx: TensorrtRtxConfig,
    /// For the provider `openvino`.
    pub openvino: OpenvinoConfig,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            library: None,
            providers: vec![Provider::Cpu].into(),
            strict: false,
            devices: Devices::default(),
            max_seq_length: 8192,
            runners: 0,
            threads_per_runner: 1,
            lone_call_threads: 0,
            nice: 5,
            device: DeviceConfig::default(),
            cuda: CudaConfig::default(),
            tensorrt: TensorrtConfig::default(),
            tensorrt_rtx: TensorrtRtxConfig::default(),
            openvino: OpenvinoConfig::default(),
        }
    }
}

/// What more threads than these gain for one call has not been measured.
const MOST_LONE_CALL_THREADS: usize = 8;

impl EngineConfig {
    /// Threads for the run of a call that has the cores to itself. `None`: as many as for all others.
    #[must_use]
    pub fn spread(&self) -> Option<usize> {
        let threads = match self.lone_call_threads {
            // Whoever bounds the runners means the cores.
            0 if self.runners > 0 => (self.runners * self.threads_per_runner).min(MOST_LONE_CALL_THREADS),
            0 => cores().min(MOST_LONE_CALL_THREADS),
            threads => threads,
        };
        (threads > self.threads_per_runner).then_some(threads)
    }

    /// Runs at the same time on the processor, for a variant that has `instances`, 0 for the default.
    #[must_use]
    pub fn runners_on_cores(&self, instances: usize) -> usize {
        match (instances, self.runners) {
            (0, 0) => cores(),
            (0, n) | (n, _) => n,
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// A message that names the key and the fix.
    pub fn validate(&self) -> Result<(), String> {
        if self.threads_per_runner == 0 {
            return Err("engine.threads_per_runner: must be at least 1".into());
        }
        if self.max_seq_length < 2 {
            return Err("engine.max_seq_length: must be at least 2, since two tokens stand around every text".into());
        }
        check_chain("engine.providers", &self.providers)?;
        if let Devices::These(devices) = &self.devices {
            if devices.is_empty() {
                return Err("engine.devices: must name at least one, such as `[0]`, or be `\"all\"`".into());
            }
            if let Some(twice) = devices.iter().enumerate().find(|(i, device)| devices[..*i].contains(device)) {
                return Err(format!("engine.devices: {} is there twice", twice.1));
            }
        }
        self.device.validate()?;
        if !self.tensorrt.widths.is_sorted_by(|a, b| a < b) || self.tensorrt.widths.contains(&0) {
            return Err("engine.tensorrt.widths: must rise, from 1 on, such as `[64, 256]`".into());
        }
        if self.tensorrt.optimization_level.is_some_and(|level| level > 5) {
            return Err("engine.tensorrt.optimization_level: must be 0 to 5".into());
        }
        Ok(())
    }
}

/// Checks a chain of providers.
pub fn check_chain(key: &str, providers: &[Provider]) -> Result<(), String> {
    match providers.iter().enumerate().find(|(i, provider)| providers[..*i].contains(provider)) {
        Some((_, twice)) => Err(format!("{key}: `{}` is there twice", twice.as_str())),
        None if providers.is_empty() => Err(format!("{key}: must name at least one, such as `cpu`")),
        None => Ok(()),
    }
}

/// Which devices to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Devices {
    /// These, by CUDA's numbers.
    These(Vec<u32>),
    /// All that are visible.
    All(All),
}

/// The word `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// All that are visible.
    All,
}

impl std::fmt::Display for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::These(devices) => write!(f, "{devices:?}"),
            Self::All(_) => f.write_str("all"),
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::These(vec![0])
    }
}

/// How graphs are run on a device, whichever provider does it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceConfig {
    /// Batches that run at the same time on one device: while one computes, the next is copied.
    pub runners: usize,
    /// Sessions on one device, which its runners share. Each holds the weights once. 0: one for each runner.
    pub sessions: usize,
    /// Most texts in a batch.
    pub max_texts: usize,
    /// Most tokens in a batch, padding included: what bounds the memory of a run. A single text may exceed it.
    pub max_tokens: usize,
    /// Longest run while online calls are coming in, in place of `batch.online_run`: a device makes most of its throughput in runs of a
    /// few milliseconds already. For models whose shortest runs take long, it is three times as long as those.
    #[serde(with = "humantime_serde")]
    pub online_run: Duration,
    /// Whether calls have a session of their own on each device, in a stream that goes before all others there: a call then does not wait for
    /// runs that were begun before it. It takes as much memory for weights as one runner with a session of its own. For the provider `cuda`. If left out, a
    /// worker decides: where batches are formed adaptively, and memory for weights has no budget.
    pub urgent_calls: Option<bool>,
    /// Calls that run at the same time on one device where they have streams of their own, each with weights of its own. If left out: 3 of a model whose
    /// shortest run takes a millisecond or longer, since others would wait for it, and else 1, as in a worker with a `models.memory_budget`.
    pub call_runners: Option<usize>,
    /// Share of a device's multiprocessors that large runs of jobs and backfills leave to calls while these are coming in, where they have streams of their own
    /// and graphs are made of the worker's own operators. If left out: 0.2 of a model whose shortest run takes a millisecond or longer, and else 0.
    pub call_share: Option<f64>,
    /// Longest run of jobs and backfills while online calls are coming in, where those have streams of their own. If left out: 20 ms where multiprocessors are left to
    /// them, and else 8 ms.
    #[serde(with = "humantime_serde::option")]
    pub beside_calls: Option<Duration>,
    /// Most memory of one session on a device. Unbounded if left out.
    pub memory_limit: Option<ByteSize>,
    /// Whether what goes to the device and comes back is kept in page-locked memory, which is copied faster.
    pub pinned: bool,
    /// The widths to which batches are padded: pairs of a bound and a step. Few shapes keep the device's memory flat.
    pub widths: Vec<(usize, usize)>,
    /// The same for the number of texts.
    pub rows: Vec<(usize, usize)>,
    /// Small runs to record as CUDA graphs, which take a third of the time. Each runner has a session of its own for them, which holds the
    /// weights once more. None with an empty list.
    pub cuda_graphs: GraphShapes,
}

/// Shapes of recorded runs: each number of texts with each width. A batch runs in the smallest that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GraphShapes {
    /// Numbers of texts.
    pub rows: Vec<usize>,
    /// Tokens of each.
    pub widths: Vec<usize>,
    /// Pairs with more tokens than this are left out: recorded runs compute their padding, and large ones gain little.
    pub max_tokens: usize,
}

impl Default for GraphShapes {
    fn default() -> Self {
        Self { rows: vec![1, 2, 4, 8, 16, 32], widths: vec![16, 32, 64, 128, 256], max_tokens: 2048 }
    }
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            runners: 2,
            sessions: 1,
            max_texts: 1024,
            max_tokens: 65_536,
            online_run: Duration::from_millis(4),
            urgent_calls: None,
            call_runners: None,
            call_share: None,
            beside_calls: None,
            memory_limit: None,
            pinned: true,
            widths: vec![(64, 8), (256, 16), (512, 32)],
            rows: vec![(8, 1), (64, 8), (256, 32), (1024, 64), (4096, 256)],
            cuda_graphs: GraphShapes::default(),
        }
    }
}

/// More would only share a device.
const MOST_CALL_RUNNERS: usize = 16;
/// A call that runs so long, its kernels launched one by one, keeps those waiting that come meanwhile.
const LONG_CALL: Duration = Duration::from_millis(1);
// With these, calls of BERT-large's shape at 250 a second on an H200 had a p95 of 4.6 ms, and bulk kept 83 %: `loadtest/results/h200-calls`.
const CALL_SHARE: f64 = 0.2;
const BESIDE_CALLS_WITH_ROOM: Duration = Duration::from_millis(20);
/// Shorter ones cost BERT-large's shape more than half of its bulk.
const BESIDE_CALLS: Duration = Duration::from_millis(8);

/// What calls have of a device, where they have streams of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceCalls {
    /// Calls that run at the same time.
    pub runners: usize,
    /// Share of the multiprocessors that large runs leave to them.
    pub share: f64,
    /// Longest run of what is stored meanwhile.
    pub beside: Duration,
}

impl DeviceConfig {
    /// Calls of a large model that run at the same time, where nobody says otherwise.
    pub const CALL_RUNNERS: usize = 3;

    /// Batches that run at the same time on one device, for a variant that has `instances`, 0 for the default.
    #[must_use]
    pub const fn runners(&self, instances: usize) -> usize {
        if instances == 0 { self.runners } else { instances }
    }

    /// What calls have of a device that serves a model whose shortest run takes so long. `parts`: its large runs can leave multiprocessors to them.
    #[must_use]
    pub fn calls(&self, shortest: Duration, parts: bool) -> DeviceCalls {
        let is_long = shortest >= LONG_CALL;
        let share = if parts { self.call_share.unwrap_or(if is_long { CALL_SHARE } else { 0.0 }) } else { 0.0 };
        let beside = if share > 0.0 { BESIDE_CALLS_WITH_ROOM } else { BESIDE_CALLS };
        DeviceCalls {
            runners: self.call_runners.unwrap_or(if is_long { Self::CALL_RUNNERS } else { 1 }),
            share,
            beside: self.beside_calls.unwrap_or(beside),
        }
    }

    /// Sessions on one device.
    #[must_use]
    pub const fn sessions(&self, runners: usize) -> usize {
        if self.sessions == 0 || self.sessions > runners { runners } else { self.sessions }
    }

    fn validate(&self) -> Result<(), String> {
        let section = "engine.device";
        for (key, value) in [("runners", self.runners), ("max_texts", self.max_texts), ("max_tokens", self.max_tokens)]
        {
            if value == 0 {
                return Err(format!("{section}.{key}: must be at least 1"));
            }
        }
        if self.call_runners.is_some_and(|runners| !(1..=MOST_CALL_RUNNERS).contains(&runners)) {
            return Err(format!(
                "{section}.call_runners: must be from 1 to {MOST_CALL_RUNNERS}; without any, say urgent_calls = false"
            ));
        }
        if self.call_share.is_some_and(|share| !(0.0..=0.9).contains(&share)) {
            return Err(format!("{section}.call_share: must be from 0 to 0.9, such as 0.2"));
        }
        for (key, sizes) in [("rows", &self.cuda_graphs.rows), ("widths", &self.cuda_graphs.widths)] {
            if sizes.contains(&0) {
                return Err(format!(
                    "{section}.cuda_graphs.{key}: must be numbers of at least 1, such as `[1, 4, 16]`"
                ));
            }
        }
        for (key, steps) in [("widths", &self.widths), ("rows", &self.rows)] {
            if steps.iter().any(|(_, step)| *step == 0) || !steps.is_sorted_by(|a, b| a.0 < b.0) {
                return Err(format!(
                    "{section}.{key}: must be pairs of a bound and a step of at least 1, with rising bounds, such as `[[64, 8], [512, 32]]`"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn calls_of_a_large_model_have_a_part_of_the_device() {
        let device = DeviceConfig::default();
        assert_eq!(device.calls(MS, true), DeviceCalls { runners: 3, share: 0.2, beside: MS * 20 });
        assert_eq!(device.calls(MS / 2, true), DeviceCalls { runners: 1, share: 0.0, beside: MS * 8 });
        assert_eq!(device.calls(MS, false), DeviceCalls { runners: 3, share: 0.0, beside: MS * 8 });
    }

    #[test]
    fn what_is_configured_is_done() {
        let (call_runners, call_share, beside_calls) = (Some(2), Some(0.5), Some(MS * 5));
        let device = DeviceConfig { call_runners, call_share, beside_calls, ..DeviceConfig::default() };
        for shortest in [MS, MS * 2] {
            assert_eq!(device.calls(shortest, true), DeviceCalls { runners: 2, share: 0.5, beside: MS * 5 });
        }
        assert_eq!(device.calls(MS, false).share, 0.0, "not where runs cannot be moved");
        let none = DeviceConfig { call_share: Some(0.0), ..DeviceConfig::default() };
        assert_eq!(none.calls(MS * 2, true), DeviceCalls { runners: 3, share: 0.0, beside: MS * 8 });
    }

    #[test]
    fn shares_and_runners_have_bounds() {
        for (call_runners, call_share, key) in [
            (Some(0), None, "call_runners"),
            (Some(17), None, "call_runners"),
            (None, Some(-0.1), "call_share"),
            (None, Some(1.0), "call_share"),
            (None, Some(f64::NAN), "call_share"),
        ] {
            let device = DeviceConfig { call_runners, call_share, ..DeviceConfig::default() };
            let said = device.validate().unwrap_err();
            assert!(said.starts_with(&format!("engine.device.{key}: must be ")), "{said}");
        }
        let widest = DeviceConfig { call_runners: Some(1), call_share: Some(0.9), ..DeviceConfig::default() };
        widest.validate().unwrap();
    }
}
