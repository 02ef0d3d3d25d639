//! The client: calls that are answered at once, jobs that are stored, and their results.
//!
//! [`Client`] only holds the connection; each of the submodules adds one thing that it can do.

mod backoff;
mod call;
mod combine;
mod discovery;
mod held;
mod ids;
mod publish;
mod results;
mod split;

use embed_connect::ConnectSettings;

pub(crate) use backoff::Backoff;
pub use call::CallOptions;
pub use discovery::{ServedModel, WorkerInfo};
pub use ids::{new_id, part_id};
pub use publish::{PublishOptions, Published};
pub use results::{DEFAULT_POLL, Expected};
pub(crate) use split::{MessageBudget, text_bytes};

use crate::{Error, nats};

/// A connection to NATS, as a producer of texts sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// As [`nats::connect`].
    pub async fn connect(settings: &ConnectSettings) -> Result<Self, Error> {
        Ok(Self::new(nats::connect(settings, "embed").await?))
    }

    /// Uses a connection that exists.
    #[must_use]
    pub const fn new(nats: async_nats::Client) -> Self {
        Self { nats }
    }

    /// The connection.
    #[must_use]
    pub const fn nats(&self) -> &async_nats::Client {
        &self.nats
    }
}
