//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod classic;
mod driver;
mod follow;
mod machine;
mod shadow;
mod shadow_step;
mod simulation;
mod verdicts;
