//! What an operator sees: metrics, health, logs.

mod endpoint_stats;
mod health;
mod http;
mod logging;
mod metrics;
mod probe;
mod statistics;
mod window;

pub use endpoint_stats::EndpointStats;
pub use health::{Health, Readiness};
pub use http::serve;
pub use logging::{LogFormat, start as start_logging};
pub use metrics::{VariantMetrics, install, update_gauges};
pub use probe::{ProbeError, probe};
pub use statistics::publish as publish_statistics;
pub use window::Window;
