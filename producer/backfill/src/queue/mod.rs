//! Through the queue: jobs out, outcomes back.
//!
//! | module | does |
//! |---|---|
//! | `job` | a group of rows -> its vectors, tried again where that can help |
//! | `flight` | one job of it: published, waited for, published again if it was lost |
//! | `ahead` | groups that are done before one that comes before them |
//! | `purge` | results that are written are removed from the stream |

mod ahead;
mod flight;
mod job;
mod purge;

pub(crate) use ahead::Ahead;
pub(crate) use job::{Finished, Jobs, Windows};
pub(crate) use purge::{Purger, perhaps_stored};
