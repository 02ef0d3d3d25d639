//! Decides what becomes of a canary: promote, roll back, hold or pause.
//!
//! Everything here is pure, the state machine of a rollout included. A verdict is a function of the configuration, the evidence, the number of the look and a
//! seed, so that it can be replayed from its record. Where the evidence comes from, and what is done about a verdict,
//! is not known here.
//!
//! ```text
//! VariantStats ─► evidence ─► fast (every window) ───────────► verdict
//!                        └──► guarded or classic (at looks) ──┤
//! state ◄── machine ◄───────────────────────────────────────────┘
//! ```
//!
//! `follow` says when a window is complete enough to be judged; `record` keeps what a verdict rests on, so that it can be made again; `power`
//! says beforehand whether a plan can decide.
//!
//! The statistics and their assumptions are explained in ARCHITECTURE.md, "How a rollout decides".

mod classic;
pub mod config;
mod error;
pub mod evidence;
mod fast;
pub mod follow;
mod guarded;
mod machine;
mod metric;
pub mod plan;
pub mod power;
pub mod record;
mod rule;
pub mod shadow;
pub mod simulation;
pub mod spending;
pub mod state;
mod student;
pub mod verdict;

pub use config::Config;
pub use error::ConfigError;
pub use evidence::{Arm, Collector, Evidence};
pub use fast::{PAUSED_WINDOWS, agreement};
pub use machine::{Moved, NotNow};
pub use rule::Rule;
pub use state::Rollout;
pub use verdict::{Check, Decision, Finding, Metric, Pace, Reason, Verdict};
