//! An outcome as it is sent: payload and headers, within the server's limit.

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{EmbedFailure, Format, Lane, Outcome, WireError, headers};

use crate::serving::{Variant, result_too_large};

/// Room for headers: the server's limit is for headers and payload together.
const HEADER_BYTES: usize = 2048;

/// An outcome as it is sent.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) payload: Bytes,
    pub(super) headers: HeaderMap,
    /// If it is a failure.
    pub(super) error: Option<WireError>,
}

impl Encoded {
    /// Encodes an outcome. One that does not fit into `max_payload` becomes an error that says so.
    pub(super) fn new(
        variant: &Variant,
        lane: Lane,
        outcome: &Outcome,
        format: Format,
        trace: Option<&str>,
        max_payload: usize,
    ) -> Self {
        let mut payload = format.encode(outcome);
        let mut error = match outcome {
            Outcome::Failure(failure) => Some(failure.error.clone()),
            Outcome::Result(_) => None,
        };
        if payload.len() + HEADER_BYTES > max_payload && error.is_none() {
            let too_large = result_too_large(payload.len(), max_payload);
            variant.metrics.error(lane, too_large.code);
            let failure = EmbedFailure { id: outcome.id().cloned(), error: too_large.clone() };
            payload = format.encode(&Outcome::Failure(failure));
            error = Some(too_large);
        }
        let mut headers = HeaderMap::new();
        headers.insert(headers::CONTENT_TYPE, format.content_type());
        if let Some(trace) = trace {
            headers.insert(headers::TRACEPARENT, trace);
        }
        if let Some(error) = &error {
            headers.insert(headers::SERVICE_ERROR, header_text(&error.to_string()).as_str());
            headers.insert(headers::SERVICE_ERROR_CODE, error.code.status().to_string().as_str());
        }
        Self { payload, headers, error }
    }
}

/// A header is one line.
pub(super) fn header_text(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}
