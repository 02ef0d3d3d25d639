//! What an operator sees: metrics, health, logs.

mod endpoint_stats;
mod gpu;
mod health;
mod http;
mod logging;
mod metrics;
mod probe;
mod statistics;
mod window;

pub use endpoint_stats::EndpointStats;
pub use gpu::GpuWatch;
pub use health::{Health, Readiness};
pub use http::serve;
pub use logging::{LogFormat, start as start_logging};
pub use metrics::{VariantMetrics, install, texts_embedded, update_gauges};
pub use probe::{ProbeError, probe};
pub use statistics::publish as publish_statistics;
pub use window::Window;
