//! HTTP in, request-reply out: a producer like any other, for whoever speaks no NATS.
//!
//! [`Gateway::open`] takes a connection and [`Settings`], [`serve`] answers until it is told to stop. What stands where:
//!
//! - `api`: what is served, one module for each family of paths, and the OpenAPI document that is made of their types.
//! - `access`: who may ask, and how much.
//! - `batches`: what takes long: files in, jobs underneath, files out.
//! - `body`, `call`, `models`: from a request's bytes to a worker's answer.
//! - `error`: what goes wrong, as HTTP says it.

mod access;
mod api;
mod batches;
mod body;
mod call;
mod error;
mod gateway;
mod link;
mod metrics;
mod models;
mod serve;
mod settings;

pub use access::keys::{KeysError, new_key};
pub use api::openapi::document as openapi;
pub use batches::Settings as BatchSettings;
pub use error::OpenError;
pub use gateway::Gateway;
pub use metrics::recorder;
pub use serve::{metrics_alone, serve};
pub use settings::{Bounds, Settings};
