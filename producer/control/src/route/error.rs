//! What can go wrong with a route; every message says what to do.

use embed_schemas::{Slug, routes::WeightsError};

use super::{Outcome, claims::ClaimsError};
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
    /// A change has ended in a way that its caller takes for a failure, see [`RouteError::ended`].
    #[error("{0}")]
    Ended(Box<Outcome>),
    /// A file of mappings is not ours to overwrite.
    #[error(
        "{path} holds something that `embed route` has not written: name another file with --mappings-file, or empty this one"
    )]
    NotOurs {
        /// The file.
        path: String,
    },
}

impl RouteError {
    /// The end of a change, for a caller to whom it is a failure.
    #[must_use]
    pub fn ended(outcome: Outcome) -> Self {
        Self::Ended(Box::new(outcome))
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
            Self::Ended(outcome) => outcome.code(),
            Self::NotOurs { .. } => "not_ours",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Common(error) => error.retryable(),
            Self::Ended(outcome) => outcome.retryable(),
            Self::System { .. } => true,
            _ => false,
        }
    }
}
