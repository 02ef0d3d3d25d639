//! Lanes: the three ways in which texts arrive, in order of priority.

use std::{fmt, str::FromStr};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a text arrived. The order is the order of priority: a worker serves [`Lane::Rpc`] first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// An online call: core request-reply. Somebody waits for the answer.
    Rpc,
    /// A job in the stream: stored until its result is stored.
    Job,
    /// A chunk of a backfill: as [`Lane::Job`], served when nothing else waits.
    Bulk,
}

impl Lane {
    /// All lanes, highest priority first.
    pub const ALL: [Self; 3] = [Self::Rpc, Self::Job, Self::Bulk];
    /// The lanes that JetStream carries.
    pub const STORED: [Self; 2] = [Self::Job, Self::Bulk];

    /// The lane's name, as in subjects and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Job => "job",
            Self::Bulk => "bulk",
        }
    }

    /// Position in [`Lane::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The string names no lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lane: use `rpc`, `job` or `bulk`")]
pub struct UnknownLane(pub String);

impl FromStr for Lane {
    type Err = UnknownLane;

    fn from_str(text: &str) -> Result<Self, UnknownLane> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text).ok_or_else(|| UnknownLane(text.to_owned()))
    }
}
