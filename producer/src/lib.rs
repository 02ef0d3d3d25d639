//! Producers' side of akidb-embed: asking workers for vectors, publishing jobs, backfilling files, and a whole local
//! stack for development.
//!
//! Workers are met on NATS only, in the terms of [`embed_schemas`]; nothing here knows how a vector is made. The binary
//! `embed` is a thin shell over this library.
//!
//! ```no_run
//! use embed_producer::{Client, client::CallOptions};
//! use embed_connect::ConnectSettings;
//! use embed_schemas::{EmbedRequest, Slug};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(&ConnectSettings::default()).await?;
//! let model = Slug::from_name("all-MiniLM-L6-v2")?;
//! let result = client.embed(&model, EmbedRequest::new(["hello"]), &CallOptions::default()).await?;
//! assert_eq!(result.vector(0)?.len(), result.dim as usize);
//! # Ok(())
//! # }
//! ```

pub mod backfill;
pub mod client;
pub mod dev;
pub mod error;
pub mod models;
pub mod nats;
pub mod provision;
pub mod registry;
pub mod rollout;
pub mod route;

pub use client::Client;
pub use error::Error;
