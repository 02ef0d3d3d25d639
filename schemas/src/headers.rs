//! Message headers. Standing names where there are any; our own begin with `Embed-`.

/// Deduplicates publishes within the stream's window (JetStream). Set to the job's id.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The encoding of the payload, see [`crate::wire::Format`].
pub const CONTENT_TYPE: &str = "Content-Type";
/// On a call: whose it is, as a gateway tells workers that are to share by it (`limits.sender_header`).
pub const SENDER: &str = "Embed-Sender";
/// On a job: an inbox that gets a direct copy of the outcome, beside the stored one; see [`crate::inbox`].
pub const REPLY_TO: &str = "Reply-To";
/// On a job: the subject that its producer published it on, before a route sent it to a variant. Whoever sends a job once more uses it.
pub const SUBJECT: &str = "Embed-Subject";
/// On an outcome: [`crate::EmbedRequest::digest`] of the job, so that another with the same id is told from the same one.
pub const REQUEST_DIGEST: &str = "Embed-Request-Digest";
/// On an outcome whose job wanted a copy where no inbox is: why there is none. What the job named is not repeated.
pub const COPY_REFUSED: &str = "Embed-Copy-Refused";
/// W3C trace context, passed on from the job to its outcome if it is valid; see [`crate::trace`].
pub const TRACEPARENT: &str = "traceparent";
/// On an answer that is an error: its message (as NATS micro services do).
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// On an answer that is an error: its status, see [`crate::ErrorCode::status`].
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";

/// On a dead letter: the stable error code.
pub const DEAD_CODE: &str = "Embed-Dead-Code";
/// On a dead letter: what went wrong, for a person.
pub const DEAD_REASON: &str = "Embed-Dead-Reason";
/// On a dead letter: the id of the job, where it is known.
pub const DEAD_ID: &str = "Embed-Dead-Id";
/// On a dead letter: the worker that wrote it.
pub const DEAD_WORKER: &str = "Embed-Dead-Worker";
/// On a dead letter: the subject on which the job was stored.
pub const DEAD_SUBJECT: &str = "Embed-Dead-Subject";
/// On a dead letter: the job's sequence in its stream.
pub const DEAD_SEQUENCE: &str = "Embed-Dead-Sequence";
/// On a dead letter: how often the job had been delivered.
pub const DEAD_DELIVERIES: &str = "Embed-Dead-Deliveries";
/// On a dead letter: how often the job had been tried.
pub const DEAD_ATTEMPTS: &str = "Embed-Dead-Attempts";
/// On a dead letter whose payload is cut, since it would not fit with the reason: the bytes that the job had.
pub const DEAD_SIZE: &str = "Embed-Dead-Size";
/// On a dead letter whose payload is cut: the SHA-256 of the whole, as `SHA-256=<base64url>`, as NATS's object store writes it.
pub const DEAD_DIGEST: &str = "Embed-Dead-Digest";
