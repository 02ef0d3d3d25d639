//! The worker: takes texts from NATS, embeds them in adaptive batches, stores the vectors.
//!
//! A message leaves the socket and becomes a [`lease::Lease`] ([`intake`]); its texts go through an `embed-engine` pipeline of the version
//! that is live ([`variant`], [`serving`]); the outcome is stored, and then the lease ends ([`publish`]). [`app`] puts the parts together,
//! [`supervise`] ends the worker when one of them dies, [`observe`] shows what happens, [`spans`] records single requests.

pub mod app;
pub mod cli;
pub mod config;
pub mod connection;
pub mod intake;
pub mod jetstream;
pub mod job_event;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod observe;
pub mod publish;
pub mod registry;
pub mod replies;
pub mod serving;
pub mod spans;
pub mod supervise;
mod table;
pub mod variant;
