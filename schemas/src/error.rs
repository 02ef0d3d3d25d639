//! Errors as they travel: a stable code, a message that a person can act on, and whether trying again can help.

use std::fmt;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::JobId;

/// A stable code. Programs branch on it; messages may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The message is not a request: broken encoding, unknown field, wrong type, empty list, too many texts, bad id.
    InvalidRequest,
    /// No worker serves the model.
    UnknownModel,
    /// The model has no prompt of that name.
    UnknownPrompt,
    /// The model cannot be asked for that number of dimensions.
    UnsupportedDimensions,
    /// The text has more tokens than the model takes, and the request said `truncate: false`.
    TextTooLong,
    /// The text has more bytes than the worker accepts.
    TextTooLarge,
    /// The message is larger than the server's `max_payload`.
    PayloadTooLarge,
    /// The answer would be larger than the server's `max_payload`.
    ResultTooLarge,
    /// The texts are more than the worker computes in one online call.
    CallTooLarge,
    /// The worker has as much waiting as it can answer in time.
    Overloaded,
    /// The deadline passed before the work began.
    DeadlineExceeded,
    /// The worker is stopping.
    ShuttingDown,
    /// The variant is not loaded, and cannot be loaded now.
    ModelUnavailable,
    /// The engine failed on this input.
    EngineFailed,
    /// The job was delivered too often without being answered: it is likely to harm whoever takes it.
    TooManyDeliveries,
    /// There is an outcome of a job with the same id and other content.
    IdConflict,
    /// An operator took the job out of the queue.
    Cancelled,
    /// A code of a newer program, as it was sent. Whether a retry can help stands beside it.
    #[serde(untagged)]
    Other(OtherCode),
}

/// A code that this version does not know. What is longer than [`OtherCode::MAX_LEN`] bytes is cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(from = "String", into = "String")]
#[cfg_attr(feature = "schema", schemars(with = "String", description = "A code of a newer program."))]
pub struct OtherCode {
    // In place, so that codes can be copied, and cost no allocation.
    bytes: [u8; Self::MAX_LEN],
    len: u8,
}

impl OtherCode {
    /// Most bytes of a code.
    pub const MAX_LEN: usize = 47;

    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl From<String> for OtherCode {
    fn from(code: String) -> Self {
        let code = &code[..code.floor_char_boundary(Self::MAX_LEN)];
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..code.len()].copy_from_slice(code.as_bytes());
        Self { bytes, len: u8::try_from(code.len()).unwrap_or_default() }
    }
}

impl From<OtherCode> for String {
    fn from(code: OtherCode) -> Self {
        code.as_str().to_owned()
    }
}

impl fmt::Debug for OtherCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl ErrorCode {
    /// All codes that this version knows.
    pub const ALL: [Self; 17] = [
        Self::InvalidRequest,
        Self::UnknownModel,
        Self::UnknownPrompt,
        Self::UnsupportedDimensions,
        Self::TextTooLong,
        Self::TextTooLarge,
        Self::PayloadTooLarge,
        Self::ResultTooLarge,
        Self::CallTooLarge,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::ShuttingDown,
        Self::ModelUnavailable,
        Self::EngineFailed,
        Self::TooManyDeliveries,
        Self::IdConflict,
        Self::Cancelled,
    ];

