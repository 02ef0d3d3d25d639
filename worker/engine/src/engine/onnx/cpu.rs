//! What a runner on the CPU has.

use ort::value::TensorRef;

use super::{
    super::{
        error::EngineError,
        interface::{Engine, Input, Vectors},
    },
    model::{IDS, MASK, OUTPUT, OnnxModel},
};
use crate::shape::{Form, Unit};

/// A graph, shared with the other runners. Batches are read where they are, and run as they are.
#[derive(Debug)]
pub struct CpuEngine {
    model: OnnxModel,
    unit: Unit,
}

impl CpuEngine {
    /// An engine on this core: units tell the cores apart.
    #[must_use]
    pub const fn new(model: OnnxModel, core: usize) -> Self {
        Self { model, unit: Unit(core) }
    }
}

impl Engine for CpuEngine {
    fn dimension(&self) -> usize {
        self.model.dimension()
    }

    fn unit(&self) -> Unit {
        self.unit
    }

    fn forms(&self) -> &'static [Form] {
        if self.model.spread().is_some() { &[Form::Padded, Form::Spread] } else { &[Form::Padded] }
    }

    fn drop_spread(&mut self) {
        self.model.drop_spread();
    }

    fn beside(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Self { model: self.model.clone(), unit: self.unit }))
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let shape = [input.rows, input.width];
        let ids = TensorRef::from_array_view((shape, input.ids.as_slice()))?;
        let mask = TensorRef::from_array_view((shape, input.mask.as_slice()))?;
        let session = match self.model.spread() {
            Some(spread) if input.form == Form::Spread => spread,
            _ => self.model.session(),
        };
        let output = session.run([(IDS, &*ids), (MASK, &*mask)], OUTPUT)?;
        let (_, vectors) = output.try_extract_tensor::<f32>()?;
        let expected = input.rows * self.dimension();
        if vectors.len() != expected {
            return Err(EngineError::Output { found: vectors.len(), expected });
        }
        Ok(vectors.into())
    }
}
