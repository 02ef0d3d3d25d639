//! Products by cuBLASLt: a linear layer with its bias, and GELU, behind it in one kernel.
//!
//! cuBLASLt reads matrices by column. States `[tokens, in]` by row are `[in, tokens]` by column, and a weight `[out, in]` by row is `[in, out]`
//! by column, to be transposed: the order in which FP8 has to be. What comes out, `[out, tokens]` by column, is `[tokens, out]` by row.

use std::{
    collections::HashMap,
    ffi::{c_int, c_void},
    ptr,
};

use parking_lot::Mutex;

use super::{cuda::functions, error::KernelError, partition::Lane};

type Handle = *mut c_void;

/// `cublasLtMatmulAlgo_t`: what cuBLASLt has chosen.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Choice {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

functions!(
    /// cuBLASLt.
    CublasLt, ["libcublasLt.so.13", "libcublasLt.so.12"], {
        create: b"cublasLtCreate" = fn(*mut Handle);
        product: b"cublasLtMatmul" = fn(Handle, Handle, *const f32, *const c_void, Handle, *const c_void, Handle, *const f32, *const c_void, Handle, *mut c_void, Handle, *const Algorithm, *mut c_void, usize, *mut c_void);
        choose: b"cublasLtMatmulAlgoGetHeuristic" = fn(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Choice, *mut c_int);
        describe: b"cublasLtMatmulDescCreate" = fn(*mut Handle, c_int, c_int);
        set: b"cublasLtMatmulDescSetAttribute" = fn(Handle, c_int, *const c_void, usize);
        forget: b"cublasLtMatmulDescDestroy" = fn(Handle);
        layout: b"cublasLtMatrixLayoutCreate" = fn(*mut Handle, c_int, u64, u64, i64);
        forget_layout: b"cublasLtMatrixLayoutDestroy" = fn(Handle);
        preference: b"cublasLtMatmulPreferenceCreate" = fn(*mut Handle);
        set_preference: b"cublasLtMatmulPreferenceSetAttribute" = fn(Handle, c_int, *const c_void, usize);
        forget_preference: b"cublasLtMatmulPreferenceDestroy" = fn(Handle);
    }
);

// Numbers of cublasLt.h and library_types.h.
const COMPUTE_32F: c_int = 68;
const FLOAT32: c_int = 0;
const FLOAT16: c_int = 2;
const E4M3: c_int = 28;
const TRANSPOSE_A: c_int = 3;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
const MULTIPROCESSORS: c_int = 15;
const SCALE_OF_OUTPUT: c_int = 20;
const FAST_ACCUMULATION: c_int = 25;
const BIAS_TYPE: c_int = 26;
const TRANSPOSED: c_int = 1;
const WITH_BIAS: u32 = 4;
const WITH_GELU: u32 = 32;
const MOST_WORKSPACE: c_int = 1;
const INVALID_VALUE: c_int = 7;
const NOT_SUPPORTED: c_int = 15;
/// What cuBLASLt says, before it does anything, of an algorithm that was chosen for other tokens and does not compute these.
const OF_ANOTHER_SIZE: [c_int; 2] = [INVALID_VALUE, NOT_SUPPORTED];

/// In which types a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Types {
    /// float16 by float16.
    Float16,
    /// E4M3 by E4M3 gives float16.
    FromQuantized,
    /// E4M3 by E4M3 gives E4M3.
    Quantized,
}

/// A linear layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    /// The types of what goes in and comes out.
    pub(crate) types: Types,
    /// GELU behind the bias.
    pub(crate) gelu: bool,
    /// What the product is multiplied with before the bias.
    pub(crate) factor: f32,
    /// Components that go in.
    pub(crate) inputs: usize,
    /// Components that come out.
    pub(crate) outputs: usize,
    /// `[outputs, inputs]`.
    pub(crate) weight: *const c_void,
    /// float16, `[outputs]`.
    pub(crate) bias: *const c_void,
    /// For [`Types::Quantized`] what comes out is multiplied with, float32 `[1]`.
    pub(crate) scale: *const c_void,
}

/// What an algorithm was chosen for. It computes other numbers of tokens as well, nearly always.
type Key = (Types, bool, usize, usize, usize, Option<c_int>);

