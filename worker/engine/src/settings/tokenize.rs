//! How texts are tokenized.

use serde::{Deserialize, Serialize};

/// Tokenizing: how texts become token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeConfig {
    /// Threads, of each variant. 0: one for every four cores, at least one; one for each core if the model's tokenizer is left
    /// to the library, which is many times slower.
    pub threads: usize,
    /// Most bytes of one text. A longer one is an error of that text: it would be cut to a small part anyway.
    pub max_text_bytes: usize,
}

impl Default for TokenizeConfig {
    fn default() -> Self {
        Self { threads: 0, max_text_bytes: 256 * 1024 }
    }
}
