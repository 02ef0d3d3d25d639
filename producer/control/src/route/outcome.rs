//! How a change of a route has ended: one type, so that whoever changes a route has to say what comes of each end, above all of one that is
//! in effect although something failed.

use std::{fmt, time::Duration};

use embed_schemas::{RouteRecord, Slug, routes::describe};
use serde::Serialize;

use super::{Report, ServerView};

/// A change that every server that answers holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Applied {
    /// The model.
    pub model: Slug,
    /// What was written down, or is to be.
    pub record: RouteRecord,
    /// What each server holds.
    pub servers: Vec<ServerView>,
    /// The servers that do not answer, by name. They are expected to hold it once they are back; `embed route sync` makes sure.
    pub missing: Vec<String>,
    /// How long it took.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
}

/// How a change of a route has ended. There are no other ends: match them all.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a change may be in effect although something failed: match every end"]
pub enum Outcome {
    /// It is in effect on every server that answers, and written down. Only how it ended may not be, see [`RouteRecord::state`].
    Applied(Applied),
    /// It is in effect on every server that answers, and could not be written down. The servers keep it, and carry a mark by which it is
    /// found and written down later: see [`Router::reconcile`](super::Router::reconcile).
    Unwritten {
        /// What is in effect.
        applied: Applied,
        /// Why it could not be written down.
        reason: String,
    },
    /// It is in effect on some servers, and not on others. It is left so, or could not be taken back.
    HalfApplied {
        /// The model.
        model: Slug,
        /// What each server that did not take it says.
        reasons: String,
    },
    /// A server did not take it, and all servers are as before.
    Undone {
        /// The model.
        model: Slug,
        /// What each server that did not take it says.
        reasons: String,
        /// Whether what stood in the way may pass by itself.
        passing: bool,
    },
    /// Somebody else has changed the route meanwhile, and theirs is what holds.
    Superseded {
        /// The model.
        model: Slug,
        /// Who.
        who: String,
        /// What they want.
        to: String,
    },
}

impl Applied {
    /// From what is known of the model in the end.
    pub(super) fn new(model: &Slug, record: RouteRecord, mine: Report, took: Duration) -> Self {
        let silent = mine.servers.iter().filter(|server| server.id.is_none());
        let missing = silent.map(|server| server.name.clone()).collect();
        Self { model: model.clone(), record, servers: mine.servers, missing, took }
    }

    /// The servers that hold it, by name.
    pub fn holding(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().filter(|server| server.id.is_some()).map(|server| server.name.as_str())
    }
}

impl Outcome {
    /// That somebody else's change is the one that holds.
    pub(super) fn superseded(model: &Slug, other: Option<&RouteRecord>) -> Self {
        let (who, to) = match other {
            Some(other) => (other.who.clone(), describe(&other.lanes)),
            None => ("somebody".to_owned(), "nothing".to_owned()),
        };
        Self::Superseded { model: model.clone(), who, to }
    }

    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Unwritten { .. } => "unwritten",
            Self::HalfApplied { .. } => "half_applied",
            Self::Undone { .. } => "undone",
            Self::Superseded { .. } => "superseded",
        }
    }

    /// Whether the same change, made again later, can end better.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Applied(_) => false,
            Self::Undone { passing, .. } => *passing,
            Self::Unwritten { .. } | Self::HalfApplied { .. } | Self::Superseded { .. } => true,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied(applied) => {
                write!(f, "the route of model {} is in effect on {}", applied.model, Held(applied))
            }
            Self::Unwritten { applied, reason } => write!(
                f,
                "the route of model {} is in effect on {}, and could not be written down: {reason}. It stays in effect; `embed route \
                 sync`, or whatever changes a route next, writes it down once the bucket can be written",
                applied.model,
                Held(applied)
            ),
            Self::HalfApplied { model, reasons } => write!(
                f,
                "the route of model {model} is in effect on some servers and not on others: {reasons}. Mend that and run `embed \
                 route sync`, or `embed route sync --undo` to go back"
            ),
            Self::Undone { model, reasons, .. } => {
                write!(f, "the route of model {model} was not changed, and all servers are as before: {reasons}")
            }
            Self::Superseded { model, who, to } => write!(
                f,
                "the route of model {model} was changed by {who} at the same time, to {to}: look at `embed route show {model}`"
            ),
        }
    }
}

/// The servers that hold a change, and those that do not answer.
struct Held<'a>(&'a Applied);

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.holding().collect::<Vec<_>>().join(", "))?;
        match self.0.missing.as_slice() {
            [] => Ok(()),
            missing => write!(f, " (not on {}: no answer)", missing.join(", ")),
        }
    }
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
