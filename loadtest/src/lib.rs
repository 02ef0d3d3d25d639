//! Load tests: they drive workers from outside, as producers do.

pub mod cli;
pub mod open_loop;
pub mod pacing;
pub mod report;
pub mod texts;
