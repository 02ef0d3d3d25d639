//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod below;
mod boundary;
mod cache;
mod examples;
