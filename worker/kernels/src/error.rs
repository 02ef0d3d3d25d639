//! Why an operator cannot be used, or has failed.

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KernelError {
    /// A library of CUDA's is not there, or lacks something.
    #[error("{library} cannot be used: {reason}")]
    Library {
        /// Its file's name.
        library: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The driver refused something.
    #[error("CUDA failed to {what}: {reason}")]
    Cuda {
        /// What was to be done.
        what: &'static str,
        /// What it said.
        reason: String,
    },
    /// The kernels do not compile for this device.
    #[error("the kernels do not compile: {0}")]
    Compile(String),
    /// cuBLASLt has no way to compute a product, or failed.
    #[error("cuBLASLt failed to {what}: {said}")]
    Product {
        /// What was to be done.
        what: &'static str,
        /// Its status, as cuBLAS calls it.
        said: String,
    },
    /// No kernels are written for a model of this shape.
    #[error(
        "no kernels for {hidden} components in {heads} heads: heads have 32 or 64, states a multiple of 64 up to 1024"
    )]
    Shape {
        /// Components of a state.
        hidden: usize,
        /// Heads.
        heads: usize,
    },
    /// The device is too old for what a graph wants.
    #[error("a device of compute capability {major}.{minor} has no FP8: 8.9 is the first that has")]
    NoFp8 {
        /// Compute capability.
        major: i32,
        /// Its second part.
        minor: i32,
    },
    /// A graph gives an operator what it does not take.
    #[error("{0}")]
    Graph(String),
    /// ONNX Runtime failed.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
}
