//! One text to token ids: prompt, limit, truncation.

use embed_schemas::{ErrorCode, ModelMetadata, WireError};
use tokenizers::Tokenizer;

/// Turns texts of one model into token ids. Shared by all threads.
#[derive(Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    max_tokens: usize,
    max_bytes: usize,
}

/// The tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether the text was cut.
    pub truncated: bool,
}

/// A tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer.json: {0}")]
pub struct TokenizeError(String);

impl TextTokenizer {
    /// Makes the tokenizer of a model from its `tokenizer.json`.
    ///
    /// `max_bytes` bounds a single text.
    ///
    /// # Errors
    /// If the file is not a tokenizer that this version of `tokenizers` can read.
    pub fn new(json: &[u8], metadata: &ModelMetadata, max_bytes: usize) -> Result<Self, TokenizeError> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| TokenizeError(e.to_string()))?;
        // Truncation is done here, so that a result can say that it happened; padding is the batch's business.
        tokenizer.with_truncation(None).map_err(|e| TokenizeError(e.to_string()))?;
        tokenizer.with_padding(None);
        Ok(Self { tokenizer, max_tokens: metadata.max_seq_length as usize, max_bytes })
    }

    /// The ids of `prompt` followed by `text`.
    ///
    /// # Errors
    /// [`ErrorCode::TextTooLarge`]; [`ErrorCode::TextTooLong`] if `truncate` is false and the text has to be cut.
    pub fn encode(&self, prompt: Option<&str>, text: &str, truncate: bool) -> Result<Tokens, WireError> {
        if text.len() > self.max_bytes {
            return Err(WireError::new(
                ErrorCode::TextTooLarge,
                format!(
                    "the text has {} bytes, at most {} are taken; cut it: the model reads only its first {} tokens",
                    text.len(),
                    self.max_bytes,
                    self.max_tokens
                ),
            ));
        }
        let joined;
        let input = match prompt {
            Some(prompt) => {
                joined = [prompt, text].concat();
                joined.as_str()
            }
            None => text,
        };
        let encoding = self
            .tokenizer
            .encode_fast(input, true)
            .map_err(|e| WireError::new(ErrorCode::EngineFailed, format!("the text could not be tokenized: {e}")))?;
        let mut ids = encoding.get_ids().to_vec();
        let truncated = ids.len() > self.max_tokens;
        if truncated {
            if !truncate {
                return Err(WireError::new(
                    ErrorCode::TextTooLong,
                    format!(
                        "the text has {} tokens, the model takes {}; shorten it, or leave out `truncate: false`",
                        ids.len(),
                        self.max_tokens
                    ),
                ));
            }
            // As the reference does: the first tokens, and the closing special token.
            let closing = ids[ids.len() - 1];
            ids.truncate(self.max_tokens);
            if let Some(last) = ids.last_mut() {
                *last = closing;
            }
        }
        Ok(Tokens { ids, truncated })
    }
}