/// Products on one device.
pub(crate) struct Products {
    library: &'static CublasLt,
    handle: Handle,
    chosen: Mutex<HashMap<Key, Algorithm>>,
}

// SAFETY: cuBLASLt's handle may be used by any number of threads at once.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

/// An object of cuBLASLt's, given back when it goes.
struct Owned(Handle, unsafe extern "C" fn(Handle) -> c_int);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: it is what this function gives back, and nobody has it any more.
        unsafe { (self.1)(self.0) };
    }
}

fn check(status: c_int, what: &'static str) -> Result<(), KernelError> {
    // As cuBLAS has them: by these it is told whether there was too little memory, or a kernel has failed.
    let said = match status {
        0 => return Ok(()),
        3 => "CUBLAS_STATUS_ALLOC_FAILED".to_owned(),
        INVALID_VALUE => "CUBLAS_STATUS_INVALID_VALUE".to_owned(),
        13 => "CUBLAS_STATUS_EXECUTION_FAILED".to_owned(),
        NOT_SUPPORTED => "CUBLAS_STATUS_NOT_SUPPORTED".to_owned(),
        other => format!("status {other}"),
    };
    Err(KernelError::Product { what, said })
}

impl Products {
    /// For the device that this thread uses.
    pub(crate) fn new() -> Result<Self, KernelError> {
        let library = CublasLt::get()?;
        let mut handle = ptr::null_mut();
        // SAFETY: it writes one pointer. What it makes stays.
        check(unsafe { (library.create)(&raw mut handle) }, "start")?;
        Ok(Self { library, handle, chosen: Mutex::default() })
    }

    /// Computes a layer of so many tokens.
    ///
    /// # Safety
    /// All that is pointed to is on this device and as large as it has to be, and begins at multiples of 256 bytes.
    pub(crate) unsafe fn run(
        &self,
        linear: &Linear,
        tokens: usize,
        states: *const c_void,
        out: *mut c_void,
        lane: Lane,
    ) -> Result<(), KernelError> {
        if tokens == 0 {
            return Ok(());
        }
        let operation = self.operation(linear, lane.multiprocessors)?;
        let (goes_in, comes_out) = match linear.types {
            Types::Float16 => (FLOAT16, FLOAT16),
            Types::FromQuantized => (E4M3, FLOAT16),
            Types::Quantized => (E4M3, E4M3),
        };
        let weight = self.layout(goes_in, linear.inputs, linear.outputs)?;
        let input = self.layout(goes_in, linear.inputs, tokens)?;
        let output = self.layout(comes_out, linear.outputs, tokens)?;
        // What is added with a factor of 0, and so is not read: it has a type, and, where that is the type of what comes out, a place.
        let nothing = self.layout(FLOAT16, linear.outputs, tokens)?;
        let nowhere = if linear.types == Types::Quantized { ptr::null() } else { out.cast_const() };
        let layouts = [&weight, &input, &nothing, &output].map(|layout| layout.0);
        let key = (linear.types, linear.gelu, linear.inputs, linear.outputs, size_class(tokens), lane.multiprocessors);
        let (factor, none) = (linear.factor, 0_f32);
        let multiply = |algorithm: Algorithm| {
            // SAFETY: as the caller promises; the objects are there, and no workspace is needed.
            unsafe {
                (self.library.product)(
                    self.handle,
                    operation.0,
                    &raw const factor,
                    linear.weight,
                    weight.0,
                    states,
                    input.0,
                    &raw const none,
                    nowhere,
                    nothing.0,
                    out,
                    output.0,
                    &raw const algorithm,
                    ptr::null_mut(),
                    0,
                    lane.stream.0,
                )
            }
        };
        let known = self.chosen.lock().get(&key).copied();
        if let Some(algorithm) = known {
            let status = multiply(algorithm);
            if !OF_ANOTHER_SIZE.contains(&status) {
                return check(status, "multiply");
            }
        }
        let algorithm = self.choose(operation.0, layouts)?;
        self.chosen.lock().insert(key, algorithm);
        check(multiply(algorithm), "multiply")
    }

