//! What the command `embed` does beyond clients and operators: backfills of files, and a whole local stack for development.
//!
//! Calls, jobs and results are [`embed_client`]'s; streams, variants, routes and rollouts are [`embed_control`]'s. The binary `embed` is a
//! thin shell over the three.

pub mod backfill;
pub mod dev;
pub mod error;

pub use error::Error;
