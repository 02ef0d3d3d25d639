//! Dead letters: jobs that cannot be served, kept with the reason, whole if that fits.

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{JobId, WireError, headers, request::sha256_header, streams};
use sha2::{Digest, Sha256};

use super::encoded::{header_bytes, header_text};
use crate::lease::Lease;

/// A header of the job that is carried over may have so many bytes.
const MAX_HEADER: usize = 512;

/// Room for what the server adds to a message.
const RESERVE: usize = 512;

/// What is known of a job that cannot be served.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Its id, where that can be read.
    pub(super) id: Option<&'a JobId>,
    pub(super) error: &'a WireError,
    /// How often it was tried.
    pub(super) attempts: u64,
    /// Which worker found out.
    pub(super) worker: &'a str,
}

/// A dead letter as it is stored: the payload as it came, and the reason in the headers. A payload that does not fit beside them is cut,
/// and its size and digest are said.
pub(super) fn letter(lease: &Lease, found: &Found<'_>, max_payload: usize) -> (HeaderMap, Bytes) {
    let Found { id, error, attempts, worker } = *found;
    let delivery = lease.delivery();
    let mut letter = HeaderMap::new();
    for name in [headers::CONTENT_TYPE, headers::REPLY_TO, headers::SUBJECT, headers::TRACEPARENT] {
        if let Some(value) = lease.header(name).filter(|value| value.len() <= MAX_HEADER) {
            letter.insert(name, value);
        }
    }
    letter.insert(headers::DEAD_CODE, error.code.as_str());
    letter.insert(headers::DEAD_REASON, header_text(&error.message).as_str());
    if let Some(id) = id {
        letter.insert(headers::DEAD_ID, id.as_str());
    }
    letter.insert(headers::DEAD_WORKER, worker);
    letter.insert(headers::DEAD_SUBJECT, lease.subject().as_str());
    letter.insert(headers::DEAD_SEQUENCE, delivery.sequence.to_string().as_str());
    letter.insert(headers::DEAD_DELIVERIES, delivery.deliveries.to_string().as_str());
    letter.insert(headers::DEAD_ATTEMPTS, attempts.to_string().as_str());
    // A job that is delivered again after its dead letter was written must not be buried twice. The time is part of it: a stream that was
    // made anew counts from one again.
    letter.insert(headers::MSG_ID, format!("{}-{}", delivery.stream, delivery.key()).as_str());
    letter.insert(EXPECTED_STREAM, streams::DEAD_STREAM);
    let payload = lease.payload();
    let room = max_payload.saturating_sub(header_bytes(&letter) + RESERVE);
    if payload.len() <= room {
        return (letter, payload.clone());
    }
    letter.insert(headers::DEAD_SIZE, payload.len().to_string().as_str());
    let digest = sha256_header(&Sha256::digest(payload));
    letter.insert(headers::DEAD_DIGEST, digest.as_str());
    let room = max_payload.saturating_sub(header_bytes(&letter) + RESERVE);
    (letter, payload.slice(..room.min(payload.len())))
}

/// The server refuses what another stream would store.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
