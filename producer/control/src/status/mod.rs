//! How everything stands, at a glance: what is served, how traffic is split, what comes in and how long it takes, what waits, what has failed.
//!
//! Nothing is found out here that another part of this library does not find out; it is put side by side. What cannot be looked at is said
//! ([`Status::unknown`]) and leaves a gap, whatever the reason: a user who may not, a stream that is not there.
//!
//! | module | does |
//! |---|---|
//! | `collect` | asks, within bounds of time and number |
//! | `traffic` | workers' windows of the last minutes, added up |
//! | `attention` | what a person should look at |

mod attention;
mod collect;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use embed_schemas::{Lane, Slug, control::WorkerStatus};
use serde::Serialize;

pub use collect::Collector;
pub use traffic::{ErrorCount, Traffic};

use crate::{dead::LetterLine, provision::QueueDepth};

/// How everything stands. What is `None` is not known: [`Status::unknown`] says why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// When this was found out, RFC 3339, by this machine's clock.
    pub taken: String,
    /// The server that was asked.
    pub server: ServerLine,
    /// What a person should look at, most urgent first.
    pub attention: Vec<String>,
    /// The variants of all models.
    pub variants: Vec<VariantLine>,
    /// What came in within the last minute, by variant and lane. Idle ones are left out.
    pub traffic: Option<Vec<Traffic>>,
    /// What waits, by variant and lane.
    pub queues: Option<Vec<QueueLine>>,
    /// The streams of jobs, results and dead letters.
    pub streams: Option<Vec<StreamLine>>,
    /// The last rollout of each model.
    pub rollouts: Option<Vec<RolloutLine>>,
    /// What failed within the last quarter of an hour, by variant, lane and code; the most frequent first.
    pub errors: Option<Vec<ErrorCount>>,
    /// The newest dead letters, newest first.
    pub dead: Option<Vec<LetterLine>>,
    /// The workers, as they say themselves.
    pub workers: Option<Vec<WorkerStatus>>,
    /// What could not be looked at.
    pub unknown: Vec<Unknown>,
}

/// The server that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerLine {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether there is a connection.
    pub connected: bool,
}

/// A variant, over all workers that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariantLine {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// Whether it takes what is sent without a variant and that no route leads elsewhere.
    pub default: bool,
    /// On how many workers it is in which state. Empty: none that answers has it.
    pub states: BTreeMap<&'static str, usize>,
    /// The versions that are live.
    pub versions: BTreeSet<String>,
    /// Their precisions.
    pub precisions: BTreeSet<String>,
    /// What they run on.
    pub providers: BTreeSet<String>,
    /// Its share of each lane, in percent. `None`: the routes are not known.
    pub shares: Option<BTreeMap<Lane, u8>>,
}

/// What one variant has yet to do in one lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueLine {
    /// The model.
    pub model: Slug,
    /// The variant.
    pub variant: Slug,
    /// The lane.
    pub lane: Lane,
    /// How much it is.
    #[serde(flatten)]
    pub depth: QueueDepth,
}

/// A stream of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamLine {
    /// The model.
    pub model: Slug,
    /// What is in it: `jobs`, `results` or `dead letters`.
    pub holds: &'static str,
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold. `None`: no limit.
    pub max_bytes: Option<u64>,
    /// When its oldest message was stored, RFC 3339.
    pub oldest: Option<String>,
    /// What is to be said of one that is nearly full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutLine {
    /// The model.
    pub model: Slug,
    /// The variant that has served so far.
    pub from: Slug,
    /// The candidate.
    pub to: Slug,
    /// What it is doing, or how it has ended.
    pub phase: &'static str,
    /// The candidate's share of the traffic, in percent.
    pub percent: f64,
    /// When it was started, RFC 3339.
    pub started: String,
    /// What happened last.
    pub last: String,
    /// Whether it is over.
    pub over: bool,
    /// Whether it waits for a person.
    pub paused: bool,
}

/// What could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The field of [`Status`] that is `None` for it, or lacks something.
    pub part: &'static str,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub next: String,
}
