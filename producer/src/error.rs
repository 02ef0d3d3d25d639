//! What can go wrong with a local stack, beside what goes wrong for operators.

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As for any operator.
    #[error(transparent)]
    Control(#[from] embed_control::Error),
    /// The local stack cannot start, or one of its processes ended.
    #[error("{0}")]
    Dev(String),
}

impl From<embed_client::Error> for Error {
    fn from(error: embed_client::Error) -> Self {
        Self::Control(error.into())
    }
}

impl Error {
    /// A stable code: that of the wire where there is one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Control(error) => error.code(),
            Self::Dev(_) => "dev",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Control(error) => error.retryable(),
            Self::Dev(_) => false,
        }
    }

    pub(crate) fn file(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let file = embed_control::Error::file(path);
        |source| file(source).into()
    }
}
