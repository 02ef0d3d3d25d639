//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod batches;
mod cache;
mod drain;
mod hostile;
mod keys;
mod limits;
mod live;
mod models;
mod openai;
mod others;
mod statuses;
mod support;
mod vectors;
