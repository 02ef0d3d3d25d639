//! Intake: messages from NATS become jobs.
//!
//! Online calls are answered at once if there is no room for them. Stored jobs are pulled, one durable consumer for each
//! variant and lane, only as there is room for their texts.

mod calls;
mod discovery;
mod in_progress;
mod pull;

pub use calls::{Endpoint, subscribe, subscribe_bare};
pub use discovery::Discovery;
pub use pull::{PullStatus, Puller};
