//! Operators for ONNX Runtime's CUDA provider, of which a graph of a BERT encoder on tokens without padding is made.
//!
//! Between matrix products, ONNX Runtime's own graph passes over memory where nothing has to be: for biases, for GELU, to bring queries,
//! keys and values into another order, to take padding out and to put it back. Here a bias, and GELU, are done by cuBLASLt behind the product, and
//! the rest by a few kernels (`kernels.cu`), which are compiled for the device when a model is loaded. Nothing of CUDA is needed to build this crate: the
//! driver, NVRTC and cuBLASLt are opened where they are found, and where they are not, [`probe`] says which is missing.
//!
//! # Operators of the domain [`DOMAIN`]
//! States are float16, `[tokens, hidden]`, texts one after the other. *Quantized* is E4M3: the value times the attribute `scale`.
//!
//! | operator | inputs | outputs |
//! |---|---|---|
//! | `Embed` | ids `[texts, width]`, mask (on the host; padded on the right), words, places, scale and shift of the norm | states, starts `[texts + 1]`, tiles `[tiles, 4]` |
//! | `EmbedQuantize` | the same | the same, and the states quantized |
//! | `AddNorm` | a product, what skipped it, scale and shift of the norm | states |
//! | `AddNormQuantize` | the same | states, and the states quantized |
//! | `Attend` | queries, keys and values `[tokens, 3 x hidden]`, tiles | states |
//! | `AttendQuantize` | the same | states, quantized only |
//! | `Linear` | states, weight `[out, in]`, bias; attribute `gelu` | `[tokens, out]` |
//! | `LinearFromQuantized` | quantized states, quantized weight, bias; attribute `factor` undoes both scales | `[tokens, out]` |
//! | `LinearQuantized` | the same, and the scale of what comes out, float32 `[1]` | `[tokens, out]`, quantized |
//! | `Pool` | states, starts; attributes `mean`, `normalize` | float32 `[texts, hidden]` |
//!
//! GELU is the approximation by tanh, which is what cuBLASLt has.

mod cublas;
mod cuda;
mod device;
mod error;
mod interface;
mod kernels;
mod operators;
mod packing;
mod partition;
mod recent;
mod stream;

use std::sync::OnceLock;

pub use error::KernelError;
use ort_sys::{OrtApi, OrtApiBase, OrtSessionOptions, OrtStatusPtr};
pub use stream::UrgentStream;

/// The operators' domain in a graph.
pub const DOMAIN: &str = "ai.akidb";

/// What a model has to be for these operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    /// Components of a state: a multiple of 64, at most 1024.
    hidden: usize,
    /// Heads; each has 32 or 64 components.
    heads: usize,
}

impl Shape {
    /// Components of a head.
    const fn head(self) -> usize {
        self.hidden / self.heads
    }

    fn check(self) -> Result<Self, KernelError> {
        let whole = self.heads > 0 && self.hidden.is_multiple_of(self.heads);
        if whole && self.hidden.is_multiple_of(64) && self.hidden <= 1024 && [32, 64].contains(&self.head()) {
            return Ok(self);
        }
        Err(KernelError::Shape { hidden: self.hidden, heads: self.heads })
    }
}

/// Opens the libraries, and looks at a device, by CUDA's number. `quantized`: for graphs that compute in FP8.
///
/// # Errors
/// Why the operators cannot be used there.
pub fn probe(device: u32, quantized: bool) -> Result<(), KernelError> {
    device::Device::on(device, |device| device.check(quantized))
}

/// From now on, while calls come in ([`UrgentStream::note_call`]), runs of many tokens in graphs of these operators leave this share of a device's multiprocessors
/// to them, or a little more, since a driver parts them by groups. The first share that is asked for on a device stays, for all sessions there, as long as the
/// process lives. Gives back how many that are.
///
/// # Errors
/// If the driver cannot part the device: it can from version 12.5 on.
pub fn keep_free(device: u32, share: f64) -> Result<u32, KernelError> {
    device::Device::on(device, |device| device.keep_free(cuda::Driver::get()?, share))
}

/// Makes the operators known to a session that is going to be made with these options.
///
/// # Errors
/// If ONNX Runtime does not take them.
///
/// # Safety
/// `api` is ONNX Runtime's, and `options` are options of a session. Its graph has been looked at: one `Embed` gives out all the starts and tiles that other
/// operators of the domain take, all the states that they take come from operators of the domain, and all of these are nodes of the graph itself. The kernels
/// read where starts and tiles say.
pub unsafe fn register(api: &'static OrtApi, options: *mut OrtSessionOptions) -> Result<(), KernelError> {
    static DOMAIN: OnceLock<Result<operators::Domain, KernelError>> = OnceLock::new();
    let domain = DOMAIN.get_or_init(|| operators::Domain::new(api)).as_ref().map_err(Clone::clone)?;
    // SAFETY: as the caller promises; the domain is never freed.
    unsafe { interface::check(api, (api.AddCustomOpDomain)(options, domain.pointer())) }
}

/// What ONNX Runtime calls in a library of operators that it is told to load.
///
/// # Safety
/// Called by ONNX Runtime alone, with what it documents: its own options and interface. Whoever has it loaded trusts the graph, see [`register`].
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "ONNX Runtime looks for this name")]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: the interface is there as long as the library is, which nobody unloads while it has sessions. An older ONNX Runtime has none of
    // this version.
    let api = unsafe { ((*base).GetApi)(ort_sys::ORT_API_VERSION).as_ref() };
    let Some(api) = api else {
        // There is no status without an interface; the sessions fail, since nobody knows the operators.
        return OrtStatusPtr::default();
    };
    // SAFETY: as ONNX Runtime promises, and whoever had the library loaded.
    let registered = unsafe { register(api, options) };
    registered.map_or_else(|error| interface::status(api, &error), |()| OrtStatusPtr::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_those_that_kernels_are_written_for() {
        for (hidden, heads, fits) in [
            (384, 12, true),
            (768, 12, true),
            (1024, 16, true),
            (1024, 8, false),
            (2048, 32, false),
            (100, 3, false),
            (384, 0, false),
        ] {
            assert_eq!(Shape { hidden, heads }.check().is_ok(), fits, "{hidden} {heads}");
        }
    }

    #[test]
    fn without_a_driver_it_is_said_what_is_missing() {
        // On a machine with a device there is nothing to say.
        for said in [probe(0, false), UrgentStream::new(0).map(|_| ()), keep_free(0, 0.2).map(|_| ())] {
            if let Err(error) = said {
                assert!(matches!(error, KernelError::Library { .. } | KernelError::Cuda { .. }), "{error}");
            }
        }
    }
}
