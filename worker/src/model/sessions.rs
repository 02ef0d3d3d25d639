//! Sessions of a version, and the engines that share them: on the CPU one for each core, on devices some for each.

use bytes::Bytes;
use embed_schemas::Artefact;
use ort::environment::Environment;

use super::{
    Files, Link, LoadError, Selected, Setup, engine_cache,
    shelf::SessionKey,
    warm_up::{self, Largest},
};
use crate::{
    batch::{CostTable, Form, Measured, Padding, Unit},
    config::{Devices, Provider},
    engine::{
        EngineError, OnnxEngine, OnnxModel, Place, cores,
        cuda_graphs::{self, CudaGraphs},
        driver,
        providers::Options,
        tensorrt,
    },
};

/// Engines on devices.
pub(super) struct OnDevices {
    pub(super) engines: Vec<OnnxEngine>,
    pub(super) costs: CostTable,
    pub(super) devices: Vec<u32>,
    /// Most tokens of a batch that the devices have memory for, as far as configured.
    pub(super) max_tokens: usize,
}

/// What sessions are made of.
pub(super) struct Sessions<'a> {
    pub(super) environment: &'a Environment,
    pub(super) files: &'a Files,
    pub(super) selected: &'a Selected,
    pub(super) link: &'a Link,
    pub(super) setup: &'a Setup<'a>,
}

/// The graphs of one session: those with padding by the widest batch that each takes, and the one without.
type Graphs = (Vec<(usize, OnnxModel)>, Option<OnnxModel>);

impl Sessions<'_> {
    fn load(
        &self,
        graph: &Bytes,
        artefact: &Artefact,
        device: u32,
        number: (usize, usize),
        options: &Options,
    ) -> Result<OnnxModel, EngineError> {
        let place = Place { provider: self.link.provider, device };
        let Setup { config, shelf, .. } = *self.setup;
        let load = || OnnxModel::load(self.environment, graph, &self.selected.metadata, config, place, options);
        shelf.model(SessionKey { sha256: artefact.file.sha256.clone(), place, number }, load)
    }

    fn longest(&self) -> usize {
        self.selected.metadata.max_seq_length as usize
    }

    /// Side by side on the same weights, one for each core.
    pub(super) fn on_cpu(&self) -> Result<(Vec<OnnxEngine>, CostTable), LoadError> {
        let config = self.setup.config;
        let runners = match (self.selected.config.instances, config.runners) {
            (0, 0) => cores(),
            (0, n) | (n, _) => n,
        };
        let model = self.load(&self.files.graph, &self.link.graph, 0, (0, 0), &Options::new())?;
        let mut engines: Vec<_> =
            (0..runners).map(|core| OnnxEngine::on_cpu(model.clone(), Padding::default(), Unit(core))).collect();
        let alone = config.threads_per_runner == 1;
        let measured = warm_up::on_cpu(&mut engines[0], self.longest(), alone)?;
        Ok((engines, CostTable::new(&measured, Padding::default())))
    }

    /// On every device several that share its sessions.
    pub(super) fn on_devices(&self) -> Result<OnDevices, LoadError> {
        let device = &self.setup.config.device;
        let devices = self.devices()?;
        let runners = if self.selected.config.instances > 0 { self.selected.config.instances } else { device.runners };
        let sessions = device.sessions(runners);
        let padding = Padding::new(device.widths.clone(), device.rows.clone(), self.longest());
        let mut largest = Largest { texts: device.max_texts, tokens: device.max_tokens, width: self.longest() };
        let (mut engines, mut measured) = (Vec::new(), Vec::new());
        for (unit, number) in devices.iter().enumerate() {
            let graphs: Vec<Graphs> =
                (0..sessions).map(|session| self.graphs(*number, session)).collect::<Result<_, _>>()?;
            for runner in 0..runners {
                let (padded, packed) = graphs[runner % sessions].clone();
                let mut engine = OnnxEngine::on_device(padded, packed, padding.clone(), Unit(unit), device.pinned);
                if unit == 0 && runner == 0 {
                    self.setup.activity.step("measuring what runs cost".to_owned());
                    (measured, largest) = first_runs(&mut engine, largest)?;
                } else {
                    warm_up::settle(&mut engine, largest, Form::Padded)?;
                }
                if let Some(graphs) = self.cuda_graphs(*number) {
                    engine.record(graphs);
                }
                engines.push(engine);
            }
        }
        Ok(OnDevices { engines, costs: CostTable::new(&measured, padding), devices, max_tokens: largest.tokens })
    }

    fn devices(&self) -> Result<Vec<u32>, EngineError> {
        match &self.setup.config.devices {
            Devices::These(devices) => Ok(devices.clone()),
            Devices::All(_) => {
                let provider = self.link.provider.as_str();
                let count = driver::devices().map_err(|reason| EngineError::Provider { provider, reason })?;
                Ok((0..count).collect())
            }
        }
    }

    /// What small runs of one runner are recorded in, if they are to be. Without, they only take longer.
    fn cuda_graphs(&self, device: u32) -> Option<CudaGraphs> {
        let (config, link) = (self.setup.config, self.link);
        let option = cuda_graphs::option(link.provider, config)?;
        let (mut options, mut longest) = (Options::new(), self.longest());
        if link.provider == Provider::Tensorrt {
            // The engine for the narrowest batches, which is in the cache by now.
            let profile = *engine_cache::profiles(self.selected, config).first()?;
            let cache = self.setup.engines.first().map(|cache| cache.folder.as_path());
            (options, longest) = (tensorrt::options(&config.tensorrt, device, profile, cache), profile.max.1);
        }
        options.push(option);
        let place = Place { provider: link.provider, device };
        // Not from the shelf: what is recorded in a session belongs to one runner.
        let (metadata, graph) = (&self.selected.metadata, &self.files.graph);
        let model = OnnxModel::load(self.environment, graph, metadata, config, place, &options);
        model.and_then(|model| CudaGraphs::new(model, &config.device.cuda_graphs, longest)).map_or_else(
            |error| {
                tracing::warn!(%error, provider = %link.provider, device, "CUDA graphs cannot be used: small runs take longer");
                None
            },
            Some,
        )
    }

    /// The graphs of one session on a device.
    fn graphs(&self, device: u32, session: usize) -> Result<Graphs, EngineError> {
        let (files, link, Setup { config, engines, activity, .. }) = (self.files, self.link, *self.setup);
        if link.provider == Provider::Tensorrt {
            let profiles = engine_cache::profiles(self.selected, config);
            let mut padded = Vec::with_capacity(profiles.len());
            for (i, profile) in profiles.iter().enumerate() {
                // With a cache that has it, this takes a moment, and else minutes.
                activity.step(format!("building engine {} of {} on device {device}", i + 1, profiles.len()));
                let cache = engines.get(i).map(|cache| cache.folder.as_path());
                let options = tensorrt::options(&config.tensorrt, device, *profile, cache);
                let model = self.load(&files.graph, &link.graph, device, (session, i), &options)?;
                padded.push((profile.max.1, model));
            }
            return Ok((padded, None));
        }
        let padded = self.load(&files.graph, &link.graph, device, (session, 0), &Options::new())?;
        let packed = match (&files.packed, &link.packed) {
            (Some(graph), Some(artefact)) => Some(self.load(graph, artefact, device, (session, 0), &Options::new())?),
            _ => None,
        };
        Ok((vec![(usize::MAX, padded)], packed))
    }
}

/// The first runs on a device. Gives back what they cost, and how large runs can be.
fn first_runs(engine: &mut OnnxEngine, mut largest: Largest) -> Result<(Vec<Measured>, Largest), EngineError> {
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
