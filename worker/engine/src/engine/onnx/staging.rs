//! Memory of one runner for what goes to a device and comes back: page-locked, so that the device copies it itself.

use std::{mem, ptr::NonNull, slice};

use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    value::{PrimitiveTensorElementType, Shape, TensorRefMut},
};

use super::{super::interface::Input, shared_session::SharedSession};

/// Buffers that grow to the largest run and stay.
#[derive(Debug)]
pub(super) struct Staging {
    ids: Buffer<i64>,
    mask: Buffer<i64>,
    vectors: Buffer<f32>,
    allocator: Allocator,
    info: MemoryInfo<'static>,
}

/// Memory of an allocator. Freed by [`Staging`], which has the allocator.
#[derive(Debug)]
struct Buffer<T> {
    start: NonNull<T>,
    length: usize,
}

// SAFETY: the memory belongs to this buffer alone, and is plain numbers.
unsafe impl<T: Send> Send for Buffer<T> {}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { start: NonNull::dangling(), length: 0 }
    }
}

impl<T: Copy + Default> Buffer<T> {
    /// Makes room for `length` numbers. What was there is gone.
    fn grow(&mut self, length: usize, allocator: &Allocator) -> ort::Result<()> {
        if length <= self.length {
            return Ok(());
        }
        self.free(allocator);
        let start = NonNull::new(allocator.alloc::<T>(length)?.into_raw().cast::<T>());
        let start = start.ok_or_else(|| ort::Error::new("the allocator gave no memory"))?;
        // SAFETY: the allocation has room for `length` numbers and is aligned for them, as ONNX Runtime's are to 256 bytes.
        unsafe { slice::from_raw_parts_mut(start.as_ptr().cast::<mem::MaybeUninit<T>>(), length) }
            .fill(mem::MaybeUninit::new(T::default()));
        *self = Self { start, length };
        Ok(())
    }

    fn free(&mut self, allocator: &Allocator) {
        let old = mem::take(self);
        if old.length > 0 {
            // SAFETY: it comes from this allocator, and nobody has it any more.
            unsafe { allocator.free(old.start.as_ptr()) };
        }
    }

    fn slice(&mut self, length: usize) -> &mut [T] {
        assert!(length <= self.length, "it has been grown");
        // SAFETY: the numbers were initialised when the memory was allocated, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), length) }
    }
}

impl<T: PrimitiveTensorElementType + std::fmt::Debug> Buffer<T> {
    fn tensor(&mut self, info: &MemoryInfo<'_>, shape: [usize; 2]) -> ort::Result<TensorRefMut<'_, T>> {
        assert!(shape[0] * shape[1] <= self.length, "it has been grown");
        let shape = Shape::new(shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX)));
        // SAFETY: the memory is as large as the shape says, lies where the information says, and outlives the tensor.
        unsafe { TensorRefMut::from_raw(info.clone(), self.start.as_ptr().cast(), shape) }
    }
}

/// The tensors of one run: token ids, mask, and where the vectors go.
pub(super) type Tensors<'a> = (TensorRefMut<'a, i64>, TensorRefMut<'a, i64>, TensorRefMut<'a, f32>);

impl Staging {
    /// Page-locked memory for a device of this session.
    ///
    /// # Errors
    /// If the session has no such memory.
    pub(super) fn pinned(session: &SharedSession, device: u32) -> ort::Result<Self> {
        let device = i32::try_from(device).unwrap_or(i32::MAX);
        let info = MemoryInfo::new(AllocationDevice::CUDA_PINNED, device, AllocatorType::Device, MemoryType::CPUInput)?;
        // Tensors are described as ordinary memory of the host, which this is: what is described as the device's page-locked memory,
        // ONNX Runtime (1.31) takes for the device's own, and fails to copy. The driver sees by the address that it is page-locked.
        Ok(Self::new(Allocator::new(session.session(), info)?, MemoryInfo::default()))
    }

