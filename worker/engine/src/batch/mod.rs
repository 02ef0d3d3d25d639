//! Batching: which texts go into the next run of the engine.
//!
//! Pure and synchronous. It knows lanes, lengths, arrivals, deadlines and costs; it does not know NATS, jobs, the
//! engine, or what time it is. What it batches is any `T`.

mod cost;
mod cost_table;
mod idle_runners;
mod lane_queue;
mod plan;
mod planner;
mod policy;
mod queue;
mod recent;
mod turns;

pub use cost_table::{CostTable, Measured};
pub use plan::{Action, Batch, Entry, Reason, Step};
pub use planner::Planner;
pub use queue::{BatchQueue, Depth, Refused, Run};
pub use turns::Owner;

#[doc(no_inline)]
pub use crate::shape::{Form, Padding, Shape, Unit};
