//! What a runner on a device has.

use std::{
    iter,
    time::{Duration, Instant},
};

use super::{
    super::{
        capture_lock,
        error::EngineError,
        interface::{Engine, Input, Vectors},
        providers::Place,
    },
    cuda_graphs::CudaGraphs,
    model::{IDS, MASK, OUTPUT, OnnxModel},
    staging::Staging,
};
use crate::{
    settings::Provider,
    shape::{Form, Padding, Unit},
};

/// Tokens up to which sizes of runs are made once before the first request: those that online calls come in. In larger runs, what is
/// done for the first time is lost among the rest.
const FIRST_RUNS: usize = 4096;

/// How long first runs are made at most, since other versions use the device meanwhile.
const FIRST_RUNS_FOR: Duration = Duration::from_millis(500);

/// Graphs by the widest batch that each takes, rising; one at least.
pub type ByWidth = Vec<(usize, OnnxModel)>;

/// Graphs, which it shares with other runners, and memory of its own.
#[derive(Debug)]
pub struct DeviceEngine {
    graphs: Option<CudaGraphs>,
    /// Before the models: it comes from their sessions.
    staging: Staging,
    padded: ByWidth,
    packed: Option<OnnxModel>,
    padding: Padding,
    unit: Unit,
    /// Tokens of the largest first run.
    first_runs: usize,
}

impl DeviceEngine {
    /// An engine with these graphs, and one without padding if there is any. Batches are padded to the shapes of `padding`. `pinned`: what
    /// is copied is kept in page-locked memory.
    #[must_use]
    pub fn new(padded: ByWidth, packed: Option<OnnxModel>, padding: Padding, unit: Unit, pinned: bool) -> Self {
        let (place, session) = (padded[0].1.place(), padded[0].1.session());
        let staging = if pinned { Staging::pinned(session, place.device) } else { Ok(Staging::pageable()) };
        let staging = staging.unwrap_or_else(|error| {
            tracing::warn!(%error, provider = %place.provider, device = place.device, "no page-locked memory: copies take longer");
            Staging::pageable()
        });
        // TensorRT has chosen its kernels when it built its engine.
        let first_runs = if place.provider == Provider::Cuda { FIRST_RUNS } else { 1 };
        Self { graphs: None, staging, padded, packed, padding, unit, first_runs }
    }

    /// No first run has more tokens than this: see [`Engine::settle`].
    pub fn limit(&mut self, max_tokens: usize) {
        self.first_runs = self.first_runs.min(max_tokens);
    }

    /// Small runs are recorded from now on, if that works: see [`Engine::settle`].
    pub fn record(&mut self, graphs: CudaGraphs) {
        self.graphs = Some(graphs);
    }

    /// One run, its kernels launched one by one.
    fn launch(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        let (model, shape) = match (input.form, &self.packed) {
            // Its tokens are counted, not its rows: nothing would be of a shape that has been there.
            (Form::Packed, Some(packed)) => (packed, (input.rows, input.width)),
            _ => {
                let shape = self.padding.of(input.rows, input.width);
                (graph_for(&self.padded, shape.1), shape)
            }
        };
        let (ids, mask, vectors) = self.staging.fill(input, shape, model.dimension())?;
        model.session().run_into([(IDS, &*ids), (MASK, &*mask)], OUTPUT, &*vectors, None)?;
        Ok(self.staging.vectors(input.rows * model.dimension()).into())
    }

    /// Runs of many sizes, for each of which kernels are chosen and loaded when it is there for the first time.
    fn first_runs(&mut self, place: Place) {
        let (started, mut input, mut largest) = (Instant::now(), Input::default(), 0);
        for tokens in sizes(self.first_runs).take_while(|_| started.elapsed() < FIRST_RUNS_FOR) {
            // Any id of the vocabulary does; 1 is in every one.
            input.fill(lengths(tokens).map(|length| &[1; TEXT][..length]).collect::<Vec<_>>().into_iter());
            for form in self.forms() {
                input.form = *form;
                let _run = capture_lock::run();
                if let Err(error) = self.launch(&input) {
                    // If there is more to it, the first request says so.
                    tracing::debug!(%error, tokens, ?form, "a first run failed");
                    return;
                }
            }
            largest = tokens;
        }
        let milliseconds = started.elapsed().as_millis() as u64;
        tracing::info!(provider = %place.provider, device = place.device, largest, milliseconds, "first runs made");
    }

    fn record_graphs(&mut self, Place { provider, device }: Place) {
        let Some(mut graphs) = self.graphs.take() else { return };
        let started = Instant::now();
        match graphs.record(|input| self.launch(input)) {
            Ok(()) => {
                let milliseconds = started.elapsed().as_millis() as u64;
                tracing::info!(%provider, device, shapes = graphs.len(), milliseconds, "CUDA graphs recorded");
                self.graphs = Some(graphs);
            }
            Err(error) => {
                tracing::warn!(%error, %provider, device, "CUDA graphs cannot be used: small runs take longer");
                let _freeing = capture_lock::run();
                drop(graphs);
            }
        }
    }
}

impl Engine for DeviceEngine {
    fn dimension(&self) -> usize {
        self.padded[0].1.dimension()
    }

    fn unit(&self) -> Unit {
        self.unit
    }

    fn forms(&self) -> &'static [Form] {
        if self.packed.is_some() { &[Form::Padded, Form::Packed] } else { &[Form::Padded] }
    }

    fn settle(&mut self) {
        let place = self.padded[0].1.place();
        self.first_runs(place);
        self.record_graphs(place);
    }

    fn expect_calls(&self, expected: bool) {
        if let Some(stream) = self.padded[0].1.stream().filter(|_| expected) {
            stream.note_call();
        }
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        if let Some(vectors) = self.graphs.as_mut().and_then(|graphs| graphs.run(input)) {
            return vectors;
        }
        let _run = capture_lock::run();
        self.launch(input)
    }
}

/// The graph for a width.
fn graph_for(graphs: &[(usize, OnnxModel)], width: usize) -> &OnnxModel {
    let fits = graphs.iter().find(|(widest, _)| width <= *widest);
    // What is wider than all of them is refused by the widest, with a message.
    &fits.unwrap_or(&graphs[graphs.len() - 1]).1
}

/// Tokens of a text in first runs. No model takes so few that this would be too long.
const TEXT: usize = 16;

/// Sizes in tokens up to `most`, each an eighth larger than the one before: libraries choose kernels by ranges of sizes.
fn sizes(most: usize) -> impl Iterator<Item = usize> {
    iter::successors(Some(1), |size| Some(size + (size / 8).max(1))).take_while(move |size| *size <= most)
}

/// Texts that have so many tokens together.
fn lengths(tokens: usize) -> impl Iterator<Item = usize> {
    iter::repeat_n(TEXT, tokens / TEXT).chain((!tokens.is_multiple_of(TEXT)).then_some(tokens % TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_runs_go_through_all_sizes() {
        let sizes: Vec<_> = sizes(FIRST_RUNS).collect();
        assert_eq!((sizes[0], sizes[1], sizes[15]), (1, 2, 16));
        assert!(sizes.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] + (pair[0] / 8).max(1)));
        assert!(sizes.last().is_some_and(|last| *last > FIRST_RUNS * 7 / 8 && sizes.len() < 80), "{sizes:?}");
        assert!(sizes.iter().all(|tokens| lengths(*tokens).sum::<usize>() == *tokens));
    }
}
