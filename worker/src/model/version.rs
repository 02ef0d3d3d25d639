//! From files to engines that are ready: verify, load, warm up, reproduce the golden vectors.

use std::{io, sync::Arc, time::Instant};

use bytes::Bytes;
use embed_schemas::Artefact;
use ort::environment::Environment;

use super::{
    GoldenError, Link, RegistryError, Selected, Shelf, Skipped,
    golden::Tolerance,
    shelf::SessionKey,
    verify_golden,
    warm_up::{self, Largest},
};
use crate::{
    batch::{CostTable, Form, Padding, Unit},
    config::{Devices, EngineConfig, Provider},
    engine::{Engine, EngineError, OnnxEngine, OnnxModel, Place, cores, driver, library, providers::Options},
    tokenize::{TextTokenizer, TokenizeError},
};

/// A version that is loaded and verified.
#[derive(Debug)]
pub struct LoadedVersion<E> {
    /// One engine for each runner.
    pub engines: Vec<E>,
    /// The tokenizer.
    pub tokenizer: Arc<TextTokenizer>,
    /// What runs cost, for the planner.
    pub costs: CostTable,
    /// What it runs on.
    pub running: Running,
}

/// What a version runs on.
#[derive(Debug, Clone)]
pub struct Running {
    /// The execution provider.
    pub provider: Provider,
    /// The devices, by CUDA's numbers. Empty on the CPU.
    pub devices: Vec<u32>,
    /// The graph in use.
    pub artefact: Artefact,
    /// Whether there is one without padding as well.
    pub packed: bool,
    /// Nodes of the graph that another provider runs. `None` if ONNX Runtime does not tell.
    pub nodes_elsewhere: Option<usize>,
    /// Providers that were to be tried before, and why they do not run it.
    pub skipped: Vec<Skipped>,
    /// Most texts and most tokens of a batch, if it is not for `[batch]` to say.
    pub most: Option<(usize, usize)>,
}

/// A version could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The registry failed, or lacks a file, or a file is damaged.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The golden vectors are not reproduced.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// No provider of the chain can run it.
    #[error("no provider of its chain can run it: {}", .0.join("; "))]
    Chain(Vec<String>),
    /// The system gave no thread to load with.
    #[error("a thread to load with: {0}")]
    Thread(io::Error),
    /// Loading panicked.
    #[error("loading ended without a result: see the log")]
    Died,
}

/// The files of a version that serving needs, verified: what was verified is what is loaded.
#[derive(Debug)]
pub struct Files {
    /// The graph.
    pub(super) graph: Bytes,
    /// The graph without padding.
    pub(super) packed: Option<Bytes>,
    /// The tokenizer.
    pub(super) tokenizer: Bytes,
    /// The golden texts.
    pub(super) golden: Bytes,
}

/// Makes a version ready on one provider. Takes from a fraction of a second to minutes, on the calling thread.
///
/// # Errors
/// At the first step that fails; nothing is served then.
pub fn prepare(
    files: &Files,
    selected: &Selected,
    link: &Link,
    config: &EngineConfig,
    max_text_bytes: usize,
    shelf: &Shelf,
) -> Result<LoadedVersion<OnnxEngine>, LoadError> {
    let started = Instant::now();
    let metadata = &selected.metadata;
    let environment = library::environment(config.library.as_deref()).map_err(EngineError::from)?;
    let key = (metadata.tokenizer.sha256.clone(), metadata.max_seq_length, max_text_bytes);
    let tokenizer = shelf.tokenizer(key, || TextTokenizer::new(&files.tokenizer, metadata, max_text_bytes))?;
    let sessions = Sessions { environment: &environment, files, selected, link, config, shelf };
    let (mut engines, costs, devices) = if link.provider.on_device() {
        sessions.on_devices()?
    } else {
        let (engines, costs) = sessions.on_cpu()?;
        (engines, costs, Vec::new())
    };
    let tolerance = Tolerance::of(link.graph.precision, link.provider, config);
    let mut verified = None;
    for engine in &mut engines {
        // Each device computes for itself, and each graph.
        if verified.replace(engine.unit()) == Some(engine.unit())
            || (!link.provider.on_device() && engine.unit() != Unit(0))
        {
            continue;
        }
        verify_golden(&files.golden, metadata, tolerance, Form::Padded, &tokenizer, engine)?;
        if engine.packs() {
            verify_golden(&files.golden, metadata, tolerance, Form::Packed, &tokenizer, engine)?;
        }
    }
    let running = Running {
        provider: link.provider,
        devices,
        artefact: link.graph.clone(),
        packed: link.packed.is_some(),
        nodes_elsewhere: engines.first().and_then(OnnxEngine::nodes_elsewhere),
        skipped: Vec::new(),
        most: link.provider.on_device().then_some((config.device.max_texts, config.device.max_tokens)),
    };
    tracing::info!(
        model = %selected.model,
        variant = %selected.variant,
        version = %metadata.version,
        precision = %running.artefact.precision,
        provider = %running.provider,
        devices = ?running.devices,
        packed = running.packed,
        nodes_elsewhere = running.nodes_elsewhere,
        runners = engines.len(),
        milliseconds = started.elapsed().as_millis() as u64,
        "model loaded, verified and warm"
    );
    Ok(LoadedVersion { engines, tokenizer, costs, running })
}

