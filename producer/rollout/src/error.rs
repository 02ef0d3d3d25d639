//! Why a rollout cannot be begun as it was asked for.

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// The error about a setting.
pub(crate) fn refuse<T>(field: &'static str, message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError { field, message: message.into() })
}
