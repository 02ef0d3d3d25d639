//! How a run behaves towards others: how fast it goes, when it gives up, when it waits.
//!
//! | module | does |
//! |---|---|
//! | `rate` | rows a second, at most |
//! | `max_errors` | how many rows may fail before a run stops |
//! | `streams` | nothing new while a stream is nearly full |
//! | `retry` | only rows that have no vector yet |
//! | `estimate` | what a backfill would take, from a sample |
//! | `sample` | such a sample |

mod estimate;
mod max_errors;
mod rate;
mod retry;
mod sample;
mod streams;

use std::num::NonZeroU32;

pub use self::{
    estimate::{Estimate, Extent, Sampled},
    max_errors::MaxErrors,
    retry::Retry,
    sample::estimate,
};
pub(crate) use self::{
    rate::Rate,
    retry::Selected,
    streams::{Seen, Streams},
};

/// How a run behaves. May differ from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manners {
    /// Rows a second, at most.
    pub rate: Option<NonZeroU32>,
    /// How many rows of a run may fail. It stops when more have, and can be resumed.
    pub max_errors: Option<MaxErrors>,
}
