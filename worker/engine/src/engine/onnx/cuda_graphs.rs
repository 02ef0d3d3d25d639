//! CUDA graphs: small runs that are recorded once and then started by a single launch.
//!
//! A run of a few texts is some sixty kernels of microseconds each, and launching them one by one takes longer than they do. A
//! recorded run has fixed shapes and fixed addresses. Its inputs and its output are page-locked memory of the host, which the device
//! reads and writes by itself: for so few numbers that is as fast as copying, and needs no copies in the recording.

use std::{fmt, thread::ThreadId};

use ort::session::RunOptions;

use super::{
    super::{
        capture_lock,
        error::EngineError,
        interface::{Input, Vectors, cosine},
    },
    model::{IDS, MASK, OUTPUT, OnnxModel},
    staging::Staging,
};
use crate::settings::{EngineConfig, GraphShapes, Provider};

/// The number under which ONNX Runtime keeps a recorded graph.
const GRAPH_ID: &str = "gpu_graph_id";

/// What the vectors of a recorded run must have in common with those of an ordinary one.
const LEAST_COSINE: f32 = 0.999;

/// What a provider is told so that a session can be recorded. `None`: it cannot, or is not to.
#[must_use]
pub fn option(provider: Provider, config: &EngineConfig) -> Option<(&'static str, String)> {
    let key = match provider {
        Provider::Cuda => "enable_cuda_graph",
        Provider::Tensorrt if config.tensorrt.cuda_graphs => "trt_cuda_graph_enable",
        Provider::Tensorrt | Provider::TensorrtRtx | Provider::Openvino | Provider::Cpu => return None,
    };
    let shapes = &config.device.cuda_graphs;
    (!shapes.rows.is_empty() && !shapes.widths.is_empty()).then(|| (key, "1".to_owned()))
}

/// The recorded runs of one runner.
pub struct CudaGraphs {
    /// Before the model: it comes from its session.
    staging: Staging,
    /// A session of its own: what a recording has in memory belongs to it alone.
    model: OnnxModel,
    /// Rows and width, smallest first.
    shapes: Vec<(usize, usize)>,
    /// The thread that recorded, on which alone ONNX Runtime knows the graphs, and a number for each shape.
    recorded: Option<(ThreadId, Vec<RunOptions>)>,
}

// `RunOptions` has no `Debug`.
impl fmt::Debug for CudaGraphs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaGraphs").field("model", &self.model).field("shapes", &self.shapes).finish_non_exhaustive()
    }
}

impl CudaGraphs {
    /// Graphs for these shapes up to `longest` tokens, which are yet to be recorded. The session must belong to nobody else.
    ///
    /// # Errors
    /// If there is no page-locked memory.
    pub fn new(model: OnnxModel, shapes: &GraphShapes, longest: usize) -> Result<Self, EngineError> {
        let staging = Staging::mapped(model.session(), model.place().device)?;
        Ok(Self { staging, model, shapes: sorted(shapes, longest), recorded: None })
    }

    /// Shapes to record.
    pub(super) const fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Records all shapes on this thread, the only one on which [`CudaGraphs::run`] uses them. Each is run again, and compared with
    /// what `ordinary` gives for the same batch.
    ///
    /// # Errors
    /// If a shape cannot be recorded, or gives other vectors.
    pub(super) fn record(
        &mut self,
        mut ordinary: impl FnMut(&Input) -> Result<Vectors, EngineError>,
    ) -> Result<(), EngineError> {
        let not_recorded = options("-1")?;
        let options: Vec<_> =
            (1..=self.shapes.len()).map(|number| options(&number.to_string())).collect::<Result<_, _>>()?;
        // Recordings keep the addresses: the buffers must not move any more.
        let most = |of: fn(&(usize, usize)) -> usize| self.shapes.iter().map(of).max().unwrap_or_default();
        let (tokens, rows) = (most(|shape| shape.0 * shape.1), most(|shape| shape.0));
        {
            let _run = capture_lock::run();
            self.staging.reserve(tokens, rows * self.model.dimension())?;
        }
        // The largest first: what it needs of the device's memory is enough for the others.
        for (shape, options) in self.shapes.iter().zip(&options).rev() {
            let mut run = |input: &Input, options| replay(&mut self.staging, &self.model, input, *shape, options);
            let input = sample(*shape);
            // What takes long, choosing and loading kernels, while others run as well.
            let expected = {
                let _run = capture_lock::run();
                run(&input, &not_recorded)?;
                ordinary(&input)?
            };
            {
                let _alone = capture_lock::alone();
                run(&input, options)?;
            }
            let _run = capture_lock::run();
            // Another batch comes between, so that what is compared was not there already.
            run(&sample((1, 1)), options)?;
            let found = run(&input, options)?;
            let cosine = least_cosine(&expected, &found, self.model.dimension());
            if cosine.is_nan() || cosine < LEAST_COSINE {
                let (rows, width) = shape;
                return Err(EngineError::Graph(format!(
                    "recorded {rows} x {width}: cosine {cosine} to an ordinary run"
                )));
            }
        }
        self.recorded = Some((std::thread::current().id(), options));
        Ok(())
    }

