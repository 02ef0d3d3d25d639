//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod attempts;
mod bad_input;
mod devices;
mod drain;
mod faults;
mod golden;
mod intake;
mod life;
mod models;
mod once;
mod panics;
mod providers;
mod reconcile;
mod remote_registry;
mod removal;
mod shadow;
mod start;
mod support;
mod swap;
mod variants;
