//! JetStream as far as the client library does not serve: requests that leave nothing behind, pull requests, acknowledged publishing, and
//! the server's time.

pub mod api;
mod clock;
mod pull;
mod store;

pub use clock::ServerClock;
pub use pull::{Consumer, Pulled, info as consumer_info};
pub use store::{StoreClient, StoreError};
