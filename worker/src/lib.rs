//! The worker: takes texts from NATS, embeds them in adaptive batches, stores the vectors.
//!
//! Data flows one way: [`intake`] -> [`tokenize`] -> [`batch`] -> [`engine`] -> [`publish`]. [`app`] puts the parts
//! together; [`serving`] knows which version of which model is live.

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
pub mod publish;
pub mod serving;
mod table;
pub mod telemetry;
pub mod tokenize;
