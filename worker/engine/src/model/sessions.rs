//! Sessions of a version, and the engines that share them: on the CPU one for each core, on devices some for each.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use embed_schemas::{Artefact, Precision, model::GraphForm};
use ort::environment::Environment;

use super::{
    engine_cache,
    files::Files,
    loaded::{DeviceBounds, LoadContext, LoadError},
    provider_chain::ProviderGraph,
    resolve::ResolvedModel,
    shared::SessionKey,
    warm_up::{self, Largest},
};
use crate::{
    batch::{CostTable, Measured},
    engine::{
        Assignment, ByWidth, CpuEngine, DeviceEngine, Engine, EngineError, OnnxModel, OpenvinoEngine, OpenvinoModel,
        Place,
        cuda_graphs::{self, CudaGraphs},
        driver,
        providers::{Options, urgent_stream},
        tensorrt,
    },
    settings::{DeviceCalls, Provider},
    shape::{Form, Padding, Unit},
    threads::give_way,
};

/// How much longer than the shortest a run has to be for a device to be used well: most of the shortest goes into launching it.
const WORTH_A_LAUNCH: u32 = 3;

/// Tokens of the largest first run of an engine for calls alone: those of a few long texts.
const URGENT_TOKENS: usize = 4096;

/// Engines that have made their first runs.
pub(super) struct Engines {
    /// One for each runner.
    pub(super) engines: Vec<Box<dyn Engine>>,
    /// Those for calls alone, whose runs go before those of the others.
    pub(super) urgent: Vec<Box<dyn Engine>>,
    /// Why there are none, if there were to be.
    pub(super) urgent_refused: Option<String>,
    /// What runs cost.
    pub(super) costs: CostTable,
    /// The devices, by CUDA's numbers. Empty on the CPU.
    pub(super) devices: Vec<u32>,
    /// What bounds batches, if the engines have bounds of their own.
    pub(super) bounds: Option<DeviceBounds>,
    /// Threads of a run that has the cores to itself. `None`: as many as others.
    pub(super) spread: Option<usize>,
    /// Why it has not more, if it was to.
    pub(super) spread_refused: Option<String>,
    /// Which nodes of the graph the wanted provider runs; of several graphs, where it is fewest. `None` if ONNX Runtime does not tell.
    pub(super) assignment: Option<Assignment>,
}

/// What sessions are made of.
pub(super) struct Sessions<'a> {
    pub(super) environment: &'a Environment,
    pub(super) files: &'a Files,
    pub(super) model: &'a ResolvedModel,
    pub(super) target: &'a ProviderGraph,
    pub(super) context: &'a LoadContext<'a>,
}

/// The graphs of one session: those with padding, and the one without.
type Graphs = (ByWidth, Option<OnnxModel>);

