//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod acceptance;
mod architectures;
mod backfill;
mod backfill_scale;
mod bench;
mod capacity;
mod chaos;
mod hostile;
mod jobs;
mod long;
mod models;
mod peers;
mod reports;
mod rollout;
mod rollout_shadow;
mod route;
mod scale;
mod support;
mod traces;
mod upgrade;
