//! Engines: padded token ids in, vectors out, by ONNX Runtime on the CPU or on a device, or by OpenVINO on the CPU. Knows no lanes, queues or requests.

pub mod capture_lock;
mod error;
mod fault;
mod interface;
pub mod library;
mod onnx;
pub mod onnx_file;
mod openvino;
pub mod providers;
mod release;
pub mod telemetry;

pub use error::EngineError;
pub use fault::Fault;
pub use interface::{Engine, Input, Vectors, cosine};
pub use onnx::{Assignment, ByWidth, CpuEngine, DeviceEngine, OnnxModel, WeakModel, cuda_graphs};
pub use openvino::{OpenvinoEngine, OpenvinoModel, WeakOpenvinoModel, computes_bf16, probe as probe_openvino};
pub use providers::{Place, attention, driver, tensorrt};
pub use release::{DeviceLoss, give_back as give_back_memory};
