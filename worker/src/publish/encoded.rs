//! An outcome as it is sent: payload and headers, within the server's limit.

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{EmbedFailure, Format, Outcome, WireError, headers, inbox::NoInbox, trace::traceparent};

use crate::variant::result_too_large;

/// Beside headers and payload, the server counts nothing; this is for what it adds when it hands a stored message on.
const RESERVE: usize = 512;

/// An outcome as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    pub(super) payload: Bytes,
    pub(super) headers: HeaderMap,
    /// If it is a failure.
    pub(super) error: Option<WireError>,
}

impl Encoded {
    /// Encodes an outcome. One that does not fit into `max_payload` becomes an error that says so.
    pub(super) fn new(outcome: &Outcome, format: Format, trace: Option<&str>, max_payload: usize) -> Self {
        let error = match outcome {
            Outcome::Failure(failure) => Some(failure.error.clone()),
            Outcome::Result(_) => None,
        };
        let encoded = Self::with(outcome, format, trace, error);
        let size = encoded.payload.len() + header_bytes(&encoded.headers) + RESERVE;
        if size <= max_payload || encoded.error.is_some() {
            return encoded;
        }
        let too_large = result_too_large(encoded.payload.len(), max_payload);
        let failure = Outcome::Failure(EmbedFailure { id: outcome.id().cloned(), error: too_large.clone() });
        Self::with(&failure, format, trace, Some(too_large))
    }

    /// One that is stored, as it is sent once more: without what the server has added.
    pub(super) fn stored(message: &async_nats::Message) -> Self {
        let mut headers = HeaderMap::new();
        let ours = [
            headers::CONTENT_TYPE,
            headers::TRACEPARENT,
            headers::SERVICE_ERROR,
            headers::SERVICE_ERROR_CODE,
            headers::REQUEST_DIGEST,
        ];
        for name in ours {
            if let Some(value) = message.headers.as_ref().and_then(|all| all.get(name)) {
                headers.insert(name, value.as_str());
            }
        }
        Self { payload: message.payload.clone(), headers, error: None }
    }

    /// Says of which job it is, by the digest of its request.
    pub(super) fn of(self, digest: Option<&str>) -> Self {
        self.with_header(headers::REQUEST_DIGEST, digest)
    }

    /// Says why there is no copy of it, if one was wanted that may not be sent.
    pub(super) fn without_copy(self, why: Option<NoInbox>) -> Self {
        self.with_header(headers::COPY_REFUSED, why.map(|why| format!("Reply-To: {why}")).as_deref())
    }

    fn with_header(mut self, name: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.headers.insert(name, value);
        }
        self
    }

    fn with(outcome: &Outcome, format: Format, trace: Option<&str>, error: Option<WireError>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(headers::CONTENT_TYPE, format.content_type());
        // What is no trace context, whatever it is, goes nowhere.
        if let Some(trace) = trace.and_then(traceparent) {
            headers.insert(headers::TRACEPARENT, trace.as_str());
        }
        if let Some(error) = &error {
            headers.insert(headers::SERVICE_ERROR, header_text(&error.to_string()).as_str());
            headers.insert(headers::SERVICE_ERROR_CODE, error.code.status().to_string().as_str());
        }
        Self { payload: format.encode(outcome), headers, error }
    }
}

/// A header is one line, without anything that is not to be seen.
pub(super) fn header_text(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What headers take on the wire.
pub(super) fn header_bytes(headers: &HeaderMap) -> usize {
    // `NATS/1.0`, the empty line, and for each a colon, a space and the end of the line.
    let line = |name: &async_nats::HeaderName, value: &async_nats::HeaderValue| {
        AsRef::<str>::as_ref(name).len() + value.as_str().len() + 4
    };
    12 + headers.iter().flat_map(|(name, values)| values.iter().map(move |value| line(name, value))).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use embed_schemas::ErrorCode;

    use super::*;

    #[test]
    fn what_does_not_fit_becomes_an_error_that_does() {
        let id = "j".parse().unwrap();
        let error = WireError::new(ErrorCode::EngineFailed, "x");
        let failure = Outcome::Failure(EmbedFailure { id: Some(id), error });
        let fits = Encoded::new(&failure, Format::Json, None, 100_000);
        assert_eq!(fits.error.map(|error| error.code), Some(ErrorCode::EngineFailed));
    }

    #[test]
    fn only_a_trace_context_is_taken_along() {
        let error = WireError::new(ErrorCode::EngineFailed, "a\r\nPUB x 0\0b");
        let failure = Outcome::Failure(EmbedFailure { id: None, error });
        let with = |trace: &str| Encoded::new(&failure, Format::Json, Some(trace), 100_000).headers;
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(with(valid).get(headers::TRACEPARENT).unwrap().as_str(), valid);
        for other in ["x".repeat(65_480), "x".repeat(55), valid.to_uppercase(), format!("{valid}\0")] {
            assert!(with(&other).get(headers::TRACEPARENT).is_none(), "{other}");
        }
        let said = with(valid).get(headers::SERVICE_ERROR).unwrap().as_str().to_owned();
        assert_eq!(said, "engine_failed: a  PUB x 0 b");
    }
}
