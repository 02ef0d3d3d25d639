//! What an engine is: padded token ids in, vectors out.

use std::sync::Arc;

use super::error::EngineError;
use crate::shape::{Form, Shape, Unit};

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
    /// How it is to be run.
    pub form: Form,
}

impl Input {
    /// What it amounts to.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::of(self.mask.chunks(self.width.max(1)).map(|row| row.iter().filter(|bit| **bit == 1).count()))
    }

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

/// The cosine of two vectors of one length. Not a number if one of them has no direction.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    dot / (norm(a) * norm(b))
}

/// Runs a model. One engine belongs to one thread.
pub trait Engine: std::fmt::Debug + Send {
    /// Components of a vector.
    fn dimension(&self) -> usize;

    /// What it computes on. Engines of one unit share its time.
    fn unit(&self) -> Unit;

    /// The forms in which it can run batches: padded, and perhaps packed, without computing their padding, or spread over several cores.
    fn forms(&self) -> &'static [Form] {
        &[Form::Padded]
    }

    /// From now on it cannot run batches spread over several cores.
    fn drop_spread(&mut self) {}

    /// Another one on the same weights, for short runs beside those that there is room for. `None` where runs are short anyway, or it would
    /// take memory of its own.
    fn beside(&self) -> Option<Box<dyn Engine>> {
        None
    }

    /// Called once, on the thread that makes all runs from now on: what is kept for each thread is made here, and not in the first
    /// request.
    fn settle(&mut self) {}

    /// Told before each run whether it is of calls that have engines of their own. Others are expected then, and what else is computed there may leave room.
    fn expect_calls(&self, _expected: bool) {}

    /// The vectors of a batch, in the order of its rows: `rows` x [`Engine::dimension`] numbers.
    ///
    /// # Errors
    /// If the run fails. The engine can be used again.
    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError>;
}

impl Engine for Box<dyn Engine> {
    fn dimension(&self) -> usize {
        (**self).dimension()
    }

    fn unit(&self) -> Unit {
        (**self).unit()
    }

    fn forms(&self) -> &'static [Form] {
        (**self).forms()
    }

    fn drop_spread(&mut self) {
        (**self).drop_spread();
    }

    fn beside(&self) -> Option<Box<dyn Engine>> {
        (**self).beside()
    }

    fn expect_calls(&self, expected: bool) {
        (**self).expect_calls(expected);
    }

    fn settle(&mut self) {
        (**self).settle();
    }

    fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
        (**self).embed(input)
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
