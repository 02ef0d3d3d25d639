//! What can go wrong with a route; every message says what to do.

use embed_schemas::{
    RouteRecord, Slug,
    routes::{WeightsError, describe},
};

use super::claims::ClaimsError;
use crate::Error;

impl From<embed_client::Error> for RouteError {
    fn from(error: embed_client::Error) -> Self {
        Self::Common(error.into())
    }
}

/// Why a route could not be read, changed or repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// As elsewhere in this library.
    #[error(transparent)]
    Common(#[from] Error),
    /// The shares make no route.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The account's claims, or the key that signs them.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// A setting is missing or cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The system account does not answer.
    #[error("{what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// What the server, or the client, says.
        reason: String,
    },
    /// Somebody else's mapping matches the same subjects.
    #[error(
        "server {server} maps {source_subject}, which overlaps {subjects}: which of the two takes effect would be left to \
         chance. Remove that mapping from the server's configuration, or narrow it"
    )]
    Overlap {
        /// The server.
        server: String,
        /// The source of the mapping that is in the way.
        source_subject: String,
        /// The subjects that the route maps.
        subjects: String,
    },
    /// A variant that the route names cannot answer.
    #[error("{reason}. --force sets the route all the same")]
    NotServed {
        /// Which, why, and what is served.
        reason: String,
    },
    /// The variants' vectors cannot be compared with each other.
    #[error(
        "the variants of model {model} are not in one embedding space: {spaces}. Vectors of both would end up in one \
         index, and cannot be compared. --force sets the route all the same"
    )]
    Spaces {
        /// The model.
        model: Slug,
        /// The variants with their spaces.
        spaces: String,
    },
    /// Jobs for a variant would be stored and never taken.
    #[error(
        "nothing takes the jobs of variant {variant} of model {model}: consumer {consumer} does not exist. Run `embed init` \
         with --variant {model}=… for every variant, the default first"
    )]
    NoConsumer {
        /// The model.
        model: Slug,
        /// The variant.
        variant: Slug,
        /// The consumer, as `stream/consumer`.
        consumer: String,
    },
    /// Somebody else changed the route meanwhile.
    #[error(
        "the route of model {model} was changed by {who} at the same time, to {to}: look at `embed route show {model}`"
    )]
    Superseded {
        /// The model.
        model: Slug,
        /// Who.
        who: String,
        /// What they want.
        to: String,
    },
    /// A server did not take the change, and it was taken back everywhere.
    #[error("the route of model {model} was not changed, and all servers are as before: {reasons}")]
    Undone {
        /// The model.
        model: Slug,
        /// What each server that did not take it says.
        reasons: String,
    },
    /// A server did not take the change, and others did.
    #[error(
        "the route of model {model} is in effect on some servers and not on others: {reasons}. Mend that and run `embed \
         route sync`, or `embed route sync --undo` to go back"
    )]
    HalfApplied {
        /// The model.
        model: Slug,
        /// What each server that did not take it says.
        reasons: String,
    },
    /// A change is in effect on every server that answers, and could not be written down. The servers keep it, and carry a mark by which it is
    /// found and written down later.
    #[error(
        "the route of model {model} is in effect on {}{}, and could not be written down: {reason}. It stays in effect; `embed route \
         sync`, or whatever changes a route next, writes it down once the bucket can be written",
        .servers.join(", "),
        not_on(.missing)
    )]
    Unwritten {
        /// The model.
        model: Slug,
        /// The servers that hold it.
        servers: Vec<String>,
        /// Those that do not answer.
        missing: Vec<String>,
        /// What was to be written down.
        record: Box<RouteRecord>,
        /// Why it could not be written down.
        reason: String,
    },
    /// A file of mappings is not ours to overwrite.
    #[error(
        "{path} holds something that `embed route` has not written: name another file with --mappings-file, or empty this one"
    )]
    NotOurs {
        /// The file.
        path: String,
    },
}

fn not_on(missing: &[String]) -> String {
    if missing.is_empty() { String::new() } else { format!(" (not on {}: no answer)", missing.join(", ")) }
}

impl RouteError {
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
    pub fn code(&self) -> &str {
        match self {
            Self::Common(error) => error.code(),
            Self::Weights(_) => "weights",
            Self::Claims(_) => "claims",
            Self::Settings(_) => "settings",
            Self::System { .. } => "system_account",
            Self::Overlap { .. } => "overlap",
            Self::NotServed { .. } => "not_served",
            Self::Spaces { .. } => "mixed_spaces",
            Self::NoConsumer { .. } => "no_consumer",
            Self::Superseded { .. } => "superseded",
            Self::Undone { .. } => "undone",
            Self::HalfApplied { .. } => "half_applied",
            Self::Unwritten { .. } => "unwritten",
            Self::NotOurs { .. } => "not_ours",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Common(error) => error.retryable(),
            Self::System { .. } | Self::Superseded { .. } | Self::HalfApplied { .. } | Self::Unwritten { .. } => true,
            _ => false,
        }
    }
}
