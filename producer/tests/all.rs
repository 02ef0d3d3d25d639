//! All integration tests of the crate in one program: one link instead of one for each file, and no core idle at the end of each.

mod accounts;
mod backfill;
mod backfill_cluster;
mod backfill_files;
mod backfill_lost;
mod backfill_results;
mod calls;
mod client;
mod command;
mod command_jobs;
mod credentials;
mod deployment;
mod jobs;
mod models;
mod provision;
mod publish_cluster;
mod results;
mod roles;
mod roles_denied;
mod rollout;
mod route;
mod route_cluster;
mod route_jwt;
mod route_split;
mod served;
mod support;
