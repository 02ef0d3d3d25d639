//! Devices that compute nothing: each text takes a fixed time, asleep, so that two cores carry many of them. Everything round them is what a
//! worker really is.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use embed_engine::{
    batch::{CostTable, Measured, Padding, Shape, Unit},
    engine::{Engine, EngineError, Input, Vectors},
    model::{
        Activity, Backend, DeviceBounds, Files, LoadError, LoadReport, LoadedModel, ProviderGraph, ResolvedModel,
        Weights,
    },
    settings::{EngineConfig, Provider},
    tokenize::TextTokenizer,
};

/// What a run takes beside its texts, as far as the planner is told. The devices take none.
const RUN: Duration = Duration::from_micros(20);
/// What a text takes on a device without a service time, as far as the planner is told.
const LEAST_TEXT: Duration = Duration::from_micros(1);
/// What bounds batches on more devices than one.
const BOUNDS: DeviceBounds = DeviceBounds {
    texts: 256,
    tokens: 16_384,
    online_run: Duration::from_millis(20),
    beside_calls: Duration::from_millis(20),
};

/// The tokenizers that workers in one process share, by SHA-256: so does a worker between its variants.
pub(super) type Tokenizers = Arc<Mutex<HashMap<String, Arc<TextTokenizer>>>>;

/// The devices of one worker.
#[derive(Debug)]
pub(super) struct Simulated {
    /// How many there are. One is an engine on the processor; several are CUDA's.
    pub(super) devices: usize,
    /// What a text takes.
    pub(super) text: Duration,
    /// Texts that each has embedded, of all models.
    pub(super) embedded: Arc<[AtomicU64]>,
    /// Shared by all workers of the process.
    pub(super) tokenizers: Tokenizers,
}

#[derive(Debug)]
struct Device {
    number: usize,
    text: Duration,
    embedded: Arc<[AtomicU64]>,
    row: Vec<f32>,
}

impl Engine for Device {
    fn dimension(&self) -> usize {
        self.row.len()
    }

    fn unit(&self) -> Unit {
        Unit(self.number)
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let rows = u32::try_from(input.rows).unwrap_or(u32::MAX);
        if !self.text.is_zero() {
            thread::sleep(self.text * rows);
        }
        self.embedded[self.number].fetch_add(u64::from(rows), Ordering::Relaxed);
        Ok(self.row.repeat(input.rows).into())
    }
}

impl Backend for Simulated {
    fn probe(&self, _: Provider) -> Result<(), LoadError> {
        Ok(())
    }

    fn prepare(
        &self,
        files: &Files,
        model: &ResolvedModel,
        target: &ProviderGraph,
        _: &Activity,
    ) -> Result<LoadedModel, LoadError> {
        let dimension = model.metadata.dimension as usize;
        // A vector of unit length, so that nothing about it is special.
        let row = vec![(1.0 / dimension as f32).sqrt(); dimension];
        let device = |number| {
            let (embedded, row) = (Arc::clone(&self.embedded), row.clone());
            Box::new(Device { number, text: self.text, embedded, row }) as Box<dyn Engine>
        };
        let text = self.text.max(LEAST_TEXT);
        let run = |(rows, width): (u32, usize)| Measured {
            shape: Shape::full(rows as usize, width),
            form: Default::default(),
            took: RUN + text * rows,
        };
        Ok(LoadedModel {
            engines: (0..self.devices).map(device).collect(),
            urgent: Vec::new(),
            tokenizer: self.tokenizer(files, model)?,
            costs: CostTable::new(&[(1, 16), (64, 16), (256, 16)].map(run), Padding::default()),
            report: LoadReport {
                provider: target.provider,
                devices: if target.provider.on_device() { (0..self.devices as u32).collect() } else { Vec::new() },
                artefact: target.graph.clone(),
                weights: Weights::of(model, target, self.devices, &EngineConfig::default()),
                packed: false,
                nodes_elsewhere: None,
                skipped: Vec::new(),
                measured: Vec::new(),
                bounds: target.provider.on_device().then_some(BOUNDS),
                one_by_one: false,
                spread: None,
                spread_refused: None,
                urgent: false,
                urgent_refused: None,
                kernels_refused: None,
            },
        })
    }
}

impl Simulated {
    fn tokenizer(&self, files: &Files, model: &ResolvedModel) -> Result<Arc<TextTokenizer>, LoadError> {
        let mut known = self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = &model.metadata.tokenizer.sha256;
        if let Some(tokenizer) = known.get(sha256) {
            return Ok(Arc::clone(tokenizer));
        }
        let tokenizer = Arc::new(files.tokenizer(&model.metadata, 1 << 20)?);
        known.insert(sha256.clone(), Arc::clone(&tokenizer));
        Ok(tokenizer)
    }
}
