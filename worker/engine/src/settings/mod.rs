//! What can be set about batching and inference, with the defaults. Whoever embeds this library decides where values come from:
//! all types read and write themselves with `serde`.

mod batch;
mod chain;
mod inference;
mod model;
mod provider;
mod providers;
mod tokenize;

pub use batch::{BatchConfig, BatchPolicy, FixedConfig, TableConfig};
pub use chain::Providers;
pub use inference::{All, DeviceCalls, DeviceConfig, Devices, EngineConfig, GraphShapes, check_chain};
pub use model::{CURRENT, ModelSpec};
pub use provider::Provider;
pub use providers::{CudaConfig, OpenvinoConfig, TensorrtConfig, TensorrtRtxConfig};
pub use tokenize::TokenizeConfig;