/// What sessions are made of.
struct Sessions<'a> {
    environment: &'a Environment,
    files: &'a Files,
    selected: &'a Selected,
    link: &'a Link,
    config: &'a EngineConfig,
    shelf: &'a Shelf,
}

impl Sessions<'_> {
    fn load(&self, graph: &Bytes, artefact: &Artefact, device: u32, number: usize) -> Result<OnnxModel, EngineError> {
        let place = Place { provider: self.link.provider, device };
        let load =
            || OnnxModel::load(self.environment, graph, &self.selected.metadata, self.config, place, &Options::new());
        self.shelf.model(SessionKey { sha256: artefact.file.sha256.clone(), place, number }, load)
    }

    /// Side by side on the same weights, one for each core.
    fn on_cpu(&self) -> Result<(Vec<OnnxEngine>, CostTable), LoadError> {
        let runners = match (self.selected.config.instances, self.config.runners) {
            (0, 0) => cores(),
            (0, n) | (n, _) => n,
        };
        let model = self.load(&self.files.graph, &self.link.graph, 0, 0)?;
        let mut engines: Vec<_> =
            (0..runners).map(|core| OnnxEngine::on_cpu(model.clone(), Padding::default(), Unit(core))).collect();
        let longest = self.selected.metadata.max_seq_length as usize;
        let measured = warm_up::on_cpu(&mut engines[0], longest, self.config.threads_per_runner == 1)?;
        Ok((engines, CostTable::new(&measured, Padding::default())))
    }

    /// On every device several that share its sessions.
    fn on_devices(&self) -> Result<(Vec<OnnxEngine>, CostTable, Vec<u32>), LoadError> {
        let (link, device) = (self.link, &self.config.device);
        let devices = match &self.config.devices {
            Devices::These(devices) => devices.clone(),
            Devices::All(_) => {
                let count = driver::devices();
                let provider = link.provider.as_str();
                (0..count.map_err(|reason| EngineError::Provider { provider, reason })?).collect()
            }
        };
        let runners = if self.selected.config.instances > 0 { self.selected.config.instances } else { device.runners };
        let longest = self.selected.metadata.max_seq_length as usize;
        let padding = Padding::new(device.widths.clone(), device.rows.clone(), longest);
        let largest = Largest { texts: device.max_texts, tokens: device.max_tokens, width: longest };
        let (mut engines, mut measured) = (Vec::new(), Vec::new());
        for (unit, number) in devices.iter().enumerate() {
            let sessions = device.sessions(runners);
            let mut models = Vec::with_capacity(sessions);
            for session in 0..sessions {
                let padded = self.load(&self.files.graph, &link.graph, *number, session)?;
                let packed = match (&self.files.packed, &link.packed) {
                    (Some(graph), Some(artefact)) => Some(self.load(graph, artefact, *number, session)?),
                    _ => None,
                };
                models.push((padded, packed));
            }
            for runner in 0..runners {
                let (padded, packed) = models[runner % sessions].clone();
                let mut engine = OnnxEngine::on_device(padded, packed, padding.clone(), Unit(unit), device.pinned);
                if unit == 0 && runner == 0 {
                    measured = warm_up::on_device(&mut engine, largest)?;
                } else {
                    warm_up::settle(&mut engine, largest, Form::Padded)?;
                }
                engines.push(engine);
            }
        }
        Ok((engines, CostTable::new(&measured, padding), devices))
    }
}
