//! Errors as they travel: a stable code, a message that a person can act on, and whether trying again can help.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A stable code. Programs branch on it; messages may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 14] = [
        Self::InvalidRequest,
        Self::UnknownModel,
        Self::UnknownPrompt,
        Self::UnsupportedDimensions,
        Self::TextTooLong,
        Self::TextTooLarge,
        Self::PayloadTooLarge,
        Self::ResultTooLarge,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::ShuttingDown,
        Self::ModelUnavailable,
        Self::EngineFailed,
        Self::TooManyDeliveries,
    ];

    /// The code as on the wire and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::UnknownModel => "unknown_model",
            Self::UnknownPrompt => "unknown_prompt",
            Self::UnsupportedDimensions => "unsupported_dimensions",
            Self::TextTooLong => "text_too_long",
            Self::TextTooLarge => "text_too_large",
            Self::PayloadTooLarge => "payload_too_large",
            Self::ResultTooLarge => "result_too_large",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ShuttingDown => "shutting_down",
            Self::ModelUnavailable => "model_unavailable",
            Self::EngineFailed => "engine_failed",
            Self::TooManyDeliveries => "too_many_deliveries",
        }
    }

    /// The status for `Nats-Service-Error-Code`, with HTTP's meaning.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::UnknownPrompt | Self::UnsupportedDimensions | Self::TextTooLong => 400,
            Self::UnknownModel => 404,
            Self::TextTooLarge | Self::PayloadTooLarge | Self::ResultTooLarge => 413,
            Self::Overloaded => 429,
            Self::EngineFailed | Self::TooManyDeliveries => 500,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
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
        }
    }
}
