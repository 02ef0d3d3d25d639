//! A graph, loaded into a session of ONNX Runtime.

use std::{
    ffi::CStr,
    sync::{Arc, Weak},
};

use embed_schemas::ModelMetadata;
use ort::{
    environment::Environment,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{Outlet, ValueType},
};

use super::{
    super::{
        error::EngineError,
        onnx_file,
        providers::{self, Options, Place},
    },
    assignment::{self, Assignment},
    shared_session::SharedSession,
};
use crate::settings::{EngineConfig, Provider};

/// Inputs and output of a graph.
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
    assignment: Option<Assignment>,
}

impl OnnxModel {
    /// Loads a graph from its bytes, which have been verified, and looked at for what leads to other files. `more` is what the provider is told about this session alone.
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
        onnx_file::check(graph, metadata)?;
        let builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_config_entry(assignment::RECORD.0, assignment::RECORD.1)?
            // What was looked at is what is loaded: not by what else the bytes may be taken for.
            .with_config_entry("session.load_model_format", "ONNX")?
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
        check_dimension(&session, metadata.dimension)?;
        let assignment = assignment::of(&session, named(place.provider));
        let session = Arc::new(SharedSession::new(session));
        Ok(Self { session, dimension: metadata.dimension as usize, place, assignment })
    }

    /// Which nodes of the graph the wanted provider runs. `None` if ONNX Runtime does not tell.
    #[must_use]
    pub const fn assignment(&self) -> Option<Assignment> {
        self.assignment
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
        let Self { session, dimension, place, assignment } = self;
        WeakModel { session: Arc::downgrade(session), dimension: *dimension, place: *place, assignment: *assignment }
    }
}

/// Memory is taken by what the metadata says, so it must be what the graph gives, where the graph says it.
fn check_dimension(session: &Session, dimension: u32) -> Result<(), EngineError> {
    let output = session.outputs().iter().find(|output| output.name().as_bytes() == OUTPUT.to_bytes());
    let Some(ValueType::Tensor { shape, .. }) = output.map(Outlet::dtype) else { return Ok(()) };
    match shape.last() {
        Some(found) if *found >= 0 && *found != i64::from(dimension) => Err(EngineError::Graph(format!(
            "its vectors have {found} components, but `dimension` in metadata.json is {dimension}"
        ))),
        _ => Ok(()),
    }
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

/// How a provider's name begins in ONNX Runtime.
const fn named(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPU",
        Provider::Cuda => "CUDA",
        Provider::Tensorrt => "Tensorrt",
        Provider::TensorrtRtx => "NvTensorRTRTX",
    }
}

/// A model that is loaded as long as somebody else uses it.
#[derive(Debug)]
pub struct WeakModel {
    session: Weak<SharedSession>,
    dimension: usize,
    place: Place,
    assignment: Option<Assignment>,
}

impl WeakModel {
    /// The model, if it is still loaded.
    #[must_use]
    pub fn upgrade(&self) -> Option<OnnxModel> {
        let Self { session, dimension, place, assignment } = self;
        Some(OnnxModel { session: session.upgrade()?, dimension: *dimension, place: *place, assignment: *assignment })
    }
}
