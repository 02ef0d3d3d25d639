//! Outcomes leave the worker: answers to callers, results and dead letters into their streams, and only then does a lease end.

mod call;
mod dead_letter;
mod encoded;
mod ending;
mod outcome;
mod publisher;
mod shadow;
mod stored;
mod trouble;

pub use call::{Call, Caller};
pub use outcome::Ask;
pub use publisher::{Finished, JobIdentity, PublishRules, Publisher, Publishing, Reply};
pub use trouble::StoreTrouble;
