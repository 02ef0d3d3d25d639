//! Why a gateway cannot be opened.

use embed_registry::RegistryError;

use crate::access::keys::KeysError;

/// Why a gateway cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Files cannot be kept where they are to be.
    #[error("--files: {location}: {reason}")]
    Files {
        /// Where, without secrets.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Vectors cannot be kept where they are to be.
    #[error("--vectors: {location}: {reason}")]
    Vectors {
        /// Where, without secrets.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An origin is none.
    #[error("--cors-origin: {0:?} is no origin; write it as browsers send it, such as https://app.example.com")]
    Origin(String),
}
