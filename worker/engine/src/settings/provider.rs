//! What can run a graph.

use serde::{Deserialize, Serialize};

/// What runs a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// TensorRT: NVIDIA's compiler of graphs for one kind of device.
    Tensorrt,
    /// TensorRT for RTX: the same for consumers' cards, as a plug-in.
    TensorrtRtx,
    /// ONNX Runtime's kernels for NVIDIA's devices.
    Cuda,
    /// OpenVINO's kernels for the processor.
    Openvino,
    /// ONNX Runtime's kernels for the processor.
    Cpu,
}

impl Provider {
    /// All providers.
    pub const ALL: [Self; 5] = [Self::Tensorrt, Self::TensorrtRtx, Self::Cuda, Self::Openvino, Self::Cpu];

    /// The provider's name, as in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tensorrt => "tensorrt",
            Self::TensorrtRtx => "tensorrt-rtx",
            Self::Cuda => "cuda",
            Self::Openvino => "openvino",
            Self::Cpu => "cpu",
        }
    }

    /// Whether it runs on a device of its own, beside the processor.
    #[must_use]
    pub const fn on_device(self) -> bool {
        !matches!(self, Self::Openvino | Self::Cpu)
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
