//! The worker: takes texts from NATS, embeds them in adaptive batches, stores the vectors.
//!
//! Data flows one way: [`intake`] -> [`tokenize`] -> [`batch`] -> [`engine`] -> [`publish`]. [`app`] puts the parts
//! together; [`pipeline`] is the part of the way that knows no NATS.

pub mod app;
pub mod batch;
pub mod bench;
pub mod cli;
pub mod config;
pub mod engine;
pub mod intake;
pub mod job;
pub mod model;
pub mod models;
pub mod nats;
mod pace;
pub mod pipeline;
pub mod publish;
mod table;
pub mod telemetry;
pub mod tokenize;
pub mod variant;
