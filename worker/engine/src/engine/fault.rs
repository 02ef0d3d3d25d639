//! What an error of a device means, told from its text: ONNX Runtime has no codes for it. Pure.

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device has too little memory for this run: a smaller one may fit.
    OutOfMemory,
    /// The device, or this process's context on it, is gone: nothing will ever run on it again in this process.
    DeviceLost,
    /// Something else, perhaps with this input alone.
    Other,
}

/// As CUDA, cuBLAS, cuDNN, TensorRT and ONNX Runtime's arenas say it.
const OUT_OF_MEMORY: [&str; 9] = [
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "memoryallocation",
    "failed to allocate memory",
    "available memory of",
    "alloc_failed",
    "allocation_failed",
    "not enough memory",
];

/// Names and texts of errors after which CUDA returns the same error for every call.
const DEVICE_LOST: [&str; 22] = [
    "cuda failure 700",
    "illegal memory access",
    "illegaladdress",
    "cuda failure 710",
    "device-side assert",
    "cuda failure 714",
    "hardware stack error",
    "cuda failure 715",
    "illegal instruction",
    "cuda failure 716",
    "misaligned address",
    "cuda failure 717",
    "cuda failure 718",
    "invalid program counter",
    "cuda failure 719",
    "unspecified launch failure",
    "launch failed",
    "uncorrectable ecc",
    "device lost",
    "device is unavailable",
    "no cuda-capable device",
    "context is destroyed",
];

impl Fault {
    /// What a message means.
    #[must_use]
    pub fn of(message: &str) -> Self {
        let message = message.to_lowercase();
        let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
        // After a fault, what fails may be an allocation as well: the fault is what counts.
        if says(&DEVICE_LOST) {
            Self::DeviceLost
        } else if says(&OUT_OF_MEMORY) {
            Self::OutOfMemory
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_by_their_texts() {
        for (message, fault) in [
            (
                "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 805306368",
                Fault::OutOfMemory,
            ),
            ("Available memory of 104857600 is smaller than requested bytes of 201326592", Fault::OutOfMemory),
            (
                "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size);",
                Fault::OutOfMemory,
            ),
            ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", Fault::OutOfMemory),
            ("cuBLASLt failed to multiply: CUBLAS_STATUS_ALLOC_FAILED", Fault::OutOfMemory),
            ("CUDA failed to launch a kernel: an illegal memory access was encountered", Fault::DeviceLost),
            (
                "[cudaHostAllocator.cpp::allocate::63] Error Code 1: Cuda Runtime (cudaErrorMemoryAllocation)",
                Fault::OutOfMemory,
            ),
            (
                "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; expr=cudaStreamSynchronize(stream)",
                Fault::DeviceLost,
            ),
            ("CUDA error cudaErrorIllegalAddress:an illegal memory access was encountered", Fault::DeviceLost),
            ("CUDA failure 719: unspecified launch failure ; GPU=3", Fault::DeviceLost),
            ("CUDA failure 214: uncorrectable ECC error encountered ; GPU=1", Fault::DeviceLost),
            (
                "CUDA failure 46: all CUDA-capable devices are busy or unavailable: device is unavailable",
                Fault::DeviceLost,
            ),
            ("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1", Fault::DeviceLost),
            (
                "CUDA failure 700: an illegal memory access was encountered; Failed to allocate memory for requested buffer",
                Fault::DeviceLost,
            ),
            (
                "indices element out of data bounds, idx=30522 must be within the inclusive range [-30522,30521]",
                Fault::Other,
            ),
            ("Non-zero status code returned while running Gather node", Fault::Other),
        ] {
            assert_eq!(Fault::of(message), fault, "{message}");
        }
    }
}
