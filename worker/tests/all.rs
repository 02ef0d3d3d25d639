//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod attempts;
mod bad_input;
mod dead_letters;
mod devices;
mod drain;
mod fairness;
mod faults;
mod golden;
mod hostile;
mod hostile_models;
mod http;
mod intake;
mod life;
mod models;
mod once;
mod panics;
mod providers;
mod reconcile;
mod remote_registry;
mod removal;
mod replies;
mod shadow;
mod start;
mod support;
mod swap;
mod variants;