impl Sessions<'_> {
    /// The engines of this target of the chain, wherever it leads.
    pub(super) fn engines(&self) -> Result<Engines, LoadError> {
        match self.target.provider {
            Provider::Cpu => self.on_cpu(),
            Provider::Openvino => self.on_openvino(),
            _ => self.on_devices(),
        }
    }

    fn load(
        &self,
        graph: &Bytes,
        artefact: &Artefact,
        device: u32,
        number: (usize, usize),
        options: &Options,
    ) -> Result<OnnxModel, EngineError> {
        let place = Place { provider: self.target.provider, device };
        let LoadContext { config, shared, .. } = *self.context;
        let load = || OnnxModel::load(self.environment, graph, &self.model.metadata, config, place, options);
        shared.model(SessionKey { sha256: artefact.file.sha256.clone(), place, number }, load)
    }

    fn longest(&self) -> usize {
        self.model.metadata.max_seq_length as usize
    }

    /// Runs at the same time on the processor.
    fn runners(&self) -> usize {
        self.context.config.runners_on_cores(self.model.spec.instances)
    }

    /// Side by side on the same weights, each on a thread of OpenVINO's.
    fn on_openvino(&self) -> Result<Engines, LoadError> {
        let (LoadContext { config, shared, .. }, runners) = (*self.context, self.runners());
        let (graph, artefact, metadata) = (&self.files.graph, &self.target.graph, &self.model.metadata);
        // Those threads get it from this one.
        give_way(config.nice);
        let compile = || OpenvinoModel::compile(graph, metadata, artefact.precision, config, runners);
        let model = shared.compiled((artefact.file.sha256.clone(), artefact.precision, runners), compile)?;
        let engines = (0..runners).map(|core| OpenvinoEngine::new(&model, core));
        let mut engines = engines.collect::<Result<Vec<_>, _>>()?;
        let measured = warm_up::on_streams(&mut engines[0], self.longest())?;
        Ok(Engines {
            engines: engines.into_iter().map(|engine| Box::new(engine) as _).collect(),
            costs: CostTable::new(&measured, Padding::default()),
            devices: Vec::new(),
            bounds: None,
            // It runs a graph as a whole, or refuses it.
            assignment: Some(Assignment::default()),
            urgent: Vec::new(),
            urgent_refused: None,
            spread: None,
            spread_refused: None,
        })
    }

    /// Side by side on the same weights, one for each core.
    fn on_cpu(&self) -> Result<Engines, LoadError> {
        let (config, runners) = (self.context.config, self.runners());
        // What is only for calls that are alone keeps no version from being served.
        let mut spread_refused = None;
        let spreading = config.spread().and_then(|threads| match self.load_spreading(threads) {
            Ok(model) => Some((threads, model)),
            Err(error) => {
                tracing::error!(%error, "no call can be spread over several cores");
                spread_refused = Some(error.to_string());
                None
            }
        });
        let (spread, model) = match spreading {
            Some((threads, model)) => (Some(threads), model),
            None => (None, self.load(&self.files.graph, &self.target.graph, 0, (0, 0), &Options::new())?),
        };
        let alone = config.threads_per_runner == 1;
        let measured = warm_up::on_cpu(&mut CpuEngine::new(model.clone(), 0), self.longest(), alone)?;
        Ok(Engines {
            assignment: model.assignment(),
            engines: (0..runners).map(|core| Box::new(CpuEngine::new(model.clone(), core)) as _).collect(),
            costs: CostTable::new(&measured, Padding::default()),
            devices: Vec::new(),
            bounds: None,
            urgent: Vec::new(),
            urgent_refused: None,
            spread,
            spread_refused,
        })
    }

    /// The graph on the CPU, which can be run on so many threads as well.
    fn load_spreading(&self, threads: usize) -> Result<OnnxModel, EngineError> {
        let LoadContext { config, shared, .. } = *self.context;
        let (metadata, graph) = (&self.model.metadata, &self.files.graph);
        let place = Place { provider: self.target.provider, device: 0 };
        let key = SessionKey { sha256: self.target.graph.file.sha256.clone(), place, number: (0, 0) };
        shared.model(key, || OnnxModel::load_spreading(self.environment, graph, metadata, config, threads))
    }

    /// On every device several that share its sessions.
    fn on_devices(&self) -> Result<Engines, LoadError> {
        let device = &self.context.config.device;
        let provider = self.target.provider.as_str();
        let unknown = |reason| EngineError::Provider { provider, reason };
        let devices = driver::chosen(&self.context.config.devices).map_err(unknown)?;
        let runners = device.runners(self.model.spec.instances);
        let sessions = device.sessions(runners);
        let padding = Padding::new(device.widths.clone(), device.rows.clone(), self.longest());
        let mut largest = Largest { texts: device.max_texts, tokens: device.max_tokens, width: self.longest() };
        let (mut engines, mut measured) = (Vec::<Box<dyn Engine>>::new(), Vec::new());
        let mut assignment = Some(Assignment::default());
        for (unit, number) in devices.iter().enumerate() {
            let graphs: Vec<Graphs> =
                (0..sessions).map(|session| self.graphs(*number, session)).collect::<Result<_, _>>()?;
            let models = graphs.iter().flat_map(|(padded, packed)| padded.iter().map(|(_, model)| model).chain(packed));
            assignment = models.fold(assignment, |worst, model| Some(worst?.worse(model.assignment()?)));
            for runner in 0..runners {
                let (padded, packed) = graphs[runner % sessions].clone();
                let mut engine = DeviceEngine::new(padded, packed, padding.clone(), Unit(unit), device.pinned);
                if unit == 0 && runner == 0 {
                    self.context.activity.step("measuring what runs cost".to_owned());
                    (measured, largest) = first_runs(&mut engine, largest)?;
                } else {
                    warm_up::settle(&mut engine, largest, Form::Padded)?;
                }
                self.prepare(&mut engine, *number, largest.tokens, &Options::new());
                engines.push(Box::new(engine));
            }
        }
        let shortest = measured.iter().map(|run| run.took).min().unwrap_or_default();
        let calls = self.calls(&devices, shortest);
        let (urgent, urgent_refused) = self.urgent(&devices, calls.runners, &padding, largest);
        let bounds = DeviceBounds {
            texts: device.max_texts,
            tokens: largest.tokens,
            online_run: device.online_run.max(shortest * WORTH_A_LAUNCH),
            beside_calls: calls.beside.max(shortest * WORTH_A_LAUNCH),
        };
        Ok(Engines {
            engines,
            urgent,
            urgent_refused,
            costs: CostTable::new(&measured, padding),
            devices,
            bounds: Some(bounds),
            spread: None,
            spread_refused: None,
            assignment,
        })
    }

    /// What an engine has beside its graphs.
    fn prepare(&self, engine: &mut DeviceEngine, device: u32, max_tokens: usize, options: &Options) {
        engine.limit(max_tokens);
        if let Some(graphs) = self.cuda_graphs(device, max_tokens, options) {
            engine.record(graphs);
        }
    }

    /// Whether there are to be engines for calls alone.
    fn wants_urgent(&self) -> bool {
        self.context.config.device.urgent_calls == Some(true) && self.target.provider == Provider::Cuda
    }

    /// What calls get of these devices.
    fn calls(&self, devices: &[u32], shortest: Duration) -> DeviceCalls {
        let config = &self.context.config.device;
        let calls = config.calls(shortest, self.wants_urgent() && self.target.has_kernels());
        tracing::debug!(?shortest, ?calls, "what calls have of a device");
        if calls.share <= 0.0 {
            return calls;
        }
        let kept = devices.iter().map(|device| embed_kernels::keep_free(*device, calls.share));
        match kept.collect::<Result<Vec<_>, _>>() {
            Ok(multiprocessors) => {
                tracing::info!(
                    ?devices,
                    ?multiprocessors,
                    "while calls come in, large runs leave them multiprocessors"
                );
                calls
            }
            Err(error) => {
                tracing::warn!(%error, "large runs leave calls no multiprocessors: they wait for the ends of kernels");
                config.calls(shortest, false)
            }
        }
    }

    /// So many engines on each device for calls alone, whose runs go before those of the others, or why there are none.
    fn urgent(
        &self,
        devices: &[u32],
        runners: usize,
        padding: &Padding,
        largest: Largest,
    ) -> (Vec<Box<dyn Engine>>, Option<String>) {
        if !self.wants_urgent() {
            return (Vec::new(), None);
        }
        let mut engines: Vec<Box<dyn Engine>> = Vec::with_capacity(devices.len() * runners);
        for (unit, device) in devices.iter().enumerate() {
            for runner in 0..runners {
                match self.urgent_on(*device, unit, padding, largest) {
                    Ok(engine) => engines.push(engine),
                    // One is enough.
                    Err(error) if runner > 0 => {
                        tracing::warn!(%error, device, runners = runner, "fewer calls run at the same time than were to");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "calls have no stream of their own: they wait for the runs before them");
                        return (Vec::new(), Some(error.to_string()));
                    }
                }
            }
        }
        (engines, None)
    }

    fn urgent_on(
        &self,
        device: u32,
        unit: usize,
        padding: &Padding,
        largest: Largest,
    ) -> Result<Box<dyn Engine>, EngineError> {
        let (stream, options) = urgent_stream(device)?;
        let stream = Arc::new(stream);
        let load = |graph: &Bytes| {
            let place = Place { provider: self.target.provider, device };
            let (environment, metadata, config) = (self.environment, &self.model.metadata, self.context.config);
            // Not from the shared: two versions in one stream would wait for each other.
            let model = OnnxModel::load(environment, graph, metadata, config, place, &options)?;
            Ok::<_, EngineError>(model.keeping(Arc::clone(&stream)))
        };
        let padded = load(&self.files.graph)?;
        let packed = match &self.files.packed {
            _ if self.target.graph.form == GraphForm::Kernels => Some(padded.clone()),
            Some(graph) if self.target.packed.is_some() => Some(load(graph)?),
            _ => None,
        };
        let padded = vec![(usize::MAX, padded)];
        let pinned = self.context.config.device.pinned;
        let mut engine = DeviceEngine::new(padded, packed, padding.clone(), Unit(unit), pinned);
        // Its runs are short, and those that are not take their memory when they come.
        let tokens = largest.tokens.min(URGENT_TOKENS);
        warm_up::settle(&mut engine, Largest { tokens, ..largest }, Form::Padded)?;
        self.prepare(&mut engine, device, largest.tokens, &options);
        Ok(Box::new(engine))
    }

    /// What small runs of one runner are recorded in, if they are to be. Without, they only take longer.
    fn cuda_graphs(&self, device: u32, max_tokens: usize, more: &Options) -> Option<CudaGraphs> {
        let (config, target) = (self.context.config, self.target);
        // Its lengths are counted on the processor, which no recording does.
        if target.graph.form == GraphForm::Kernels {
            return None;
        }
        let option = cuda_graphs::option(target.provider, config)?;
        let (longest, mut options) = if target.provider == Provider::Tensorrt {
            // The engine for the narrowest batches, which is in the cache by now.
            self.tensorrt(device).next()?
        } else {
            (self.longest(), Options::new())
        };
        options.push(option);
        options.extend_from_slice(more);
        let place = Place { provider: target.provider, device };
        // Not from the shared: what is recorded in a session belongs to one runner.
        let (metadata, graph) = (&self.model.metadata, &self.files.graph);
        let model = OnnxModel::load(self.environment, graph, metadata, config, place, &options);
        let mut shapes = config.device.cuda_graphs.clone();
        shapes.max_tokens = shapes.max_tokens.min(max_tokens);
        model.and_then(|model| CudaGraphs::new(model, &shapes, longest)).map_or_else(
            |error| {
                tracing::warn!(%error, provider = %target.provider, device, "CUDA graphs cannot be used: small runs take longer");
                None
            },
            Some,
        )
    }

    /// TensorRT's engines by the widest batch that each takes, rising, with what its provider is told of each.
    fn tensorrt(&self, device: u32) -> impl ExactSizeIterator<Item = (usize, Options)> {
        let LoadContext { config, engines, .. } = *self.context;
        let profiles = engine_cache::profiles(self.model, config);
        profiles.into_iter().enumerate().map(move |(i, profile)| {
            let cache = engines.get(i).map(|cache| cache.folder.as_path());
            (profile.max.1, tensorrt::options(&config.tensorrt, device, profile, cache))
        })
    }

    /// The graphs of one session on a device.
    fn graphs(&self, device: u32, session: usize) -> Result<Graphs, EngineError> {
        let (files, target) = (self.files, self.target);
        if target.provider == Provider::Tensorrt {
            let engines = self.tensorrt(device);
            let count = engines.len();
            let mut padded = Vec::with_capacity(count);
            for (i, (widest, options)) in engines.enumerate() {
                // With a cache that has it, this takes a moment, and else minutes.
                self.context.activity.step(format!("building engine {} of {count} on device {device}", i + 1));
                padded.push((widest, self.load(&files.graph, &target.graph, device, (session, i), &options)?));
            }
            return Ok((padded, None));
        }
        let own = [Some(&target.graph), target.packed.as_ref()].into_iter().flatten();
        for artefact in own.filter(|one| one.form == GraphForm::Kernels) {
            let unusable = |reason| EngineError::Provider { provider: target.provider.as_str(), reason };
            let probed = embed_kernels::probe(device, artefact.precision == Precision::Fp8);
            probed.map_err(|error| unusable(error.to_string()))?;
        }
        let padded = self.load(&files.graph, &target.graph, device, (session, 0), &Options::new())?;
        if target.graph.form == GraphForm::Kernels {
            // It computes no padding, whatever it gets.
            return Ok((vec![(usize::MAX, padded.clone())], Some(padded)));
        }
        let packed = match (&files.packed, &target.packed) {
            (Some(graph), Some(artefact)) => Some(self.load(graph, artefact, device, (session, 0), &Options::new())?),
            _ => None,
        };
        Ok((vec![(usize::MAX, padded)], packed))
    }
}

/// The first runs on a device. Gives back what they cost, and how large runs can be.
fn first_runs(engine: &mut DeviceEngine, mut largest: Largest) -> Result<(Vec<Measured>, Largest), EngineError> {
    loop {
        match warm_up::on_device(engine, largest) {
            Ok(measured) => return Ok((measured, largest)),
            Err(EngineError::OutOfMemory(reason)) if largest.tokens / 2 >= largest.width => {
                largest.tokens /= 2;
                tracing::warn!(
                    reason,
                    max_tokens = largest.tokens,
                    "too little memory on the device for engine.device.max_tokens; trying half"
                );
            }
            Err(error) => return Err(error),
        }
    }
}
