//! Traces over OTLP, as binary protobuf over HTTP.
//!
//! Whoever records knows when everything began and ended, so a span is made when it has ended: nothing is kept for a request that is not
//! recorded, and there is no current span. What is recorded waits in a queue that is bounded in spans. A collector that is slow or away costs
//! what does not fit, which is counted, and nobody waits for it.

mod client;
mod export;
mod span;

pub use client::{Open, Recorder};
pub use export::{Counts, Exporting, Settings, SetupError, Spans, shown};
pub use opentelemetry::KeyValue;
pub use span::{Kind, Span, new_span, new_trace};

/// The variable that names a collector, for everything that speaks OTLP.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
