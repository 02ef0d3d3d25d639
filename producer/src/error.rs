//! What can go wrong with a local stack, beside what goes wrong for clients, operators and backfills.

use embed_connect::ConnectError;

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As for any client.
    #[error(transparent)]
    Client(#[from] embed_client::Error),
    /// As for any operator.
    #[error(transparent)]
    Control(#[from] embed_control::Error),
    /// As for a backfill.
    #[error(transparent)]
    Backfill(#[from] embed_backfill::Error),
    /// The local stack cannot start, or one of its processes ended.
    #[error("{0}")]
    Dev(String),
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Client(error.into())
    }
}

impl Error {
    /// A stable code: that of the wire where there is one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Client(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Backfill(error) => error.code(),
            Self::Dev(_) => "dev",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.retryable(),
            Self::Control(error) => error.retryable(),
            Self::Backfill(error) => error.retryable(),
            Self::Dev(_) => false,
        }
    }

    pub(crate) fn file(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let file = embed_control::Error::file(path);
        |source| file(source).into()
    }
}
