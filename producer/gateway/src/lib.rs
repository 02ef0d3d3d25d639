//! HTTP in, request-reply out: a producer like any other, for whoever speaks no NATS.
//!
//! [`Gateway::open`] takes a connection and [`Settings`], [`serve`] answers until it is told to stop. What stands where:
//!
//! - `api`: what is served, one module for each family of paths.
//! - `access`: who may ask, and how much.
//! - `batches`: what takes long: files in, jobs underneath, files out.
//! - `body`, `call`, `models`: from a request's bytes to a worker's answer.
//! - `vectors`: those that were made before, in an object store.
//! - `error`: what goes wrong, as HTTP says it.
//! - `guard`, `routes`, `openapi`: what every request passes, where it goes, and the document of it.
//!
//! No two of them import each other.

mod access;
mod api;
mod batches;
mod body;
mod call;
mod error;
mod gateway;
mod guard;
mod link;
mod metrics;
mod models;
mod open_error;
mod openapi;
mod request_id;
mod routes;
mod serve;
mod settings;
mod vectors;

pub use access::keys::{KeysError, new_key};
pub use gateway::Gateway;
pub use metrics::recorder;
pub use open_error::OpenError;
pub use openapi::document as openapi;
pub use serve::{metrics_alone, serve};
pub use settings::{BatchSettings, Bounds, MOST_INPUTS, Settings, VectorSettings};
