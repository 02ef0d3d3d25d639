//! Dead letters: jobs that cannot be served, kept whole, with the reason.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{Context, context::PublishError, message::PublishMessage},
};
use embed_schemas::{WireError, headers, streams, subjects};

use super::{Delivery, encoded::header_text};
use crate::serving::Variant;

/// A job whose dead letter could not be written is tried again after this.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(60);

/// Writes a dead letter and waits until it is stored: the payload as it came, and the reason in the headers.
pub(super) async fn write(
    jetstream: &Context,
    delivery: &Delivery,
    variant: &Variant,
    error: &WireError,
) -> Result<(), PublishError> {
    let mut letter = HeaderMap::new();
    for name in [headers::CONTENT_TYPE, headers::REPLY_TO, headers::TRACEPARENT] {
        if let Some(value) = delivery.header(name) {
            letter.insert(name, value);
        }
    }
    letter.insert(headers::DEAD_CODE, error.code.as_str());
    letter.insert(headers::DEAD_REASON, header_text(&error.message).as_str());
    letter.insert(headers::DEAD_SUBJECT, delivery.subject().as_str());
    letter.insert(headers::DEAD_SEQUENCE, delivery.sequence.to_string().as_str());
    letter.insert(headers::DEAD_DELIVERIES, delivery.deliveries.to_string().as_str());
    let message = PublishMessage::build()
        .payload(delivery.message.payload.clone())
        .headers(letter)
        // A job that is delivered again after its dead letter was written must not be buried twice.
        .message_id(format!("{}-{}", streams::jobs_stream(&variant.model), delivery.sequence))
        .expected_stream(streams::DEAD_STREAM);
    let subject = subjects::dead(&variant.model, &variant.name);
    jetstream.send_publish(subject, message).await?.await?;
    tracing::warn!(
        model = %variant.model,
        code = %error.code,
        reason = %error.message,
        sequence = delivery.sequence,
        "a job became a dead letter"
    );
    Ok(())
}
