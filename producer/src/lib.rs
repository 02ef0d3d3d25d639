//! What the command `embed` does beyond clients, operators and backfills: a whole local stack for development, and how everything stands as text
//! and as a page.
//!
//! Calls, jobs and results are [`embed_client`]'s; streams, variants, routes and rollouts are [`embed_control`]'s; backfills are
//! [`embed_backfill`]'s. The binary `embed` is a thin shell over the four.

pub mod dev;
pub mod error;
pub mod status;

pub use error::Error;
