//! The client of akidb-embed: calls that are answered at once, jobs that are stored, their results, and what workers serve.
//!
//! Workers are met on NATS only, in the terms of [`embed_schemas`]; nothing here knows how a vector is made.
//!
//! ```no_run
//! use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest, Slug};
//!
//! # async fn example() -> Result<(), embed_client::Error> {
//! let client = Client::connect(&ConnectSettings::default()).await?;
//! let model: Slug = "all-minilm-l6-v2".parse().expect("lower case, digits and dashes");
//! let result = client.embed(&model, EmbedRequest::new(["hello"]), &CallOptions::default()).await?;
//! assert_eq!(result.vector(0)?.len(), result.dim as usize);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] only holds the connection; each of the modules adds one thing that it can do.

use std::sync::Arc;

use tokio::sync::OnceCell;

mod backoff;
#[cfg(feature = "cache")]
pub mod cache;
mod call;
mod combine;
mod discovery;
mod error;
mod fill;
mod held;
mod identity;
mod ids;
pub mod nats;
mod publish;
mod removal;
mod results;
mod served;
mod split;
mod stream;

pub use async_nats::HeaderMap;
pub use embed_connect::{ConnectError, ConnectSettings};
pub use embed_schemas::{
    EmbedRequest, EmbedResult, Encoding, ErrorCode, Format, Item, JobId, Lane, Outcome, Slug, WireError,
    removal::RemovalKey,
};

pub use backoff::Backoff;
pub use call::{CallOptions, Retry};
pub use discovery::{Holder, ServedModel, WorkerInfo};
pub use error::{Answered, Error};
pub use fill::{Fill, RESULT_BYTES, StreamState};
pub use identity::outcome_of;
pub use ids::{id_with_key, new_id, part_id};
pub use publish::{PublishOptions, Published};
pub use results::{Expected, outcomes};
pub use served::RESTART;
pub use split::{MessageBudget, text_bytes};
pub use stream::{Embedded, StreamOptions};

/// A connection to NATS, as a producer of texts sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    nats: async_nats::Client,
    /// Begins with the first result that is waited for.
    looking: Arc<OnceCell<Arc<results::Looking>>>,
    /// Begins with the first call.
    answers: nats::answers::Answers,
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
    pub fn new(nats: async_nats::Client) -> Self {
        Self { nats, looking: Arc::default(), answers: nats::answers::Answers::default() }
    }

    /// The connection.
    #[must_use]
    pub const fn nats(&self) -> &async_nats::Client {
        &self.nats
    }
}
