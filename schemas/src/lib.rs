//! The contract between producers and workers.
//!
//! Everything that two parts of the system must agree on stands here, once: wire types and their two encodings,
//! subjects, headers, stream and consumer definitions, error codes, model metadata, metric names.
//!
//! This crate does no I/O, knows no clock, and depends on no other crate of the project.

pub mod control;
pub mod encoding;
pub mod error;
pub mod headers;
pub mod held;
pub mod inbox;
pub mod job_id;
pub mod lane;
pub mod latency;
pub mod metrics;
pub mod model;
pub mod model_limits;
pub mod outcome;
pub mod removal;
pub mod request;
pub mod routes;
#[cfg(feature = "schema")]
pub mod schema;
pub mod serving;
pub mod shadow;
pub mod slug;
pub mod stats;
pub mod streams;
pub mod subjects;
pub mod trace;
pub mod wire;

pub use encoding::{Encoding, Storage};
pub use error::{ErrorCode, WireError};
pub use job_id::JobId;
pub use lane::Lane;
pub use latency::{LatencyRecorder, LatencySketch};
pub use model::{Artefact, CurrentPointer, ModelMetadata, Precision};
pub use outcome::{EmbedFailure, EmbedResult, Item, Outcome, Timing};
pub use request::{EmbedRequest, MAX_TEXTS};
pub use routes::{RouteRecord, RouteState, Weights};
pub use slug::Slug;
pub use stats::{Earlier, VariantStats, WindowCounts};
pub use wire::Format;
