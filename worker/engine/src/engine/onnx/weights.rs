//! One copy of a graph's weights for several sessions on the CPU.
//!
//! ONNX Runtime brings what it multiplies by into another order when a session is made, and drops what it was made from. It lets sessions share both,
//! if the tensors are given to it, and are there as long as the sessions are: then there are two copies of most weights, one of which nobody reads. So their
//! place is kept, and its memory given back, if the sessions compute the same afterwards.

use std::{
    fmt,
    ptr::{self, NonNull},
    sync::Arc,
};

use ort::{
    session::builder::{PrepackedWeights, SessionBuilder},
    value::{DynValue, Tensor},
};

use super::super::{
    error::EngineError,
    onnx_file::{Element, LargeTensor, large_tensors},
};

/// Smaller tensors are not worth sharing.
const LEAST: usize = 1 << 16;

/// The large tensors of a graph, for all sessions that are made of it. They live as long as one of those.
pub(super) struct SharedWeights {
    tensors: Vec<Shared>,
    prepacked: PrepackedWeights,
}

struct Shared {
    tensor: LargeTensor,
    value: Arc<DynValue>,
    /// The value's numbers.
    start: NonNull<u8>,
}

impl SharedWeights {
    /// Copies them out of a graph that has been inspected.
    pub(super) fn of(graph: &[u8]) -> Result<Self, EngineError> {
        let share = |tensor: LargeTensor| -> Result<Shared, EngineError> {
            let bytes = &graph[tensor.at.clone()];
            let shape = tensor.dimensions.clone();
            let (value, start) = match tensor.element {
                Element::F32 => {
                    let numbers = bytes.as_chunks::<4>().0.iter();
                    value(shape, numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect())?
                }
                Element::U8 => value(shape, bytes.to_vec())?,
                Element::I8 => value(shape, bytes.iter().map(|byte| byte.cast_signed()).collect())?,
            };
            Ok(Shared { tensor, value, start })
        };
        let tensors = large_tensors(graph, LEAST)?.into_iter().map(share).collect::<Result<_, _>>()?;
        Ok(Self { tensors, prepacked: PrepackedWeights::new() })
    }

    /// A session that has them in common with others.
    pub(super) fn share(&self, mut builder: SessionBuilder) -> Result<SessionBuilder, EngineError> {
        for Shared { tensor, value, .. } in &self.tensors {
            builder = builder.with_initializer(&tensor.name, Arc::clone(value))?;
        }
        Ok(builder.with_prepacked_weights(&self.prepacked)?)
    }

    /// Gives the memory of what is only multiplied by back: all sessions have been made, and with them another order of it. Nothing must be running.
    pub(super) fn give_back(&self) {
        for Shared { tensor, start, .. } in self.for_products() {
            let pages = whole_pages(start.addr().get(), tensor.at.len());
            let skipped = pages.start - start.addr().get();
            // SAFETY: the range lies within the value's memory, which is there as long as the value is and belongs to no file; it holds plain numbers,
            // which are 0 from now on.
            let result = unsafe { libc::madvise(start.as_ptr().add(skipped).cast(), pages.len(), libc::MADV_DONTNEED) };
            if result != 0 {
                // All is as it was.
                tracing::debug!(error = %std::io::Error::last_os_error(), "memory of weights could not be given back");
            }
        }
    }

    /// Takes it back. Nothing must be running.
    pub(super) fn restore(&self, graph: &[u8]) {
        for Shared { tensor, start, .. } in self.for_products() {
            let bytes = &graph[tensor.at.clone()];
            // SAFETY: the value was made from a copy of just these bytes, so that it has room for them, and nobody reads it at the moment.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), start.as_ptr(), bytes.len()) };
        }
    }

    fn for_products(&self) -> impl Iterator<Item = &Shared> {
        self.tensors.iter().filter(|one| one.tensor.for_products)
    }
}

/// A tensor on memory of its own, and where that is.
fn value<T>(shape: Vec<usize>, numbers: Vec<T>) -> Result<(Arc<DynValue>, NonNull<u8>), EngineError>
where
    T: ort::value::PrimitiveTensorElementType + fmt::Debug + Clone + 'static,
{
    let mut numbers = numbers.into_boxed_slice();
    let start = NonNull::from(&mut *numbers).cast();
    Ok((Arc::new(Tensor::from_array((shape, numbers))?.into_dyn()), start))
}

/// The whole pages of a range, by their addresses.
fn whole_pages(start: usize, length: usize) -> std::ops::Range<usize> {
    // SAFETY: it only takes and gives a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let (first, end) = (start.next_multiple_of(page), (start + length) / page * page);
    first.min(end.max(start))..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::whole_pages;

    #[test]
    fn only_whole_pages_are_given_back() {
        // Pages have at least 4 KiB, and at most 64.
        let far = 1 << 20;
        for (start, length) in [(0, 0), (1, 10), (far, far), (far + 1, far), (far - 1, far + 2), (far + 7, 100)] {
            let pages = whole_pages(start, length);
            assert!(pages.is_empty() || (pages.start >= start && pages.end <= start + length), "{pages:?}");
            assert!(pages.is_empty() || [pages.start, pages.end].iter().all(|at| at.is_multiple_of(4096)), "{pages:?}");
            assert!(pages.len() + (128 << 10) >= length);
        }
    }
}
