//! Dead letters: jobs that cannot be served, kept with the reason, whole if that fits.

use async_nats::HeaderMap;
use bytes::Bytes;
use embed_schemas::{Format, JobId, Slug, WireError, headers, request::sha256_header, subjects, trace::traceparent};
use sha2::{Digest, Sha256};

use super::encoded::{header_bytes, header_text};
use crate::lease::Lease;

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
    /// The job's model.
    pub(super) model: &'a Slug,
    /// Where the job wants a copy of its outcome, if that is an inbox.
    pub(super) reply_to: Option<&'a str>,
}

/// A dead letter as it is stored: the payload as it came, and the reason in the headers. A payload that does not fit beside them is cut,
/// and its size and digest are said. Of the job's headers, only what is understood is taken along, for whoever sends it once more.
pub(super) fn letter(lease: &Lease, found: &Found<'_>, max_payload: usize) -> (HeaderMap, Bytes) {
    let Found { id, error, attempts, worker, model, reply_to } = *found;
    let delivery = lease.delivery();
    let mut letter = HeaderMap::new();
    if let Some(format) = lease.header(headers::CONTENT_TYPE).and_then(Format::from_content_type) {
        letter.insert(headers::CONTENT_TYPE, format.content_type());
    }
    if let Some(reply_to) = reply_to {
        letter.insert(headers::REPLY_TO, reply_to);
    }
    if let Some(subject) = lease.header(headers::SUBJECT).filter(|subject| subjects::is_job_of(subject, model)) {
        letter.insert(headers::SUBJECT, subject);
    }
    if let Some(trace) = lease.header(headers::TRACEPARENT).and_then(traceparent) {
        letter.insert(headers::TRACEPARENT, trace.as_str());
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
