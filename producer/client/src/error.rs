//! What can go wrong for a client: one enum, whose messages say how to mend it.

use std::{ops::Range, time::Duration};

use embed_connect::ConnectError;
use embed_schemas::{EmbedResult, ErrorCode, JobId, Slug, WireError};

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No worker serves the model.
    #[error("no worker serves {target}{}", served_hint(.served))]
    UnknownModel {
        /// The model, with the variant if one was asked for.
        target: String,
        /// What workers do serve, as `model` or `model.variant`.
        served: Vec<String>,
    },
    /// No worker serves what jobs are for: they would wait in the stream until one does.
    #[error(
        "no worker serves {target}{}. Jobs would wait for one that does: pass --allow-unserved if they are to",
        served_hint(.served)
    )]
    Unserved {
        /// The model, with the variant if one was asked for.
        target: String,
        /// What workers do serve, as `model` or `model.variant`.
        served: Vec<String>,
    },
    /// No stream takes jobs for the model.
    #[error(
        "no stream takes jobs for model {model}: run `embed init` against this server, or check the model's name \
         (stream {stream} does not exist)"
    )]
    NoStream {
        /// The model.
        model: Slug,
        /// The stream that is missing.
        stream: String,
    },
    /// The stream of jobs takes no more.
    #[error(
        "the stream {stream} is full ({reason}): jobs wait to be served; add workers, or raise the limit: `embed init --jobs-max-bytes 4GiB`, or what is wanted"
    )]
    StreamFull {
        /// The stream.
        stream: String,
        /// What the server says.
        reason: String,
    },
    /// One text is larger than a message may be.
    #[error(
        "texts[{index}] has {bytes} bytes, and a message may have {limit} on this server: cut the text, or raise \
         max_payload in the server's configuration"
    )]
    PayloadTooLarge {
        /// Position of the text in the request.
        index: usize,
        /// Its size in bytes.
        bytes: usize,
        /// The server's `max_payload`, in bytes.
        limit: usize,
    },
    /// Nothing came in time.
    #[error("{what} within {}{hint}", humantime::format_duration(*.after))]
    Timeout {
        /// What was waited for, as in "no answer from all-minilm-l6-v2".
        what: String,
        /// How long.
        after: Duration,
        /// What may be the cause, beginning with punctuation; may be empty.
        hint: String,
    },
    /// The worker answered with an error, or would have to.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The job was published before, and has failed: published again, it would be dropped as the same job.
    #[error(
        "job {id} has failed before ({error}): send it once more with `embed dead retry {id}`, or publish it under an id of its own"
    )]
    Ended {
        /// The job's id.
        id: JobId,
        /// How it ended.
        error: Box<WireError>,
    },
    /// An answer that makes no sense.
    #[error("unusable answer from {from}: {reason}")]
    BadAnswer {
        /// Who answered.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The parts of one request were answered from different embedding spaces.
    #[error(
        "the parts of this request were answered by {first} and {second}, whose vectors cannot be compared: choose one \
         with --variant"
    )]
    MixedSpaces {
        /// Variant and version of the first part.
        first: String,
        /// Variant and version of the part that differs.
        second: String,
    },
    /// Vectors came from another embedding space than the one that was asked for.
    #[error(
        "expected space {expected}, and {from} has {found}: vectors of two spaces cannot be compared. Choose a variant of \
         the expected space with --variant; or, if the new one is wanted, embed everything anew and ask for it with \
         --space {found}"
    )]
    OtherSpace {
        /// The space that was asked for.
        expected: String,
        /// The space of the vectors.
        found: String,
        /// Variant, version and model that made them.
        from: String,
    },
    /// A request was made in several calls, and some were answered before one failed: what is here need not be asked for again.
    #[error("{source} ({} of {texts} texts had been answered)", count(.answered))]
    Incomplete {
        /// Why the others were not.
        source: Box<Self>,
        /// What was, in the order of the texts.
        answered: Vec<Answered>,
        /// Texts of the whole request.
        texts: usize,
    },
    /// The connection is gone, or NATS does not answer as it should. Trying again can help.
    #[error("{what}: {reason}")]
    Nats {
        /// What was tried.
        what: String,
        /// What NATS or its client says.
        reason: String,
    },
    /// NATS refuses an operation.
    #[error("{what}: {reason}")]
    Rejected {
        /// What was tried.
        what: String,
        /// What NATS or its client says.
        reason: String,
    },
    /// NATS does not permit an operation to this user.
    #[error("{what}: {refusal}")]
    NotPermitted {
        /// What was tried.
        what: String,
        /// What is not permitted.
        refusal: embed_connect::Refusal,
    },
    /// A job's id is unusable.
    #[error("the id of this job is unusable: {0}")]
    JobId(#[from] embed_schemas::job_id::JobIdError),
}

