//! Texts in, vectors out, in one process: tokenize, batch, run ONNX models, load and verify them.
//!
//! Knows no NATS, no HTTP, and nothing of a daemon's configuration. Data flows one way: [`pipeline`] takes a
//! [`pipeline::Request`] to [`tokenize`], [`batch`] decides what runs together, [`engine`] runs it, and the request's own
//! callback gets the vectors. [`model`] makes a version of a registry ready: verified, warm, and with its golden vectors reproduced.
//!
//! `examples/embed_file.rs` embeds the lines of a file.

pub mod batch;
pub mod engine;
pub mod model;
pub mod pipeline;
pub mod runner;
pub mod settings;
pub mod shape;
pub mod threads;
pub mod tokenize;
