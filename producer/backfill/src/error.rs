//! What can go wrong with a backfill, beside what goes wrong for clients and operators.

use std::{path::PathBuf, time::Duration};

use embed_connect::ConnectError;
use embed_schemas::{JobId, WireError, job_id::JobIdError};

use crate::MaxErrors;

/// An error of a backfill.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As for any client.
    #[error(transparent)]
    Client(#[from] embed_client::Error),
    /// As for any operator.
    #[error(transparent)]
    Control(#[from] embed_control::Error),
    /// A backfill cannot begin or go on.
    #[error("{0}")]
    Backfill(String),
    /// What is to be recorded of a backfill does not fit into the bucket.
    #[error("{0}")]
    Unrecordable(String),
    /// More rows failed than may.
    #[error(
        "{failed} of {rows} rows failed, and --max-errors is {most}: the first reasons are {reasons}.{}",
        resume_hint(.output.as_deref())
    )]
    TooManyErrors {
        /// Rows of this run that have no vector.
        failed: u64,
        /// Rows of this run.
        rows: u64,
        /// How many may fail.
        most: MaxErrors,
        /// Why they have none.
        reasons: String,
        /// The output, if the backfill can be resumed.
        output: Option<String>,
    },
    /// A backfill that makes no progress.
    #[error(
        "no result came for {}: {waiting} jobs wait, the first is {first}. {}{}",
        humantime::format_duration(*.after),
        .trouble.as_deref().unwrap_or("Is a worker running that serves the model?"),
        resume_hint(.output.as_deref())
    )]
    Stalled {
        /// For how long nothing came.
        after: Duration,
        /// Jobs in flight.
        waiting: usize,
        /// The first of them.
        first: JobId,
        /// What last kept a job from being published, if anything did.
        trouble: Option<String>,
        /// The output, if the backfill can be resumed.
        output: Option<String>,
    },
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Client(error.into())
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Client(error.into())
    }
}

impl From<JobIdError> for Error {
    fn from(error: JobIdError) -> Self {
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
            Self::Backfill(_) => "backfill",
            Self::Unrecordable(_) => "unrecordable",
            Self::TooManyErrors { .. } => "too_many_errors",
            Self::Stalled { .. } => "stalled",
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.retryable(),
            Self::Control(error) => error.retryable(),
            Self::Stalled { .. } => true,
            Self::Backfill(_) | Self::Unrecordable(_) | Self::TooManyErrors { .. } => false,
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let file = embed_control::Error::file(path);
        |source| file(source).into()
    }
}

fn resume_hint(output: Option<&str>) -> String {
    output
        .map(|output| format!(" What is done is kept; go on with `embed backfill resume {output}`"))
        .unwrap_or_default()
}
