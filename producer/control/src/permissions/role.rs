//! The roles.

use std::str::FromStr;

/// What a user of NATS is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Online calls.
    Caller,
    /// Jobs, and their results.
    Producer,
    /// Backfills, and their results.
    Backfill,
    /// Calls and jobs on behalf of others.
    Gateway,
    /// Serves them.
    Worker,
    /// Collects figures.
    Metrics,
    /// Sees how everything stands.
    Status,
    /// Finds and cancels jobs, and sends dead letters once more.
    Jobs,
    /// Says which variants are served.
    Models,
    /// Splits traffic, in the account of the streams.
    Routes,
    /// Splits traffic, in the system account.
    RoutesSys,
    /// Moves traffic on evidence.
    Rollouts,
    /// Makes streams, buckets and consumers.
    Init,
    /// All but serving, in the account of the streams.
    Operator,
}

/// There is no such role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}: use {names}", names = names())]
pub struct UnknownRole(String);

fn names() -> String {
    Role::ALL.map(Role::as_str).join(", ")
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Caller,
        Self::Producer,
        Self::Backfill,
        Self::Gateway,
        Self::Worker,
        Self::Metrics,
        Self::Status,
        Self::Jobs,
        Self::Models,
        Self::Routes,
        Self::RoutesSys,
        Self::Rollouts,
        Self::Init,
        Self::Operator,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Producer => "producer",
            Self::Backfill => "backfill",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Metrics => "metrics",
            Self::Status => "status",
            Self::Jobs => "jobs",
            Self::Models => "models",
            Self::Routes => "routes",
            Self::RoutesSys => "routes-sys",
            Self::Rollouts => "rollouts",
            Self::Init => "init",
            Self::Operator => "operator",
        }
    }

    /// Which programs it is for.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Caller => "`embed ask`, and any client that calls",
            Self::Producer => "`embed publish`, and any client that stores jobs and reads their results",
            Self::Backfill => "`embed backfill`",
            Self::Gateway => "calls and jobs on behalf of others",
            Self::Worker => "`embed-worker run`",
            Self::Metrics => "what collects workers' figures through NATS",
            Self::Status => {
                "`embed status`: changes nothing; reads jobs that failed, and what workers publish of their windows"
            }
            Self::Jobs => "`embed jobs`, `embed dead`: reads the texts of all jobs",
            Self::Models => "`embed models`",
            Self::Routes => "`embed route`, in the account of the streams; it needs routes-sys as well",
            Self::RoutesSys => "`embed route` and `embed rollout`, in the system account (--sys-user)",
            Self::Rollouts => "`embed rollout`; it needs routes-sys as well, and models for `finish`",
            Self::Init => "`embed init`: makes and changes streams",
            Self::Operator => "a person who may do all of these but serve",
        }
    }

    /// Whether its users want something of workers: where tenants have accounts, they are there.
    #[must_use]
    pub const fn is_for_tenants(self) -> bool {
        matches!(self, Self::Caller | Self::Producer | Self::Backfill | Self::Gateway)
    }

    /// Whether its users are in the system account.
    #[must_use]
    pub const fn is_in_system_account(self) -> bool {
        matches!(self, Self::RoutesSys)
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or_else(|| UnknownRole(name.to_owned()))
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
