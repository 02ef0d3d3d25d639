//! A graph, loaded into a session of ONNX Runtime.

use std::{
    ffi::CStr,
    sync::{Arc, Weak},
    thread::JoinHandle,
};

use embed_kernels::UrgentStream;
use embed_schemas::ModelMetadata;
use ort::{
    environment::{Environment, ThreadManager},
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
use crate::{
    settings::{EngineConfig, Provider},
    threads::start_ordinary,
};

/// Inputs and output of a graph.
pub(super) const IDS: &CStr = c"input_ids";
pub(super) const MASK: &CStr = c"attention_mask";
pub(super) const OUTPUT: &CStr = c"embedding";

/// A session that turns token ids into vectors: pooling and normalisation are part of the graph. Clones share it, with
/// its weights, and run at the same time.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    session: Arc<SharedSession>,
    /// The same graph, each run on several threads.
    spread: Option<Arc<SharedSession>>,
    dimension: usize,
    place: Place,
    assignment: Option<Assignment>,
    /// The stream of the sessions, if they have one of ours. Behind them: it goes when they have gone.
    stream: Option<Arc<UrgentStream>>,
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
        let facts = onnx_file::check(graph, metadata)?;
        Self::make(environment, graph, metadata, config, place, more, |builder| {
            if place.provider.on_device() {
                // What little is left to the CPU.
                let builder = builder.with_intra_threads(1)?.with_intra_op_spinning(false)?;
                let own = facts.own_operators && place.provider == Provider::Cuda;
                return if own { providers::with_own_operators(builder) } else { Ok(builder) };
            }
            side_by_side(builder, config)
        })
    }

    /// Loads a graph that has been looked at. `threads` says how many threads a run has on the CPU.
    pub(super) fn make(
        environment: &Environment,
        graph: &[u8],
        metadata: &ModelMetadata,
        config: &EngineConfig,
        place: Place,
        more: &Options,
        threads: impl FnOnce(SessionBuilder) -> Result<SessionBuilder, EngineError>,
    ) -> Result<Self, EngineError> {
        let builder = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_config_entry(assignment::RECORD.0, assignment::RECORD.1)?
            // What was looked at is what is loaded: not by what else the bytes may be taken for.
            .with_config_entry("session.load_model_format", "ONNX")?
            .with_inter_threads(1)?
            // Batches come in many shapes; a plan for each would be kept for ever.
            .with_memory_pattern(false)?;
        let builder = providers::register(builder, environment, config, place, more)
            .map_err(|reason| EngineError::Provider { provider: place.provider.as_str(), reason })?;
        let session = threads(tuned(builder, place.provider)?)?.commit_from_memory(graph)?;
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
        Ok(Self { session, spread: None, dimension: metadata.dimension as usize, place, assignment, stream: None })
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

    /// The session whose runs have several threads, if there is one.
    pub(super) fn spread(&self) -> Option<&SharedSession> {
        self.spread.as_deref()
    }

    /// The same, with another session of its graph whose runs have several threads.
    pub(super) fn with_spread(self, other: Self) -> Self {
        Self { spread: Some(other.session), ..self }
    }

    /// From now on without that session.
    pub(super) fn drop_spread(&mut self) {
        self.spread = None;
    }

    /// The same, which was loaded for this stream.
    #[must_use]
    pub fn keeping(self, stream: Arc<UrgentStream>) -> Self {
        Self { stream: Some(stream), ..self }
    }

    /// The stream that it was loaded for.
    pub(super) fn stream(&self) -> Option<&UrgentStream> {
        self.stream.as_deref()
    }

    /// The same model, without keeping it loaded.
    #[must_use]
    pub fn downgrade(&self) -> WeakModel {
        let Self { session, spread, dimension, place, assignment, stream } = self;
        WeakModel {
            session: Arc::downgrade(session),
            spread: spread.as_ref().map(Arc::downgrade),
            dimension: *dimension,
            place: *place,
            assignment: *assignment,
            stream: stream.as_ref().map(Arc::downgrade),
        }
    }
}

/// On the CPU, for runs beside others: as many threads as the settings say.
pub(super) fn side_by_side(builder: SessionBuilder, config: &EngineConfig) -> Result<SessionBuilder, EngineError> {
    // A worker without work must not burn a core.
    let builder = builder.with_intra_threads(config.threads_per_runner)?.with_intra_op_spinning(false)?;
    if config.threads_per_runner == 1 {
        return Ok(builder);
    }
    // Whoever loads may have given way to others.
    Ok(builder.with_thread_manager(Helpers { nice: config.nice })?)
}

/// Starts the threads that help with a run.
pub(super) struct Helpers {
    pub(super) nice: u8,
}

impl ThreadManager for Helpers {
    type Thread = JoinHandle<()>;

    fn create(&self, work: impl FnOnce() + Send + 'static) -> ort::Result<JoinHandle<()>> {
        start_ordinary("engine-helper", self.nice, work).map_err(ort::Error::wrap)
    }

    fn join(thread: JoinHandle<()>) -> ort::Result<()> {
        thread.join().map_err(|_| ort::Error::new("a thread that helps with runs panicked"))
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
fn tuned(builder: SessionBuilder, provider: Provider) -> Result<SessionBuilder, EngineError> {
    if provider.on_device() {
        return Ok(builder);
    }
    // The fused kernel is slower on the CPU than the parts that it replaces.
    Ok(builder.with_disabled_optimizers("SkipLayerNormFusion")?)
}

/// How a provider's name begins in ONNX Runtime.
const fn named(provider: Provider) -> &'static str {
    match provider {
        Provider::Cpu => "CPU",
        Provider::Openvino => "OpenVINO",
        Provider::Cuda => "CUDA",
        Provider::Tensorrt => "Tensorrt",
        Provider::TensorrtRtx => "NvTensorRTRTX",
    }
}

/// A model that is loaded as long as somebody else uses it.
#[derive(Debug)]
pub struct WeakModel {
    session: Weak<SharedSession>,
    spread: Option<Weak<SharedSession>>,
    dimension: usize,
    place: Place,
    assignment: Option<Assignment>,
    stream: Option<Weak<UrgentStream>>,
}

impl WeakModel {
    /// The model, if it is still loaded.
    #[must_use]
    pub fn upgrade(&self) -> Option<OnnxModel> {
        let Self { session, spread, dimension, place, assignment, stream } = self;
        Some(OnnxModel {
            session: session.upgrade()?,
            spread: spread.as_ref().and_then(Weak::upgrade),
            dimension: *dimension,
            place: *place,
            assignment: *assignment,
            stream: stream.as_ref().and_then(Weak::upgrade),
        })
    }
}