    /// The same memory, described as the device's own: nothing is copied, the device reads and writes it where it is.
    ///
    /// # Errors
    /// If the session has no such memory.
    pub(super) fn mapped(session: &SharedSession, device: u32) -> ort::Result<Self> {
        let mut staging = Self::pinned(session, device)?;
        let device = i32::try_from(device).unwrap_or(i32::MAX);
        staging.info = MemoryInfo::new(AllocationDevice::CUDA, device, AllocatorType::Device, MemoryType::Default)?;
        Ok(staging)
    }

    /// Ordinary memory, which the driver copies from.
    pub(super) fn pageable() -> Self {
        Self::new(Allocator::default(), MemoryInfo::default())
    }

    fn new(allocator: Allocator, info: MemoryInfo<'static>) -> Self {
        Self { ids: Buffer::default(), mask: Buffer::default(), vectors: Buffer::default(), allocator, info }
    }

    /// Makes room for all batches of at most so many tokens, padding included, and so many numbers of vectors: none of them moves the
    /// buffers.
    pub(super) fn reserve(&mut self, tokens: usize, numbers: usize) -> ort::Result<()> {
        let Self { ids, mask, vectors, allocator, .. } = self;
        ids.grow(tokens, allocator)?;
        mask.grow(tokens, allocator)?;
        vectors.grow(numbers, allocator)
    }

    /// Takes a batch in, padded to `rows` x `width`, with room for vectors of `dimension` numbers.
    pub(super) fn fill(
        &mut self,
        input: &Input,
        (rows, width): (usize, usize),
        dimension: usize,
    ) -> ort::Result<Tensors<'_>> {
        self.reserve(rows * width, rows * dimension)?;
        let Self { ids, mask, vectors, info, .. } = self;
        widen(&input.ids, input.width, ids.slice(rows * width), width);
        widen(&input.mask, input.width, mask.slice(rows * width), width);
        // A row of nothing but padding has no mean: these have a token, whose vector nobody reads.
        mask.slice(rows * width).chunks_mut(width).skip(input.rows).for_each(|row| row[0] = 1);
        let shape = [rows, width];
        Ok((ids.tensor(info, shape)?, mask.tensor(info, shape)?, vectors.tensor(info, [rows, dimension])?))
    }

    /// The first numbers of the vectors of the last run.
    pub(super) fn vectors(&mut self, length: usize) -> &[f32] {
        self.vectors.slice(length)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.ids.free(&self.allocator);
        self.mask.free(&self.allocator);
        self.vectors.free(&self.allocator);
    }
}

/// Copies rows of `width` numbers into wider ones; what is beyond is 0.
fn widen(from: &[i64], width: usize, into: &mut [i64], wider: usize) {
    let mut rows = into.chunks_mut(wider.max(1));
    for (row, into) in from.chunks(width.max(1)).zip(&mut rows) {
        into[..width].copy_from_slice(row);
        into[width..].fill(0);
    }
    rows.for_each(|rest| rest.fill(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_room_for_moves_nothing() {
        let _environment = crate::engine::library::environment(None).unwrap();
        let mut staging = Staging::pageable();
        staging.reserve(64, 8 * 3).unwrap();
        let addresses =
            |staging: &Staging| (staging.ids.start.addr(), staging.mask.start.addr(), staging.vectors.start.addr());
        let before = addresses(&staging);
        let mut input = Input::default();
        input.fill([&[1, 2][..], &[3]].into_iter());
        for shape in [(2, 32), (8, 8), (2, 16)] {
            staging.fill(&input, shape, 3).unwrap();
            assert_eq!(addresses(&staging), before);
        }
    }

    #[test]
    fn rows_are_widened_and_the_rest_is_empty() {
        let mut into = [9; 12];
        widen(&[1, 2, 3, 4], 2, &mut into, 4);
        assert_eq!(into, [1, 2, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0]);
    }
}