    /// The code as on the wire and in metric labels.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::UnknownModel => "unknown_model",
            Self::UnknownPrompt => "unknown_prompt",
            Self::UnsupportedDimensions => "unsupported_dimensions",
            Self::TextTooLong => "text_too_long",
            Self::TextTooLarge => "text_too_large",
            Self::PayloadTooLarge => "payload_too_large",
            Self::ResultTooLarge => "result_too_large",
            Self::CallTooLarge => "call_too_large",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ShuttingDown => "shutting_down",
            Self::ModelUnavailable => "model_unavailable",
            Self::EngineFailed => "engine_failed",
            Self::TooManyDeliveries => "too_many_deliveries",
            Self::IdConflict => "id_conflict",
            Self::Cancelled => "cancelled",
            Self::Other(code) => code.as_str(),
        }
    }

    /// The status for `Nats-Service-Error-Code`, with HTTP's meaning.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::UnknownPrompt | Self::UnsupportedDimensions | Self::TextTooLong => 400,
            Self::UnknownModel => 404,
            Self::IdConflict => 409,
            Self::Cancelled => 410,
            Self::TextTooLarge | Self::PayloadTooLarge | Self::ResultTooLarge | Self::CallTooLarge => 413,
            Self::Overloaded => 429,
            Self::EngineFailed | Self::TooManyDeliveries | Self::Other(_) => 500,
            Self::ShuttingDown | Self::ModelUnavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// Whether it is always the caller's doing, whichever variant and worker was asked.
    #[must_use]
    pub const fn is_callers(self) -> bool {
        matches!(self, Self::InvalidRequest | Self::UnknownPrompt)
    }

    /// Whether the same request, sent again later, can succeed.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::DeadlineExceeded
                | Self::ShuttingDown
                | Self::ModelUnavailable
                | Self::EngineFailed
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[error("{code}: {message}")]
pub struct WireError {
    /// The stable code.
    pub code: ErrorCode,
    /// What is wrong and how to mend it, for a person.
    pub message: String,
    /// Whether the same request, sent again later, can succeed.
    pub retryable: bool,
    /// When to try again, milliseconds from now, if the worker can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Most bytes of an error's message: what it quotes may be as large as a message of NATS, and it has to fit into a header.
pub const MAX_MESSAGE_LEN: usize = 1024;

/// A text of at most `most` bytes: beginning and end of a longer one, and how much is left out.
fn shortened(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let half = (most - 64) / 2;
    let (begin, end) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{} … ({} bytes left out) … {}", &text[..begin], end - begin, &text[end..])
}

impl WireError {
    /// An error with the code's own retry advice. A message that is longer than [`MAX_MESSAGE_LEN`], since it quotes what it is about, is
    /// cut in its middle.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = shortened(message.into(), MAX_MESSAGE_LEN);
        Self { code, message, retryable: code.retryable(), retry_after_ms: None }
    }

    /// The error of work whose deadline passed before it began.
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        Self::new(
            ErrorCode::DeadlineExceeded,
            "the deadline passed before the work began; allow more time in `deadline_ms`, or add workers",
        )
    }

    /// The error of a job whose id is taken.
    #[must_use]
    pub fn id_conflict(id: &JobId) -> Self {
        let message = format!(
            "id: there is another job {id}, with other texts or options; give this one an id of its own, or leave `id` out"
        );
        Self::new(ErrorCode::IdConflict, message)
    }

    /// Shorthand for [`ErrorCode::InvalidRequest`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_quotes_without_bound() {
        for text in ["x".repeat(1_000_000), "ä".repeat(600), "€".repeat(400_000)] {
            let message = WireError::invalid(format!("texts: {text} is not a list")).message;
            assert!(message.len() <= MAX_MESSAGE_LEN, "{}", message.len());
            assert!(message.starts_with("texts: ") && message.ends_with(" is not a list"), "{message}");
        }
        assert_eq!(WireError::invalid("short").message, "short");
    }

    #[test]
    fn the_text_of_a_code_is_its_wire_form() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert_eq!(serde_json::from_value::<ErrorCode>(code.as_str().into()).unwrap(), code);
        }
    }

    #[test]
    fn a_code_of_a_newer_program_is_kept_as_it_is() {
        let sent = r#"{"code":"quota_exhausted","message":"no more today","retryable":true}"#;
        let error: WireError = serde_json::from_str(sent).unwrap();
        assert_eq!(error.to_string(), "quota_exhausted: no more today");
        assert!(error.retryable, "as the sender says");
        assert_eq!(serde_json::to_string(&error).unwrap(), sent);
        let packed = rmp_serde::to_vec_named(&error).unwrap();
        assert_eq!(rmp_serde::from_slice::<WireError>(&packed).unwrap(), error);
        let long = ErrorCode::Other("ä".repeat(100).into());
        assert_eq!(long.as_str(), "ä".repeat(OtherCode::MAX_LEN / 2));
    }
}
