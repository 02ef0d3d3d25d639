//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.
#![cfg(feature = "remote")]

mod cache;
mod engines;
mod folder;
mod s3;
mod support;
