//! Graphs in ONNX Runtime, on the CPU or on a device.

mod assignment;
mod cpu;
pub mod cuda_graphs;
mod device;
mod model;
mod shared_session;
mod spread;
mod staging;
mod weights;

pub use assignment::Assignment;
pub use cpu::CpuEngine;
pub use device::{ByWidth, DeviceEngine};
pub use model::{OnnxModel, WeakModel};
