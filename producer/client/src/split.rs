//! Cutting many texts into messages that the server takes. Pure.

use std::ops::Range;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use embed_schemas::{EmbedRequest, Format, WireError};

use crate::Error;

/// Room for headers: content type, message id, reply subject, trace context.
const HEADER_BYTES: usize = 1024;

/// What one message may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageBudget {
    /// Texts.
    pub texts: usize,
    /// Bytes of all texts as encoded, see [`text_bytes`].
    pub bytes: usize,
    /// The server's `max_payload`, for messages to people.
    pub max_payload: usize,
}

impl MessageBudget {
    /// The budget for texts that are sent with the other fields of `request`.
    #[must_use]
    pub fn new(max_payload: usize, texts: usize, request: &EmbedRequest) -> Self {
        let fixed = HEADER_BYTES + Format::MessagePack.encode(&without_texts(request)).len();
        Self { texts, bytes: max_payload.saturating_sub(fixed), max_payload }
    }
}

impl MessageBudget {
    /// The same beside more headers, which count like the payload.
    #[must_use]
    pub(crate) fn beside(self, headers: &HeaderMap) -> Self {
        let of = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
            // Colon, space and line end.
            let name: &str = name.as_ref();
            values.iter().map(|value| name.len() + value.as_str().len() + 4).sum::<usize>()
        };
        let more: usize = headers.iter().map(of).sum();
        Self { bytes: self.bytes.saturating_sub(more), ..self }
    }
}

/// The other fields of a request.
pub(crate) fn without_texts(request: &EmbedRequest) -> EmbedRequest {
    EmbedRequest {
        id: request.id.clone(),
        texts: Vec::new(),
        prompt: request.prompt.clone(),
        truncate: request.truncate,
        encoding: request.encoding,
        dimensions: request.dimensions,
        deadline_ms: request.deadline_ms,
    }
}

/// Bytes that a text takes in a MessagePack message, at most.
#[must_use]
pub const fn text_bytes(text: &str) -> usize {
    text.len() + 5
}

/// Ranges of texts, in order and without gaps, each of which fits.
///
/// # Errors
/// [`Error::PayloadTooLarge`] for a text that does not fit even alone.
pub(crate) fn split(texts: &[String], budget: MessageBudget) -> Result<Vec<Range<usize>>, Error> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let size = text_bytes(text);
        if size > budget.bytes {
            return Err(Error::PayloadTooLarge { index, bytes: text.len(), limit: budget.max_payload });
        }
        if index > start && (index - start == budget.texts || bytes + size > budget.bytes) {
            ranges.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < texts.len() {
        ranges.push(start..texts.len());
    }
    Ok(ranges)
}

/// Checks a request as if it were one message, except for the number of its texts.
pub(crate) fn check(request: &EmbedRequest) -> Result<(), WireError> {
    let first = request.texts.iter().take(1).cloned().collect();
    EmbedRequest { texts: first, ..without_texts(request) }.validate(Format::MessagePack)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_that_cannot_fit_is_named() {
        let budget = MessageBudget { texts: 64, bytes: 20, max_payload: 30 };
        let error = split(&["short".into(), "x".repeat(21)], budget).unwrap_err();
        assert!(matches!(error, Error::PayloadTooLarge { index: 1, bytes: 21, limit: 30 }), "{error}");
    }

    proptest! {
        #[test]
        fn every_part_fits_and_none_is_lost(
            texts in prop::collection::vec("\\PC{0,40}", 0..60),
            most in 1usize..10,
            bytes in 200usize..400,
        ) {
            let budget = MessageBudget { texts: most, bytes, max_payload: bytes };
            let parts = split(&texts, budget).unwrap();
            prop_assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..texts.len()).collect::<Vec<_>>());
            for part in parts {
                prop_assert!(!part.is_empty() && part.len() <= most);
                prop_assert!(texts[part].iter().map(|t| text_bytes(t)).sum::<usize>() <= bytes);
            }
        }

        #[test]
        fn the_budget_covers_the_encoding(texts in prop::collection::vec("\\PC{0,40}", 1..60), limit in 3000usize..6000) {
            let request = EmbedRequest { prompt: Some("query".into()), ..EmbedRequest::new(texts.clone()) };
            for part in split(&texts, MessageBudget::new(limit, 64, &request)).unwrap() {
                let request = EmbedRequest { texts: texts[part].to_vec(), ..request.clone() };
                prop_assert!(Format::MessagePack.encode(&request).len() + HEADER_BYTES <= limit + 8);
            }
        }
    }
}
