//! Graphs in ONNX Runtime, on the CPU or on a device.

use std::{
    ffi::CStr,
    sync::{Arc, Weak},
    time::Instant,
};

use embed_schemas::ModelMetadata;
use ort::{
    environment::Environment,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::TensorRef,
};

use super::{
    Engine, EngineError, Input, Place, Vectors, assignment,
    cuda_graphs::CudaGraphs,
    gate,
    providers::{self, Options},
    shared_session::SharedSession,
    staging::Staging,
};
use crate::{
    batch::{Form, Padding, Unit},
    config::{EngineConfig, Provider},
};

pub(super) const IDS: &CStr = c"input_ids";
pub(super) const MASK: &CStr = c"attention_mask";
pub(super) const OUTPUT: &CStr = c"embedding";

/// A session that turns token ids into vectors: pooling and normalisation are part of the graph. Clones share it, with
/// its weights, and run at the same time.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    session: Arc<SharedSession>,
    dimension: usize,
    place: Place,
    elsewhere: Option<usize>,
}

impl OnnxModel {
    /// Loads a graph from its bytes, which have been verified. `more` is what the provider is told about this session alone.
    ///
    /// # Errors
    /// If the provider cannot be used, ONNX Runtime refuses the graph, or the graph does not have the inputs and the output of
    /// an embedding graph.
    pub fn load(
        environment: &Environment,
        graph: &[u8],
        metadata: &ModelMetadata,
        config: &EngineConfig,
        place: Place,
        more: &Options,
    ) -> Result<Self, EngineError> {
        let builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_config_entry(assignment::RECORD.0, assignment::RECORD.1)?
            .with_inter_threads(1)?
            // A worker without work must not burn a core.
            .with_intra_op_spinning(false)?
            // Batches come in many shapes; a plan for each would be kept for ever.
            .with_memory_pattern(false)?;
        let builder = providers::register(builder, environment, config, place, more)
            .map_err(|reason| EngineError::Provider { provider: place.provider.as_str(), reason })?;
        let session = tuned(builder, config, place.provider)?.commit_from_memory(graph)?;
        for name in [IDS, MASK] {
            if !session.inputs().iter().any(|input| input.name().as_bytes() == name.to_bytes()) {
                return Err(EngineError::Graph(format!("it has no input {name:?}")));
            }
        }
        if !session.outputs().iter().any(|output| output.name().as_bytes() == OUTPUT.to_bytes()) {
            return Err(EngineError::Graph(format!("it has no output {OUTPUT:?}")));
        }
        let elsewhere = assignment::nodes(&session).map(|nodes| elsewhere(&nodes, place.provider));
        let session = Arc::new(SharedSession::new(session));
        Ok(Self { session, dimension: metadata.dimension as usize, place, elsewhere })
    }

    /// Nodes of the graph that another provider than the wanted one runs. `None` if ONNX Runtime does not tell.
    #[must_use]
    pub const fn nodes_elsewhere(&self) -> Option<usize> {
        self.elsewhere
    }

    pub(super) const fn dimension(&self) -> usize {
        self.dimension
    }

    pub(super) const fn place(&self) -> Place {
        self.place
    }

    pub(super) fn session(&self) -> &SharedSession {
        &self.session
    }

    /// The same model, without keeping it loaded.
    #[must_use]
    pub fn downgrade(&self) -> WeakModel {
        let Self { session, dimension, place, elsewhere } = self;
        WeakModel { session: Arc::downgrade(session), dimension: *dimension, place: *place, elsewhere: *elsewhere }
    }
}

/// The graph for a width.
fn graph_for(graphs: &[(usize, OnnxModel)], width: usize) -> &OnnxModel {
    let fits = graphs.iter().find(|(widest, _)| width <= *widest);
    // What is wider than all of them is refused by the widest, with a message.
    &fits.unwrap_or(&graphs[graphs.len() - 1]).1
}

/// What is particular to a provider.
fn tuned(builder: SessionBuilder, config: &EngineConfig, provider: Provider) -> Result<SessionBuilder, EngineError> {
    if provider.on_device() {
        // What little is left to the CPU.
        return Ok(builder.with_intra_threads(1)?);
    }
    // The fused kernel is slower on the CPU than the parts that it replaces.
    Ok(builder.with_intra_threads(config.threads_per_runner)?.with_disabled_optimizers("SkipLayerNormFusion")?)
}

/// Nodes that are not where they should be.
fn elsewhere(nodes: &std::collections::BTreeMap<String, usize>, provider: Provider) -> usize {
    let wanted = match provider {
        Provider::Cpu => "CPU",
        Provider::Cuda => "CUDA",
        Provider::Tensorrt => "Tensorrt",
        Provider::TensorrtRtx => "NvTensorRTRTX",
    };
    nodes.iter().filter(|(name, _)| !name.starts_with(wanted)).map(|(_, count)| count).sum()
}

/// A model that is loaded as long as somebody else uses it.
#[derive(Debug)]
pub struct WeakModel {
    session: Weak<SharedSession>,
    dimension: usize,
    place: Place,
    elsewhere: Option<usize>,
}

impl WeakModel {
    /// The model, if it is still loaded.
    #[must_use]
    pub fn upgrade(&self) -> Option<OnnxModel> {
        let Self { session, dimension, place, elsewhere } = self;
        Some(OnnxModel { session: session.upgrade()?, dimension: *dimension, place: *place, elsewhere: *elsewhere })
    }
}

