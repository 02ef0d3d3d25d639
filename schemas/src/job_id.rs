//! Job ids: the last token of a result's subject.

use std::{fmt, str::FromStr};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest job id, in bytes.
pub const MAX_JOB_ID_LEN: usize = 128;

/// The identity of a job and of its result: one NATS subject token of `[A-Za-z0-9_-]`, 1 to [`MAX_JOB_ID_LEN`] bytes.
/// Within a model, two jobs with the same id are the same job: only the first result is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct JobId(#[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,128}$")))] String);

/// Why a string cannot be a job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobIdError {
    /// The empty string.
    #[error("a job id cannot be empty: leave `id` out to have one made")]
    Empty,
    /// Longer than [`MAX_JOB_ID_LEN`].
    #[error("a job id has at most {MAX_JOB_ID_LEN} characters, this one has {0}")]
    TooLong(usize),
    /// A character that a subject token cannot hold.
    #[error("a job id is part of a subject and cannot hold {0:?}: use letters, digits, `-` and `_`")]
    Character(char),
}

impl JobId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobId {
    type Error = JobIdError;

    fn try_from(text: String) -> Result<Self, JobIdError> {
        if text.is_empty() {
            return Err(JobIdError::Empty);
        }
        if let Some(c) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_')) {
            return Err(JobIdError::Character(c));
        }
        if text.len() > MAX_JOB_ID_LEN {
            return Err(JobIdError::TooLong(text.len()));
        }
        Ok(Self(text))
    }
}

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, JobIdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_subject_token() {
        assert!("backfill-1_000042".parse::<JobId>().is_ok());
        assert_eq!("a.b c".parse::<JobId>(), Err(JobIdError::Character('.')));
        assert_eq!("a b".parse::<JobId>(), Err(JobIdError::Character(' ')));
        assert_eq!("*".parse::<JobId>(), Err(JobIdError::Character('*')));
        assert_eq!("".parse::<JobId>(), Err(JobIdError::Empty));
        assert_eq!("x".repeat(129).parse::<JobId>(), Err(JobIdError::TooLong(129)));
    }
}