/// A part of a request that was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Which of the request's texts.
    pub texts: Range<usize>,
    /// Their vectors.
    pub result: EmbedResult,
}

impl Error {
    /// A stable code: that of the wire where there is one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Connect(ConnectError::NoServer { .. }) => "no_server",
            Self::Connect(ConnectError::Refused { .. }) => "refused",
            Self::Connect(ConnectError::Settings(_)) => "settings",
            Self::Connect(ConnectError::File { .. }) => "file",
            Self::UnknownModel { .. } | Self::Unserved { .. } | Self::NoStream { .. } => {
                ErrorCode::UnknownModel.as_str()
            }
            Self::StreamFull { .. } => "stream_full",
            Self::PayloadTooLarge { .. } => ErrorCode::PayloadTooLarge.as_str(),
            Self::Timeout { .. } => "timeout",
            Self::Wire(error) => error.code.as_str(),
            Self::Ended { error, .. } => error.code.as_str(),
            Self::BadAnswer { .. } => "bad_answer",
            Self::MixedSpaces { .. } => "mixed_spaces",
            Self::OtherSpace { .. } => "other_space",
            Self::Incomplete { source, .. } => source.code(),
            Self::Nats { .. } => "nats",
            Self::Rejected { .. } => "rejected",
            Self::NotPermitted { .. } => "not_permitted",
            Self::JobId(_) => ErrorCode::InvalidRequest.as_str(),
        }
    }

    /// Whether the same call, made again later, can succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::Connect(ConnectError::NoServer { .. })
            | Self::StreamFull { .. }
            | Self::Timeout { .. }
            | Self::Nats { .. } => true,
            Self::Wire(error) => error.retryable,
            Self::Incomplete { source, .. } => source.retryable(),
            _ => false,
        }
    }

    /// [`Error::Nats`].
    pub fn nats(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Nats { what: what.into(), reason: reason.to_string() }
    }
}

impl Error {
    /// Why a request failed: [`Error::NotPermitted`] if the server said so, else [`Error::Nats`].
    pub(crate) fn request(what: impl Into<String>, error: &async_nats::RequestError) -> Self {
        match crate::nats::refusal(error) {
            Some(refusal) => Self::NotPermitted { what: what.into(), refusal: refusal.clone() },
            None => Self::nats(what, error),
        }
    }
}

fn count(answered: &[Answered]) -> usize {
    answered.iter().map(|part| part.texts.len()).sum()
}

fn served_hint(served: &[String]) -> String {
    match served {
        [] => ": no worker is running on this server (start one with `embed dev`, or `embed-worker run`)".to_owned(),
        served => format!("; served are: {}", served.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_do() {
        let error = Error::UnknownModel { target: "model m".into(), served: vec!["a".into(), "b.fp32".into()] };
        assert_eq!(error.to_string(), "no worker serves model m; served are: a, b.fp32");
        assert_eq!(error.code(), "unknown_model");
        let error = Error::PayloadTooLarge { index: 3, bytes: 9, limit: 8 };
        assert!(error.to_string().starts_with("texts[3] has 9 bytes"), "{error}");
    }

    #[test]
    fn what_is_incomplete_fails_as_its_source_does() {
        let source = Box::new(Error::nats("cannot call", "gone"));
        let error = Error::Incomplete { source, answered: Vec::new(), texts: 3 };
        assert_eq!(error.to_string(), "cannot call: gone (0 of 3 texts had been answered)");
        assert!(error.retryable() && error.code() == "nats");
    }
}
