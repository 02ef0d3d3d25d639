//! What operators of akidb-embed do, beside running workers: streams and consumers, which variants are served, how traffic is split
//! between them, and rollouts from one to another.
//!
//! | module | does |
//! |---|---|
//! | [`registry`] | which models a registry holds |
//! | [`provision`] | makes streams, consumers and buckets, or compares them |
//! | [`models`] | which variants workers are to serve, and whether they do |
//! | [`route`] | splits traffic, in the servers' mappings |
//! | [`rollout`] | moves a route step by step, on evidence |
//!
//! The binary `embed` is a thin shell over this library and `embed-client`.

mod bucket;
pub mod error;
pub mod models;
pub mod provision;
mod ready;
pub mod registry;
pub mod rollout;
pub mod route;
mod times;

pub use embed_registry::who;
pub use error::Error;
pub use times::now;
