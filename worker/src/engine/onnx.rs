//! ONNX Runtime on the CPU.

use std::{
    ffi::CStr,
    sync::{Arc, Weak},
};

use embed_schemas::ModelMetadata;
use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use super::{Engine, EngineError, Input, Vectors, shared_session::SharedSession};

const IDS: &CStr = c"input_ids";
const MASK: &CStr = c"attention_mask";
const OUTPUT: &CStr = c"embedding";

/// A session that turns token ids into vectors: pooling and normalisation are part of the graph. Clones share it, with
/// its weights, and run at the same time.
#[derive(Debug, Clone)]
pub struct OnnxModel {
    session: Arc<SharedSession>,
    dimension: usize,
}

impl OnnxModel {
    /// Loads a graph from its bytes, which have been verified.
    ///
    /// `threads` is the number of threads that work on one batch.
    ///
    /// # Errors
    /// If ONNX Runtime refuses the graph, or the graph does not have the inputs and the output of an embedding graph.
    pub fn load(
        environment: &Environment,
        graph: &[u8],
        metadata: &ModelMetadata,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let session = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            // The fused kernel is slower on the CPU than the parts that it replaces.
            .with_disabled_optimizers("SkipLayerNormFusion")?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            // A worker without work must not burn a core.
            .with_intra_op_spinning(false)?
            // Batches come in many shapes; a plan for each would be kept for ever.
            .with_memory_pattern(false)?
            .commit_from_memory(graph)?;
        for name in [IDS, MASK] {
            if !session.inputs().iter().any(|input| input.name().as_bytes() == name.to_bytes()) {
                return Err(EngineError::Graph(format!("it has no input {name:?}")));
            }
        }
        if !session.outputs().iter().any(|output| output.name().as_bytes() == OUTPUT.to_bytes()) {
            return Err(EngineError::Graph(format!("it has no output {OUTPUT:?}")));
        }
        // No provider was asked for, so the CPU's is the only one.
        let session = Arc::new(SharedSession::on_cpu(session));
        Ok(Self { session, dimension: metadata.dimension as usize })
    }
}

impl OnnxModel {
    /// The same model, without keeping it loaded.
    #[must_use]
    pub fn downgrade(&self) -> WeakModel {
        WeakModel { session: Arc::downgrade(&self.session), dimension: self.dimension }
    }
}

/// A model that is loaded as long as somebody else uses it.
#[derive(Debug)]
pub struct WeakModel {
    session: Weak<SharedSession>,
    dimension: usize,
}

impl WeakModel {
    /// The model, if it is still loaded.
    #[must_use]
    pub fn upgrade(&self) -> Option<OnnxModel> {
        Some(OnnxModel { session: self.session.upgrade()?, dimension: self.dimension })
    }
}

impl Engine for OnnxModel {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let shape = [input.rows, input.width];
        let ids = TensorRef::from_array_view((shape, input.ids.as_slice()))?;
        let mask = TensorRef::from_array_view((shape, input.mask.as_slice()))?;
        let output = self.session.run([(IDS, &ids), (MASK, &mask)], OUTPUT)?;
        let (_, vectors) = output.try_extract_tensor::<f32>()?;
        let expected = input.rows * self.dimension;
        if vectors.len() != expected {
            return Err(EngineError::Output { found: vectors.len(), expected });
        }
        Ok(vectors.into())
    }
}
