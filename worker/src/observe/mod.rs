//! What an operator sees: gauges, health, statistics, discovery, and the HTTP endpoint for them.

mod backlog;
mod discovery;
mod disk;
mod gauges;
mod health;
mod http;
mod operate;
mod probe;
mod statistics;

pub use backlog::watch as watch_backlog;
pub use discovery::Discovery;
pub use disk::watch as watch_disk;
pub use gauges::Gauges;
pub use health::{Health, Readiness};
pub use http::serve;
pub use operate::{Levers, Operation};
pub use probe::{ProbeError, probe};
pub use statistics::publish as publish_statistics;
