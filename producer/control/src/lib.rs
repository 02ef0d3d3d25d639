//! What operators of akidb-embed do, beside running workers: streams and consumers, which variants are served, how traffic is split
//! between them, and rollouts from one to another.
//!
//! | module | does |
//! |---|---|
//! | [`permissions`] | who may do what on a NATS server |
//! | [`bucket`] | a key-value bucket, whose entries are changed only by whoever has seen the last of them |
//! | [`registry`] | which models a registry holds |
//! | [`provision`] | makes streams, consumers and buckets, or compares them |
//! | [`models`] | which variants workers are to serve, and whether they do |
//! | [`route`] | splits traffic, in the servers' mappings |
//! | [`jobs`] | finds single jobs, and takes them out of the queue |
//! | [`outcomes`] | what is stored of jobs that have ended |
//! | [`dead`] | dead letters: looked at, sent once more, thrown away |
//! | [`rollout`] | moves a route step by step, on evidence |
//! | [`status`] | all of this at a glance |
//!
//! The binary `embed` is a thin shell over this library and `embed-client`.

pub mod bucket;
pub mod dead;
pub mod error;
pub mod jobs;
pub mod models;
pub mod outcomes;
pub mod permissions;
pub mod provision;
mod ready;
pub mod registry;
pub mod rollout;
pub mod route;
pub mod status;
mod stream_names;
mod times;

pub use embed_registry::who;
pub use error::Error;
pub use times::{ago, now};
