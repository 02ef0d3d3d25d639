//! The first runs of an engine: so that no request pays for first allocations, and the planner knows what runs cost.

use std::time::Duration;

use super::stopwatch::Stopwatch;
use crate::{
    batch::Measured,
    engine::{Engine, EngineError, Input},
    shape::Form,
};

/// Shapes, rows and width, whose cost is measured on the CPU: few, since starting must be quick, and chosen so that what a
/// run, a token and a pair of tokens cost can be told apart.
const ON_CPU: [(usize, usize); 5] = [(1, 16), (1, 64), (1, 256), (8, 16), (4, 64)];
/// Texts of more tokens are left out where engines are compared: they would be most of the time.
const LONGEST_TIMED: usize = 64;
/// The same on a device, where runs are large and small ones cost next to nothing.
const ON_DEVICE: [(usize, usize); 10] =
    [(1, 16), (1, 256), (8, 32), (32, 64), (64, 128), (128, 256), (512, 32), (512, 128), (1024, 32), (1024, 64)];

/// Bounds of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Largest {
    /// Texts.
    pub(super) texts: usize,
    /// Tokens, padding included.
    pub(super) tokens: usize,
    /// Tokens of one text.
    pub(super) width: usize,
}

/// Runs on the CPU. `alone`: one thread does all the work of a run.
pub(super) fn on_cpu(engine: &mut impl Engine, longest: usize, alone: bool) -> Result<Vec<Measured>, EngineError> {
    // The largest run once.
    time_run(engine, &full(1, longest), Form::Padded, alone)?;
    let mut measured = Vec::new();
    for (rows, width) in ON_CPU.into_iter().filter(|(_, width)| *width <= longest) {
        measured.push(time_run(engine, &full(rows, width), Form::Padded, alone)?);
        if rows == 1 && engine.forms().contains(&Form::Spread) {
            // The better of two, since others may keep the threads that help from it. The calling thread waits for those without sleeping.
            let runs = [(); 2].map(|()| time_run(engine, &full(rows, width), Form::Spread, alone));
            let runs = runs.into_iter().collect::<Result<Vec<_>, _>>()?;
            measured.extend(runs.into_iter().min_by_key(|run| run.took));
        }
    }
    Ok(measured)
}

/// Runs where other threads compute, and choose their kernels in the first run of a shape.
pub(super) fn on_streams(engine: &mut impl Engine, longest: usize) -> Result<Vec<Measured>, EngineError> {
    time_run(engine, &full(1, longest), Form::Padded, false)?;
    let mut measured = Vec::new();
    for (rows, width) in ON_CPU.into_iter().filter(|(_, width)| *width <= longest) {
        time_run(engine, &full(rows, width), Form::Padded, false)?;
        let mut run = || time_run(engine, &full(rows, width), Form::Padded, false);
        measured.extend([run()?, run()?].into_iter().min_by_key(|run| run.took));
    }
    Ok(measured)
}

/// Time for the texts of the shapes that are measured on the processor, each shape once, no text longer than a model takes. `one_by_one`: each text in a
/// run of its own, as they are served then.
pub(super) fn time_all(engine: &mut impl Engine, longest: usize, one_by_one: bool) -> Result<Duration, EngineError> {
    let mut all = Duration::ZERO;
    for (rows, width) in ON_CPU.into_iter().filter(|(_, width)| *width <= LONGEST_TIMED) {
        let (runs, rows) = if one_by_one { (rows, 1) } else { (1, rows) };
        let lengths = full(rows, width.min(longest));
        for _ in 0..runs {
            all += time_run(engine, &lengths, Form::Padded, false)?.took;
        }
    }
    Ok(all)
}

/// Runs on a device, in every form that the engine has.
pub(super) fn on_device(engine: &mut impl Engine, largest: Largest) -> Result<Vec<Measured>, EngineError> {
    let mut measured = Vec::new();
    for form in engine.forms() {
        settle(engine, largest, *form)?;
        for (rows, width) in shapes(largest) {
            let lengths = match form {
                Form::Padded | Form::Spread => full(rows, width),
                Form::Packed => ragged(rows, width),
            };
            // The first run of a shape chooses kernels.
            time_run(engine, &lengths, *form, false)?;
            let runs = [time_run(engine, &lengths, *form, false)?, time_run(engine, &lengths, *form, false)?];
            measured.extend(runs.into_iter().min_by_key(|run| run.took));
        }
    }
    Ok(measured)
}

/// The largest run once, so that memory is there.
pub(super) fn settle(engine: &mut impl Engine, largest: Largest, form: Form) -> Result<Duration, EngineError> {
    let rows = (largest.tokens / largest.width.max(1)).clamp(1, largest.texts);
    Ok(time_run(engine, &full(rows, largest.width), form, false)?.took)
}

/// The shapes to measure within these bounds: at least one.
fn shapes(largest: Largest) -> Vec<(usize, usize)> {
    let within = |(rows, width): &(usize, usize)| {
        *rows <= largest.texts && *width <= largest.width && (*rows == 1 || rows * width <= largest.tokens)
    };
    let shapes: Vec<_> = ON_DEVICE.into_iter().filter(within).collect();
    if shapes.is_empty() { vec![(1, largest.width.max(1))] } else { shapes }
}

fn full(rows: usize, width: usize) -> Vec<usize> {
    vec![width; rows]
}

/// Rows of which every other is half as long.
fn ragged(rows: usize, width: usize) -> Vec<usize> {
    (0..rows).map(|row| if row % 2 == 0 { width } else { width.div_ceil(2) }).collect()
}

fn time_run(engine: &mut impl Engine, lengths: &[usize], form: Form, alone: bool) -> Result<Measured, EngineError> {
    let mut input = Input::default();
    // Any id of the vocabulary does; 1 is in every one.
    let longest = vec![1; lengths.iter().copied().max().unwrap_or_default()];
    input.fill(lengths.iter().map(|length| &longest[..*length]));
    input.form = form;
    let stopwatch = Stopwatch::start(alone);
    engine.embed(&input)?;
    Ok(Measured { shape: input.shape(), form, took: stopwatch.elapsed() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{engine::Vectors, shape::Unit};

    /// Takes texts of so many tokens, and notes what it ran.
    #[derive(Debug)]
    struct Short(usize, Vec<(usize, usize)>);

    impl Engine for Short {
        fn dimension(&self) -> usize {
            1
        }

        fn unit(&self) -> Unit {
            Unit(0)
        }

        fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
            if input.width > self.0 {
                return Err(EngineError::Onnx("it has no such position".to_owned()));
            }
            self.1.push((input.rows, input.width));
            Ok(Arc::from(vec![0.0; input.rows]))
        }
    }

    #[test]
    fn engines_are_compared_by_what_the_model_takes() {
        for (longest, one_by_one, expected) in [
            (512, false, vec![(1, 16), (1, 64), (8, 16), (4, 64)]),
            (32, false, vec![(1, 16), (1, 32), (8, 16), (4, 32)]),
            (8, true, vec![(1, 8); 14]),
        ] {
            let mut engine = Short(longest, Vec::new());
            time_all(&mut engine, longest, one_by_one).unwrap();
            assert_eq!(engine.1, expected, "{longest}");
        }
    }

    #[test]
    fn shapes_stay_within_the_bounds() {
        let of = |texts, tokens, width| shapes(Largest { texts, tokens, width });
        assert_eq!(of(1024, 65_536, 512), ON_DEVICE);
        assert_eq!(of(64, 1024, 128), [(1, 16), (8, 32)]);
        assert_eq!(of(64, 1024, 8), [(1, 8)]);
    }
}