/// What one runner has: graphs, which it shares with others, and memory of its own.
#[derive(Debug)]
pub struct OnnxEngine {
    graphs: Option<CudaGraphs>,
    /// Before the models: it comes from their sessions.
    staging: Option<Staging>,
    /// By the widest batch that each takes, rising.
    padded: Vec<(usize, OnnxModel)>,
    packed: Option<OnnxModel>,
    padding: Padding,
    unit: Unit,
}

impl OnnxEngine {
    /// An engine on the CPU. Units tell the cores apart.
    #[must_use]
    pub fn on_cpu(model: OnnxModel, padding: Padding, unit: Unit) -> Self {
        Self { graphs: None, staging: None, padded: vec![(usize::MAX, model)], packed: None, padding, unit }
    }

    /// An engine on a device: graphs by the widest batch that each takes, of which there is one at least, and one without padding if
    /// there is any. Batches are padded to the shapes of `padding`.
    #[must_use]
    pub fn on_device(
        padded: Vec<(usize, OnnxModel)>,
        packed: Option<OnnxModel>,
        padding: Padding,
        unit: Unit,
        pinned: bool,
    ) -> Self {
        let (place, session) = (padded[0].1.place, &padded[0].1.session);
        let staging = if pinned { Staging::pinned(session, place.device) } else { Ok(Staging::pageable()) };
        let staging = staging.unwrap_or_else(|error| {
            tracing::warn!(%error, provider = %place.provider, device = place.device, "no page-locked memory: copies take longer");
            Staging::pageable()
        });
        Self { graphs: None, staging: Some(staging), padded, packed, padding, unit }
    }

    /// Small runs are recorded from now on, if that works: see [`Engine::settle`].
    pub fn record(&mut self, graphs: CudaGraphs) {
        self.graphs = Some(graphs);
    }

    /// Nodes of its graph that another provider than the wanted one runs. `None` if ONNX Runtime does not tell.
    #[must_use]
    pub fn nodes_elsewhere(&self) -> Option<usize> {
        self.padded[0].1.nodes_elsewhere()
    }
}

/// One run, its kernels launched one by one.
impl OnnxEngine {
    fn run_on_host(&self, input: &Input) -> Result<Vectors, EngineError> {
        let model = &self.padded[0].1;
        let shape = [input.rows, input.width];
        let ids = TensorRef::from_array_view((shape, input.ids.as_slice()))?;
        let mask = TensorRef::from_array_view((shape, input.mask.as_slice()))?;
        let output = model.session.run([(IDS, &*ids), (MASK, &*mask)], OUTPUT)?;
        let (_, vectors) = output.try_extract_tensor::<f32>()?;
        let expected = input.rows * model.dimension;
        if vectors.len() != expected {
            return Err(EngineError::Output { found: vectors.len(), expected });
        }
        Ok(vectors.into())
    }

    fn run_on_device(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let (model, shape) = match (input.form, &self.packed) {
            // Its tokens are counted, not its rows: nothing would be of a shape that has been there.
            (Form::Packed, Some(packed)) => (packed, (input.rows, input.width)),
            _ => {
                let shape = self.padding.of(input.rows, input.width);
                (graph_for(&self.padded, shape.1), shape)
            }
        };
        let Some(staging) = &mut self.staging else { return self.run_on_host(input) };
        let (ids, mask, vectors) = staging.fill(input, shape, model.dimension)?;
        model.session.run_into([(IDS, &*ids), (MASK, &*mask)], OUTPUT, &*vectors, None)?;
        Ok(staging.vectors(input.rows * model.dimension).into())
    }
}

impl Engine for OnnxEngine {
    fn dimension(&self) -> usize {
        self.padded[0].1.dimension
    }

    fn unit(&self) -> Unit {
        self.unit
    }

    fn packs(&self) -> bool {
        self.packed.is_some()
    }

    fn settle(&mut self) {
        if self.staging.is_none() {
            return;
        }
        let mut input = Input::default();
        input.fill([&[1][..]].into_iter());
        for form in self.forms() {
            input.form = *form;
            // If this fails, so does the first run, which says so.
            let _ = self.embed(&input);
        }
        if let Some(mut graphs) = self.graphs.take() {
            let Place { provider, device } = self.padded[0].1.place;
            let started = Instant::now();
            match graphs.record(|input| self.run_on_device(input)) {
                Ok(()) => {
                    let milliseconds = started.elapsed().as_millis() as u64;
                    tracing::debug!(?graphs, %provider, device, milliseconds, "CUDA graphs recorded");
                    self.graphs = Some(graphs);
                }
                Err(error) => {
                    tracing::warn!(%error, %provider, device, "CUDA graphs cannot be used: small runs take longer");
                    let _freeing = gate::run();
                    drop(graphs);
                }
            }
        }
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        if self.staging.is_none() {
            return self.run_on_host(input);
        }
        if let Some(vectors) = self.graphs.as_mut().and_then(|graphs| graphs.run(input)) {
            return vectors;
        }
        let _run = gate::run();
        self.run_on_device(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_elsewhere_are_counted() {
        let nodes = [("CUDAExecutionProvider".to_owned(), 40), ("CPUExecutionProvider".to_owned(), 2)].into();
        assert_eq!(elsewhere(&nodes, Provider::Cuda), 2);
        assert_eq!(elsewhere(&nodes, Provider::Tensorrt), 42);
        assert_eq!(elsewhere(&nodes, Provider::Cpu), 40);
    }
}