    /// The vectors of a batch, if a recorded shape holds it and was recorded on this thread.
    pub(super) fn run(&mut self, input: &Input) -> Option<Result<Vectors, EngineError>> {
        let here = std::thread::current().id();
        let (_, options) = self.recorded.as_ref().filter(|(thread, _)| *thread == here)?;
        let graph = fitting(&self.shapes, input.rows, input.width)?;
        let _run = capture_lock::run();
        Some(replay(&mut self.staging, &self.model, input, self.shapes[graph], &options[graph]))
    }
}

fn options(graph: &str) -> ort::Result<RunOptions> {
    let mut options = RunOptions::new()?;
    options.set(GRAPH_ID, graph)?;
    Ok(options)
}

fn replay(
    staging: &mut Staging,
    model: &OnnxModel,
    input: &Input,
    shape: (usize, usize),
    options: &RunOptions,
) -> Result<Vectors, EngineError> {
    let (ids, mask, vectors) = staging.fill(input, shape, model.dimension())?;
    model.session().run_into([(IDS, &*ids), (MASK, &*mask)], OUTPUT, &*vectors, Some(options))?;
    Ok(staging.vectors(input.rows * model.dimension()).into())
}

/// The pairs of rows and widths, the one with the fewest tokens first, as far as the model takes them.
fn sorted(shapes: &GraphShapes, longest: usize) -> Vec<(usize, usize)> {
    let widths = || shapes.widths.iter().copied().filter(|width| *width <= longest);
    let mut all: Vec<_> = shapes.rows.iter().flat_map(|rows| widths().map(|width| (*rows, width))).collect();
    all.retain(|(rows, width)| rows * width <= shapes.max_tokens);
    all.sort_unstable_by_key(|(rows, width)| (rows * width, *rows));
    all.dedup();
    all
}

/// The smallest shape that holds a batch.
fn fitting(shapes: &[(usize, usize)], rows: usize, width: usize) -> Option<usize> {
    shapes.iter().position(|shape| rows <= shape.0 && width <= shape.1)
}

/// A batch with rows of many lengths, of tokens that every vocabulary has.
fn sample((rows, width): (usize, usize)) -> Input {
    let tokens: Vec<u32> = (0..width).map(|i| 1 + i as u32 % 50).collect();
    let mut input = Input::default();
    input.fill((0..rows).map(|row| &tokens[..width - row * (width - 1) / rows]).collect::<Vec<_>>().into_iter());
    input
}

/// The least cosine of any two rows.
fn least_cosine(expected: &[f32], found: &[f32], dimension: usize) -> f32 {
    let rows = expected.chunks(dimension).zip(found.chunks(dimension));
    // Not `f32::min`, which would pass over what is not a number.
    rows.map(|(a, b)| cosine(a, b))
        .fold(1.0, |least, cosine| if cosine < least || cosine.is_nan() { cosine } else { least })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_gets_the_smallest_shape_that_holds_it(
            rows in prop::collection::vec(1usize..20, 1..5), widths in prop::collection::vec(1usize..300, 1..5),
            longest in 1usize..300, max_tokens in 1usize..5000, batch in (1usize..20, 1usize..300),
        ) {
            let shapes = sorted(&GraphShapes { rows, widths, max_tokens }, longest);
            prop_assert!(shapes.iter().all(|(rows, width)| *width <= longest && rows * width <= max_tokens));
            let holds = |shape: &(usize, usize)| batch.0 <= shape.0 && batch.1 <= shape.1;
            let least = shapes.iter().filter(|shape| holds(shape)).map(|(rows, width)| rows * width).min();
            let found = fitting(&shapes, batch.0, batch.1).map(|graph| shapes[graph]);
            prop_assert!(found.is_none_or(|shape| holds(&shape)));
            prop_assert_eq!(found.map(|(rows, width)| rows * width), least);
        }

        #[test]
        fn samples_fill_their_shape(rows in 1usize..20, width in 1usize..300) {
            let input = sample((rows, width));
            prop_assert_eq!((input.rows, input.width), (rows, width));
            prop_assert!(input.mask.chunks(width).all(|row| row[0] == 1));
        }
    }

    #[test]
    fn other_vectors_are_noticed() {
        assert!(least_cosine(&[1.0, 0.0, 0.0, 2.0], &[2.0, 0.0, 0.0, 1.0], 2) > 0.999);
        assert!(least_cosine(&[1.0, 0.0, 0.0, 2.0], &[2.0, 0.0, 1.0, 1.0], 2) < 0.8);
        assert!(least_cosine(&[1.0, 0.0, 0.0, 2.0], &[0.0, 0.0, 0.0, 1.0], 2).is_nan());
    }

    #[test]
    fn providers_that_are_to_record_are_told_so() {
        let mut config = EngineConfig::default();
        assert_eq!(option(Provider::Cuda, &config), Some(("enable_cuda_graph", "1".to_owned())));
        assert_eq!(option(Provider::Tensorrt, &config), None, "not tried out, so not without being asked");
        assert_eq!(option(Provider::Cpu, &config), None);
        config.tensorrt.cuda_graphs = true;
        assert_eq!(option(Provider::Tensorrt, &config), Some(("trt_cuda_graph_enable", "1".to_owned())));
        config.device.cuda_graphs.rows.clear();
        assert_eq!(option(Provider::Cuda, &config), None);
    }
}
