//! What an operator sees: metrics, health, logs.

mod endpoint_stats;
mod health;
mod http;
mod logging;
mod metrics;

pub use endpoint_stats::EndpointStats;
pub use health::{Health, Readiness};
pub use http::serve;
pub use logging::{LogFormat, start as start_logging};
pub use metrics::{VariantMetrics, install, update_gauges};
