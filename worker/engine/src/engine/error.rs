//! Why an engine cannot be made, or a run fails.

use super::{fault::Fault, library, onnx_file::FileError};

/// A run, or the making of an engine, failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ONNX Runtime library could not be found or loaded.
    #[error(transparent)]
    Library(#[from] library::LibraryError),
    /// ONNX Runtime refused the graph, or a run failed.
    #[error("ONNX Runtime: {0}")]
    Onnx(String),
    /// OpenVINO refused the graph, or a run failed.
    #[error("OpenVINO: {0}")]
    Openvino(String),
    /// The provider cannot be used on this machine.
    #[error("{provider}: {reason}")]
    Provider {
        /// Its name.
        provider: &'static str,
        /// What ONNX Runtime, OpenVINO, or the system, said.
        reason: String,
    },
    /// The device has too little memory for this run.
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),
    /// The device cannot be used any more.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The engine fails whatever it is given.
    #[error("the engine fails every run: {0}")]
    Broken(String),
    /// The file holds what no graph may.
    #[error("the graph is refused: {0}")]
    Refused(#[from] FileError),
    /// The graph is not an embedding graph.
    #[error("the graph is not an embedding graph: {0}")]
    Graph(String),
    /// The engine gave back something that is not what was asked for.
    #[error("the engine gave {found} numbers, expected {expected}")]
    Output {
        /// Numbers that came back.
        found: usize,
        /// Numbers that should have.
        expected: usize,
    },
}

impl<R> From<ort::Error<R>> for EngineError {
    fn from(error: ort::Error<R>) -> Self {
        let message = error.to_string();
        match Fault::of(&message) {
            Fault::OutOfMemory => Self::OutOfMemory(message),
            Fault::DeviceLost => Self::DeviceLost(message),
            Fault::Other => Self::Onnx(message),
        }
    }
}