    fn layout(&self, kind: c_int, rows: usize, columns: usize) -> Result<Owned, KernelError> {
        let mut layout = ptr::null_mut();
        let stride = i64::try_from(rows).unwrap_or(i64::MAX);
        // SAFETY: it writes one pointer.
        let status = unsafe { (self.library.layout)(&raw mut layout, kind, rows as u64, columns as u64, stride) };
        check(status, "describe a matrix")?;
        Ok(Owned(layout, self.library.forget_layout))
    }

    fn operation(&self, linear: &Linear, multiprocessors: Option<c_int>) -> Result<Owned, KernelError> {
        let mut operation = ptr::null_mut();
        // SAFETY: it writes one pointer.
        check(unsafe { (self.library.describe)(&raw mut operation, COMPUTE_32F, FLOAT32) }, "describe a product")?;
        let operation = Owned(operation, self.library.forget);
        let epilogue = if linear.gelu { WITH_BIAS | WITH_GELU } else { WITH_BIAS };
        self.set(&operation, TRANSPOSE_A, &TRANSPOSED)?;
        self.set(&operation, EPILOGUE, &epilogue)?;
        self.set(&operation, BIAS_POINTER, &linear.bias)?;
        self.set(&operation, BIAS_TYPE, &FLOAT16)?;
        if linear.types != Types::Float16 {
            // Sums of products are kept with fewer bits than float32 has, as everybody does who multiplies in FP8.
            self.set(&operation, FAST_ACCUMULATION, &1_i8)?;
        }
        if linear.types == Types::Quantized {
            self.set(&operation, SCALE_OF_OUTPUT, &linear.scale)?;
        }
        if let Some(count) = multiprocessors {
            // A kernel as wide as the device would need two turns on a part of it.
            self.set(&operation, MULTIPROCESSORS, &count)?;
        }
        Ok(operation)
    }

    fn set<T>(&self, operation: &Owned, attribute: c_int, value: &T) -> Result<(), KernelError> {
        // SAFETY: the attribute has this type, and its value is copied.
        let status = unsafe { (self.library.set)(operation.0, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        check(status, "describe a product")
    }

    /// What cuBLASLt thinks is the fastest. It takes some time, and so is asked once for each size.
    fn choose(
        &self,
        operation: Handle,
        [weight, input, nothing, output]: [Handle; 4],
    ) -> Result<Algorithm, KernelError> {
        let mut preference = ptr::null_mut();
        // SAFETY: it writes one pointer.
        check(unsafe { (self.library.preference)(&raw mut preference) }, "describe a choice")?;
        let preference = Owned(preference, self.library.forget_preference);
        // For large products it makes nothing faster, and would have to be held for each stream.
        let workspace = 0_usize;
        // SAFETY: the attribute has this type, and its value is copied.
        let status = unsafe {
            (self.library.set_preference)(
                preference.0,
                MOST_WORKSPACE,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )
        };
        check(status, "describe a choice")?;
        let (mut choice, mut found) = (Choice::default(), 0);
        // SAFETY: the objects are there, and there is room for one.
        let status = unsafe {
            (self.library.choose)(
                self.handle,
                operation,
                weight,
                input,
                nothing,
                output,
                preference.0,
                1,
                &raw mut choice,
                &raw mut found,
            )
        };
        check(status, "find a kernel")?;
        if found == 0 {
            check(choice.state.max(1), "find a kernel")?;
        }
        Ok(choice.algorithm)
    }
}

/// Sizes for which one algorithm is used: four for each doubling.
fn size_class(tokens: usize) -> usize {
    let bits = tokens.max(1).ilog2();
    let quarter = if bits >= 2 { (tokens >> (bits - 2)) & 3 } else { tokens & 3 };
    bits as usize * 4 + quarter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_for_ranges_of_sizes() {
        let classes: Vec<_> = (1..=1 << 17).map(size_class).collect();
        assert!(classes.windows(2).all(|pair| pair[0] <= pair[1]), "they rise");
        assert_eq!(size_class(65_536), size_class(80_000));
        assert_ne!(size_class(65_535), size_class(65_536));
        assert!(classes.last().unwrap() < &80);
    }
}
