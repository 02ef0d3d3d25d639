//! Publishing: outcomes to where they belong, then acknowledgements. Off the engine's threads.
//!
//! Order is what makes it safe: a result is stored before its job is acknowledged, a dead letter before its job is
//! terminated. Whatever fails in between leads to a redelivery, never to a loss.

mod dead_letter;
mod delivery;
mod encoded;
mod publisher;
mod stored;

pub use delivery::{Call, Delivery, Reply, header};
pub use publisher::Publisher;
