//! Batching: which texts go into the next run of the engine.
//!
//! Pure and synchronous. It knows lanes, lengths, arrivals and deadlines; it does not know NATS, jobs, the engine, or
//! what time it is. What it batches is any `T`.

mod lane_queue;
mod planner;
mod queue;

pub use planner::{Action, Batch, Entry, Planner, Policy, Reason, Step};
pub use queue::{BatchQueue, Depth};
