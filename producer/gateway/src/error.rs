//! What goes wrong, as HTTP says it: a status, and a body in the shape that OpenAI's clients read.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use embed_client::{ConnectError, Error, ErrorCode, WireError};
use schemars::JsonSchema;
use serde::Serialize;

/// When to come again, where nothing better is known.
const SOON: Duration = Duration::from_secs(1);

/// An answer that is none.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// Stable; programs branch on it.
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    /// The field that is at fault.
    pub(crate) param: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

/// What an error looks like.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody<'a> {
    /// What went wrong.
    error: ErrorFields<'a>,
}

/// What went wrong.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErrorFields")]
struct ErrorFields<'a> {
    /// For a person: what is wrong, and how to mend it.
    message: &'a str,
    /// The kind, as OpenAI names them.
    r#type: &'a str,
    /// The field that is at fault, if it is one.
    param: Option<&'a str>,
    /// A stable code, for programs.
    code: &'a str,
}

/// The beginning of a text: what repeats what was sent is never as long as that may be.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), param: None, retry_after: None }
    }

    /// What the caller did wrong, in this field.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message).about(param)
    }

    #[must_use]
    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// One answer for every key that is none: it must not tell how far off it is.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "no valid key: send one as `Authorization: Bearer KEY`")
    }

    pub(crate) fn disconnected() -> Self {
        let message = "the gateway has no connection to NATS; it is being made again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).after(SOON)
    }

    /// The same of a request whose one text is called `text`.
    #[must_use]
    pub(crate) fn of_one_text(mut self) -> Self {
        if self.param.as_deref().is_some_and(|param| param.starts_with("input")) {
            self.param = Some("text".to_owned());
            if let Some((_, rest)) = self.message.split_once(": ").filter(|(field, _)| field.starts_with("input")) {
                self.message = format!("text: {rest}");
            }
        }
        self
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            429 => "rate_limit_error",
            401 => "authentication_error",
            403 => "permission_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The status, the headers that say when to try again, and this body.
    pub(crate) fn response(&self, body: Vec<u8>) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(pause) = self.retry_after {
            let millis = pause.as_millis().max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(millis.div_ceil(1000)).unwrap_or(60)));
            // Read by OpenAI's clients, to whom a second may be long.
            headers.insert("retry-after-ms", HeaderValue::from(u64::try_from(millis).unwrap_or(60_000)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl ApiError {
    /// What is said of it, as JSON.
    pub(crate) fn body(&self) -> Vec<u8> {
        let Self { code, message, param, .. } = self;
        let error = ErrorFields { message, r#type: self.kind(), param: param.as_deref(), code };
        serde_json::to_vec(&ErrorBody { error }).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response(self.body())
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for ApiError {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        let of = |status: StatusCode| {
            let code = Cow::Owned(error.code().to_owned());
            Self { status, code, message: message.clone(), param: None, retry_after: None }
        };
        match error {
            Error::Wire(wire) => wire.into(),
            // That others were answered changes nothing of why these were not.
            Error::Incomplete { source, .. } => Self::from(&**source),
            // Nobody is there, so nothing is known of what there should be.
            Error::UnknownModel { served, .. } | Error::Unserved { served, .. } if served.is_empty() => {
                of(StatusCode::SERVICE_UNAVAILABLE).after(SOON)
            }
            Error::UnknownModel { .. } | Error::Unserved { .. } | Error::NoStream { .. } => {
                of(StatusCode::NOT_FOUND).about("model")
            }
            Error::StreamFull { .. } => of(StatusCode::TOO_MANY_REQUESTS).after(SOON),
            Error::PayloadTooLarge { index, .. } => {
                let message = message.replacen("texts[", "input[", 1);
                Self { message, ..of(StatusCode::PAYLOAD_TOO_LARGE) }.about(format!("input[{index}]"))
            }
            Error::Timeout { .. } => of(StatusCode::GATEWAY_TIMEOUT),
            Error::BadAnswer { .. } => of(StatusCode::BAD_GATEWAY),
            Error::MixedSpaces { first, second } => {
                let message = format!(
                    "the texts were answered by {first} and {second}, whose vectors cannot be compared: choose a variant with the header \
                     x-model-version"
                );
                Self { message, ..of(StatusCode::CONFLICT) }
            }
            Error::OtherSpace { expected, found, from } => {
                let message = format!("x-embed-space: {expected} was asked for, and {from} has {found}");
                Self { message, ..of(StatusCode::CONFLICT) }.about("x-embed-space")
            }
            Error::Connect(ConnectError::NoServer { .. }) | Error::Nats { .. } => {
                of(StatusCode::SERVICE_UNAVAILABLE).after(SOON)
            }
            Error::Ended { .. } => of(StatusCode::CONFLICT),
            Error::JobId(_) => of(StatusCode::BAD_REQUEST),
            _ => of(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl From<&WireError> for ApiError {
    fn from(error: &WireError) -> Self {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = Cow::Owned(error.code.as_str().to_owned());
        let (message, param) = in_our_words(error);
        let retry_after = error.retryable.then(|| error.retry_after_ms.map_or(SOON, Duration::from_millis));
        // Who has too little time is told so; waiting does not help.
        let retry_after = retry_after.filter(|_| error.code != ErrorCode::DeadlineExceeded);
        Self { status, code, message, param, retry_after }
    }
}

/// What a worker says of a field, in the names that fields have here.
fn in_our_words(error: &WireError) -> (String, Option<String>) {
    let message = &error.message;
    let named = message.split_once(": ").filter(|(field, _)| {
        let name = field.split('[').next().unwrap_or_default();
        matches!(name, "texts" | "prompt" | "dimensions" | "encoding" | "truncate") && !field.contains(' ')
    });
    if let Some((field, rest)) = named {
        let field = field.replacen("texts", "input", 1).replacen("encoding", "encoding_format", 1);
        return (format!("{field}: {rest}"), Some(field));
    }
    let param = match error.code {
        ErrorCode::UnknownModel => Some("model"),
        ErrorCode::UnknownPrompt => Some("prompt"),
        ErrorCode::UnsupportedDimensions => Some("dimensions"),
        ErrorCode::TextTooLong | ErrorCode::TextTooLarge | ErrorCode::PayloadTooLarge => Some("input"),
        _ => None,
    };
    (message.clone(), param.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_of_fields_is_said_in_our_names() {
        let of = |code, message: &str| in_our_words(&WireError::new(code, message));
        let (message, param) = of(ErrorCode::TextTooLong, "texts[3]: has 300 tokens");
        assert_eq!((message.as_str(), param.as_deref()), ("input[3]: has 300 tokens", Some("input[3]")));
        assert_eq!(of(ErrorCode::UnsupportedDimensions, "no: not that").1.as_deref(), Some("dimensions"));
        assert_eq!(of(ErrorCode::EngineFailed, "the engine: failed").1, None);
    }

    #[test]
    fn what_fails_after_a_part_was_answered_fails_for_its_own_reason() {
        let of = |source: Error| {
            let whole = Error::Incomplete { source: Box::new(source), answered: Vec::new(), texts: 65 };
            let error = ApiError::from(whole);
            (error.status.as_u16(), error.param)
        };
        let other = Error::OtherSpace { expected: "a".into(), found: "b".into(), from: "v".into() };
        assert_eq!(of(other), (409, Some("x-embed-space".to_owned())));
        assert_eq!(of(Error::MixedSpaces { first: "a".into(), second: "b".into() }), (409, None));
        assert_eq!(of(WireError::new(ErrorCode::Overloaded, "x").into()).0, 429);
        assert_eq!(of(Error::nats("asked", "in vain")).0, 503);
    }

    #[test]
    fn every_code_has_its_status() {
        for code in ErrorCode::ALL {
            let error = ApiError::from(&WireError::new(code, "x"));
            assert_eq!(error.status.as_u16(), code.status());
            let late = code == ErrorCode::DeadlineExceeded;
            assert_eq!(error.retry_after.is_some(), code.retryable() && !late, "{code}");
        }
    }
}
