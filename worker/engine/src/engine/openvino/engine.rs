//! What a runner on OpenVINO has.

use super::{
    super::{
        error::EngineError,
        interface::{Engine, Input, Vectors},
    },
    model::{InferRequest, OpenvinoModel},
};
use crate::shape::Unit;

/// A compiled graph, shared with the other runners, and memory for its runs. Batches are read where they are, and run as they are.
#[derive(Debug)]
pub struct OpenvinoEngine {
    request: InferRequest,
    unit: Unit,
}

impl OpenvinoEngine {
    /// An engine on this core: units tell the cores apart.
    ///
    /// # Errors
    /// If there is no memory for its runs.
    pub fn new(model: &OpenvinoModel, core: usize) -> Result<Self, EngineError> {
        Ok(Self { request: model.request()?, unit: Unit(core) })
    }
}

impl Engine for OpenvinoEngine {
    fn dimension(&self) -> usize {
        self.request.model().dimension()
    }

    fn unit(&self) -> Unit {
        self.unit
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        self.request.run(input)
    }
}
