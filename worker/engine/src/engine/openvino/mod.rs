//! Graphs in OpenVINO, on the processor: a library of its own, called directly. As a provider of ONNX Runtime it would come with an ONNX Runtime of its
//! own, or as a plug-in that finds no device on AMD's processors, and is no faster.

mod api;
mod engine;
mod library;
mod model;

pub use engine::OpenvinoEngine;
pub use library::{computes_bf16, probe};
pub use model::{OpenvinoModel, WeakOpenvinoModel};
