//! Engines: padded token ids in, vectors out. Knows no lanes, jobs or NATS.

pub mod library;
mod memory;
mod onnx;
mod priority;
mod runner;
mod shared_session;
mod slots;
mod stopwatch;

use std::sync::Arc;

pub use memory::give_back as give_back_memory;
pub use onnx::{OnnxModel, WeakModel};
pub use priority::give_way;
pub use runner::{RunStats, Runners, Work};
pub use slots::{Slot, Slots};
pub use stopwatch::Stopwatch;

/// A padded batch, row-major.
#[derive(Debug, Default)]
pub struct Input {
    /// Texts.
    pub rows: usize,
    /// Tokens of the longest.
    pub width: usize,
    /// `rows` x `width` token ids.
    pub ids: Vec<i64>,
    /// `rows` x `width`: 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
}

impl Input {
    /// Fills the buffers, keeping their memory, with these rows padded to the longest.
    pub fn fill<'a>(&mut self, rows: impl ExactSizeIterator<Item = &'a [u32]> + Clone) {
        self.rows = rows.len();
        self.width = rows.clone().map(<[u32]>::len).max().unwrap_or_default();
        self.ids.clear();
        self.mask.clear();
        for row in rows {
            self.ids.extend(row.iter().map(|id| i64::from(*id)));
            self.mask.resize(self.mask.len() + row.len(), 1);
            let end = self.ids.len() + self.width - row.len();
            // The padding's id does not matter: the mask takes it out of attention and pooling.
            self.ids.resize(end, 0);
            self.mask.resize(end, 0);
        }
    }
}

/// The vectors of a batch, row-major, `rows` x `dim`, shared by the jobs whose texts rode in it.
pub type Vectors = Arc<[f32]>;

/// Runs a model. One engine belongs to one thread.
pub trait Engine: Send {
    /// Components of a vector.
    fn dimension(&self) -> usize;

    /// The vectors of a batch, in the order of its rows: `rows` x [`Engine::dimension`] numbers.
    ///
    /// # Errors
    /// If the run fails. The engine can be used again.
    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError>;
}

/// A run, or the making of an engine, failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ONNX Runtime library could not be found or loaded.
    #[error(transparent)]
    Library(#[from] library::LibraryError),
    /// ONNX Runtime refused the graph, or a run failed.
    #[error("ONNX Runtime: {0}")]
    Onnx(String),
    /// The graph is not an embedding graph.
    #[error("the graph is not an embedding graph: {0}")]
    Graph(String),
    /// The engine gave back something that is not what was asked for.
    #[error("the engine gave {found} numbers, expected {expected}")]
    Output {
        /// Numbers that came back.
        found: usize,
        /// Numbers that should have.
        expected: usize,
    },
}

impl<R> From<ort::Error<R>> for EngineError {
    fn from(error: ort::Error<R>) -> Self {
        Self::Onnx(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_the_longest() {
        let mut input = Input::default();
        let rows: [&[u32]; 2] = [&[1, 2, 3], &[4]];
        input.fill(rows.into_iter());
        assert_eq!((input.rows, input.width), (2, 3));
        assert_eq!(input.ids, [1, 2, 3, 4, 0, 0]);
        assert_eq!(input.mask, [1, 1, 1, 1, 0, 0]);
        let rows: [&[u32]; 1] = [&[7]];
        input.fill(rows.into_iter());
        assert_eq!((input.ids.as_slice(), input.mask.as_slice()), (&[7][..], &[1][..]));
    }
}
