//! A graph on the CPU in two sessions with one copy of its weights: one whose runs have one thread each, and one whose runs have several.

use embed_schemas::ModelMetadata;
use ort::{environment::Environment, session::builder::SessionBuilder};

use super::{
    super::{
        error::EngineError,
        interface::{Engine, Input, Vectors},
        onnx_file,
        providers::{Options, Place},
    },
    cpu::CpuEngine,
    model::{Helpers, OnnxModel, side_by_side},
    weights::SharedWeights,
};
use crate::{
    settings::{EngineConfig, Provider},
    shape::Form,
};

/// A thread that helps with a run looks for more to do for so long before it sleeps. Between two parts of a run, that is enough; longer makes no run
/// shorter.
const SPIN_MICROS: &str = "50";
/// Tokens of the text that tells whether sessions still compute the same.
const TEXT: [u32; 16] = [1; 16];

impl OnnxModel {
    /// As [`OnnxModel::load`], on the CPU, with a second session, whose runs have so many threads.
    ///
    /// # Errors
    /// As there.
    pub fn load_spreading(
        environment: &Environment,
        graph: &[u8],
        metadata: &ModelMetadata,
        config: &EngineConfig,
        threads: usize,
    ) -> Result<Self, EngineError> {
        onnx_file::check(graph, metadata)?;
        let weights = SharedWeights::of(graph)?;
        let place = Place { provider: Provider::Cpu, device: 0 };
        let session = |threads: &dyn Fn(SessionBuilder) -> Result<SessionBuilder, EngineError>| {
            Self::make(environment, graph, metadata, config, place, &Options::new(), |builder| {
                threads(weights.share(builder)?)
            })
        };
        let one = session(&|builder| side_by_side(builder, config))?;
        let several = session(&|builder| {
            Ok(builder
                .with_intra_threads(threads)?
                .with_thread_manager(Helpers { nice: config.nice })?
                .with_intra_op_spinning(true)?
                .with_config_entry("session.intra_op.spin_duration_us", SPIN_MICROS)?
                // Libraries that do not know for how long would go on for tens of milliseconds after each run.
                .with_config_entry("session.force_spinning_stop", "1")?)
        })?;
        let model = one.with_spread(several);
        let mut engine = CpuEngine::new(model.clone(), 0);
        let before = vectors(&mut engine)?;
        weights.give_back();
        if vectors(&mut engine)? != before {
            tracing::debug!("sessions read weights that they could have brought into another order; they stay");
            weights.restore(graph);
        }
        Ok(model)
    }
}

/// What both sessions make of a text.
fn vectors(engine: &mut CpuEngine) -> Result<[Vectors; 2], EngineError> {
    let mut input = Input::default();
    input.fill(std::iter::once(&TEXT[..]));
    let mut run = |form| {
        input.form = form;
        engine.embed(&input)
    };
    Ok([run(Form::Padded)?, run(Form::Spread)?])
}
