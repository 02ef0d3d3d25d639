//! What single providers can be told.

use std::path::PathBuf;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// The provider `cuda`: FP32 and FP16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CudaConfig {
    /// Whether products of FP32 numbers are computed in TF32: several times as fast, with 10 bits of the mantissa.
    pub tf32: bool,
    /// Whether graphs without padding are used where a version has them and a run is cheaper with them.
    pub packed: bool,
    /// Whether ONNX Runtime may compute attention with cuDNN, as it does by itself on an H100 and newer. cuDNN compiles a kernel for each
    /// shape on each thread, which takes as long as dozens of runs: worth it only where all batches have one shape.
    pub cudnn_attention: bool,
}

impl Default for CudaConfig {
    fn default() -> Self {
        Self { tf32: false, packed: true, cudnn_attention: false }
    }
}

/// The provider `tensorrt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorrtConfig {
    /// Ranges of widths, by their upper bounds: for each, and for what is wider, an engine is built and holds the weights.
    pub widths: Vec<usize>,
    /// Most memory that a kernel may use while it runs, and while it is chosen. TensorRT's own default if left out.
    pub workspace: Option<ByteSize>,
    /// Streams beside the main one, for kernels that can run side by side. TensorRT decides if left out.
    pub auxiliary_streams: Option<i8>,
    /// How hard to look for fast kernels, 0 to 5. TensorRT's own default if left out.
    pub optimization_level: Option<u8>,
    /// Whether small runs are recorded as CUDA graphs, as `engine.device.cuda_graphs` says.
    pub cuda_graphs: bool,
    /// Whether built engines and timings of kernels are kept on disk: building takes minutes.
    pub cache: bool,
    /// Where they are kept on disk. Left out: `engines` in the folder for copies of the registry's files.
    pub cache_dir: Option<PathBuf>,
    /// Whether engines are shared through the registry by machines with the same kind of device: what was built here is put there, and what
    /// is there is used. An engine is a program for the device and its driver. Whoever may write `engines/` in the registry then runs
    /// programs in every worker that shares, so it is not done without being asked for.
    pub share_cache: bool,
}

impl Default for TensorrtConfig {
    fn default() -> Self {
        Self {
            widths: vec![64, 256],
            workspace: None,
            auxiliary_streams: None,
            optimization_level: None,
            cuda_graphs: false,
            cache: true,
            cache_dir: None,
            share_cache: false,
        }
    }
}

/// The provider `openvino`, a library of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenvinoConfig {
    /// The library of its C interface (`libopenvino_c.so`). Left out: looked for beside the ONNX Runtime library, and where that is looked for.
    pub library: Option<PathBuf>,
}

/// The provider `tensorrt-rtx`, a plug-in of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorrtRtxConfig {
    /// The plug-in (`libonnxruntime_providers_nv_tensorrt_rtx.so`). Left out: looked for beside the ONNX Runtime library.
    pub library: Option<PathBuf>,
    /// Most memory that a kernel may use while it runs. The provider's own default if left out.
    pub workspace: Option<ByteSize>,
    /// Where compiled kernels are kept. They are compiled at each start if left out.
    pub cache_dir: Option<PathBuf>,
}
