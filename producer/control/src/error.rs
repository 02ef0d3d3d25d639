//! What can go wrong for an operator: one enum, whose messages say how to mend it.

use std::path::PathBuf;

use embed_connect::ConnectError;

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As for any client.
    #[error(transparent)]
    Client(#[from] embed_client::Error),
    /// A setting cannot be used.
    #[error("{0}")]
    Settings(String),
    /// There is no bucket to write to.
    #[error("there is no bucket {bucket}: run `embed init` against this server")]
    NoBucket {
        /// The bucket.
        bucket: String,
    },
    /// Somebody else has changed the same at the same time.
    #[error("{what} was changed by somebody else at the same time: look at `embed models list`, and try again")]
    Contended {
        /// What was changed.
        what: String,
    },
    /// A variant that was to be served is not, on some workers.
    #[error("{target} does not go live: {}", .reasons.join("; "))]
    NotLive {
        /// The variant.
        target: String,
        /// For each worker, why.
        reasons: Vec<String>,
    },
    /// A stream or consumer could not be made, read or updated.
    #[error("{what}: {reason}")]
    Provision {
        /// What was tried, such as "cannot update stream EMBED_x (storage)".
        what: String,
        /// What the server says.
        reason: String,
    },
    /// The registry holds nothing that can be used.
    #[error("{0}")]
    Registry(String),
    /// The registry cannot be read.
    #[error(transparent)]
    RegistryAccess(#[from] embed_registry::RegistryError),
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Client(error.into())
    }
}

impl From<embed_schemas::WireError> for Error {
    fn from(error: embed_schemas::WireError) -> Self {
        Self::Client(error.into())
    }
}

impl Error {
    /// A stable code: that of the wire where there is one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Client(error) => error.code(),
            Self::Settings(_) => "settings",
            Self::NoBucket { .. } => "no_bucket",
            Self::Contended { .. } => "contended",
            Self::NotLive { .. } => "not_live",
            Self::Provision { .. } => "provision",
            Self::Registry(_) | Self::RegistryAccess(_) => "registry",
            Self::File { .. } => "file",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.retryable(),
            Self::RegistryAccess(error) => error.retryable(),
            Self::Contended { .. } => true,
            _ => false,
        }
    }

    /// [`Error::File`].
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }

    pub(crate) fn nats(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Client(embed_client::Error::nats(what, reason))
    }

    pub(crate) fn rejected(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Client(embed_client::Error::Rejected { what: what.into(), reason: reason.to_string() })
    }

    pub(crate) fn bad_answer(from: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Client(embed_client::Error::BadAnswer { from: from.into(), reason: reason.to_string() })
    }
}
