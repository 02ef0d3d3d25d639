//! How much a request is, before it has been tokenized. Pure.

use embed_schemas::EmbedRequest;

/// Bytes that are taken for a token: what tokenizers make of prose. Texts that are made to have more of them cost their sender its own share
/// of the engines, which goes by what they really are.
const BYTES_PER_TOKEN: usize = 4;
/// Tokens that a model puts round a text.
const SPECIAL_TOKENS: usize = 2;
/// The least that a text takes of the room, in tokens: what is kept of it beside them.
pub(super) const LEAST_ROOM: usize = 64;
/// What a text costs beside its tokens, in tokens: its share of what every run costs.
const BESIDE_TOKENS: usize = 8;

/// How much something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Texts.
    pub texts: usize,
    /// Their tokens, as far as can be told.
    pub tokens: usize,
    /// Bytes of the message.
    pub bytes: usize,
}

impl Size {
    /// What a request of so many bytes is to a model that takes so many tokens of a text.
    #[must_use]
    pub fn of(request: &EmbedRequest, longest: usize, bytes: usize) -> Self {
        let tokens = |text: &String| (text.len().div_ceil(BYTES_PER_TOKEN) + SPECIAL_TOKENS).min(longest);
        Self { texts: request.texts.len(), tokens: request.texts.iter().map(tokens).sum(), bytes }
    }

    /// What it takes of a room, in tokens.
    #[must_use]
    pub fn room(&self) -> usize {
        self.tokens.max(self.texts * LEAST_ROOM)
    }

    /// What it is to the engines, in tokens.
    pub(super) const fn work(&self) -> usize {
        self.tokens + self.texts * BESIDE_TOKENS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_count_by_their_length_and_not_beyond_what_the_model_takes() {
        let size = |texts: Vec<String>| Size::of(&EmbedRequest::new(texts), 256, 100);
        let short = size(vec!["hello".to_owned(); 256]);
        assert_eq!((short.tokens, short.room()), (256 * 4, 256 * 64));
        let long = size(vec!["x".repeat(273); 256]);
        assert_eq!((long.tokens, long.room()), (256 * 71, 256 * 71));
        let longest = size(vec!["x".repeat(100_000); 256]);
        assert_eq!(longest.room(), 256 * 256);
        assert!(short.work() < long.work());
    }
}
