//! Execution providers: what ONNX Runtime is told of each, and why one cannot be used.

pub mod attention;
pub mod driver;
mod options;
mod register;
mod rtx;
pub mod tensorrt;

pub use options::Options;
pub use register::{Place, cuda_options, probe, register, urgent_stream, with_own_operators};
