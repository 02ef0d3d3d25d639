//! What is being served: variants, the version of each that is live, and how one version takes the place of another.
//!
//! A [`Variant`] is a name that traffic is sent to, and stays; a [`Pipeline`] is one loaded version of it, and is replaced.
//! [`Served`] holds both. The [`Manager`] brings what is served to what is wanted.

mod activity;
mod backend;
mod lineup;
mod loader;
mod manager;
mod memory;
mod pipeline;
mod served;
mod swap;
mod variant;
mod version;
mod wanted;
mod watch;

pub use activity::{Activities, Activity};
pub use backend::{Backend, OnnxRuntime};
pub use lineup::{Lineup, Member};
pub use loader::Loader;
pub use manager::{Manager, ManagerParts};
pub use pipeline::Pipeline;

pub use crate::engine::cores;
pub use served::Served;
pub use variant::{Variant, result_too_large};
pub use version::Version;
