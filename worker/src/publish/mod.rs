//! Outcomes leave the worker: answers to callers, results and dead letters into their streams, and only then does a lease end.

mod call;
mod dead_letter;
mod encoded;
mod ending;
mod job_identity;
mod outcome;
mod publisher;
mod shadow;
mod stored;
mod trouble;

pub use call::{Call, Caller};
pub use job_identity::JobIdentity;
pub use outcome::Ask;
pub use publisher::{Finished, PublishRules, Publisher, Publishing, Reply};
pub use trouble::StoreTrouble;
